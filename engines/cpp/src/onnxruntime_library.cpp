#include "onnxruntime_library.hpp"

#define ORT_API_MANUAL_INIT
#include <onnxruntime_c_api.h>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy::detail {
namespace {

constexpr std::uint32_t oldest = 21; // interface 21 is that of ONNX Runtime 1.21, which every later one has too
static_assert(ORT_API_VERSION >= oldest, "the headers of ONNX Runtime are too old: expected 1.21 or newer");

using GetApiBase = const OrtApiBase *(ORT_API_CALL *)();

#if defined(_WIN32)

constexpr const char *names[] = {"onnxruntime.dll"};

void *open(const std::string &file, std::string &reason) {
    HMODULE library = LoadLibraryW(std::filesystem::u8path(file).c_str());
    reason = library ? "" : text("error ", GetLastError());
    return library;
}

GetApiBase find(void *library) {
    HMODULE module = library ? static_cast<HMODULE>(library) : GetModuleHandleW(L"onnxruntime.dll");
    return module ? reinterpret_cast<GetApiBase>(GetProcAddress(module, "OrtGetApiBase")) : nullptr;
}

#else

#if defined(__APPLE__)
constexpr const char *names[] = {"libonnxruntime.dylib", "libonnxruntime.1.dylib"};
#else
constexpr const char *names[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
#endif

void *open(const std::string &file, std::string &reason) {
    // 1.29 and later leave a device id and a queue of events under the user's cache, and send them, unless told not to.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    void *library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    reason = library ? "" : dlerror();
    return library;
}

GetApiBase find(void *library) {
    return reinterpret_cast<GetApiBase>(dlsym(library ? library : RTLD_DEFAULT, "OrtGetApiBase"));
}

#endif

OnnxRuntimeLibrary library_of(GetApiBase get, const std::string &name, const std::string &file) {
    const OrtApi *api = get()->GetApi(oldest);
    const std::string version = get()->GetVersionString();
    if (!api) {
        throw BackendError(
            text(name, ": is ONNX Runtime ", version, ", which is too old; expected 1.", oldest, " or newer"));
    }
    return {api, version, file};
}

OnnxRuntimeLibrary load(const std::string &file) {
    if (const GetApiBase held = file.empty() ? find(nullptr) : nullptr) {
        return library_of(held, "the library that this program holds", file);
    }
    std::string reason, first;
    for (const std::string &name :
         file.empty() ? std::vector<std::string>(std::begin(names), std::end(names)) : std::vector<std::string>{file}) {
        if (void *library = open(name, reason)) {
            const GetApiBase get = find(library);
            if (!get) {
                throw BackendError(name + ": is not ONNX Runtime's library, it has no OrtGetApiBase");
            }
            return library_of(get, name, file);
        }
        first = first.empty() ? reason : first;
    }
    throw BackendError(text("ONNX Runtime's library cannot be loaded (", first,
                            "); put it where the system looks, or give its file as the option library"));
}

} // namespace

// What was loaded first stays: two of them in one process would not know of each other's threads and memory.
const OnnxRuntimeLibrary &onnxruntime_library(const std::string &file) {
    static std::mutex mutex;
    static OnnxRuntimeLibrary loaded;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!loaded.api) {
        loaded = load(file);
    } else if (!file.empty() && file != loaded.file) {
        throw InputError(text("library: got ", file, "; this program already runs ONNX Runtime from ",
                              loaded.file.empty() ? "where the system found it" : loaded.file));
    }
    return loaded;
}

} // namespace ncdeploy::detail
