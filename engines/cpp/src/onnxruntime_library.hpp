// ONNX Runtime's library, loaded when it is needed: one program runs with every version from the oldest supported on.
#pragma once

#include <string>

struct OrtApi;

namespace ncdeploy::detail {

struct OnnxRuntimeLibrary {
    const OrtApi *api = nullptr;
    std::string version, file;
};

// The library, the same one for the whole process. file: "" takes what the program holds already, or what the system's
// loader finds. Throws BackendError when there is none or it is too old, InputError for another than is loaded.
const OnnxRuntimeLibrary &onnxruntime_library(const std::string &file);

} // namespace ncdeploy::detail
