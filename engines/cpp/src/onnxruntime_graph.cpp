#include "onnxruntime_graph.hpp"

#include <algorithm>
#include <array>
#include <filesystem>

#include "device.hpp"
#include "onnxruntime_library.hpp"
#include "text.hpp"

namespace ncdeploy::detail {
namespace {

// The first line of what the runtime says.
std::string reason(const std::exception &e) {
    const std::string what = e.what();
    return what.substr(0, what.find('\n'));
}

// The library's version, after its functions were given to the C++ wrapper, which holds them for the whole process.
const std::string &initialise(const std::string &file) {
    const OnnxRuntimeLibrary &library = onnxruntime_library(file);
    static const bool once = (Ort::InitApi(library.api), true);
    (void)once;
    return library.version;
}

std::string device_name(const EngineOptions &options) {
    if (!options.provider.empty() && !options.device.empty()) {
        throw InputError("provider: got " + options.provider + " and device " + options.device + "; give one of them");
    }
    return !options.provider.empty() ? options.provider : options.device.empty() ? "cpu" : options.device;
}

// ONNX Runtime keeps one environment for the whole process, whoever makes it first.
Ort::Env environment(const EngineOptions &options) {
    if (!options.shared_threads) {
        return {ORT_LOGGING_LEVEL_FATAL, "ncdeploy"};
    }
    Ort::ThreadingOptions threading;
    threading.SetGlobalIntraOpNumThreads(options.threads);
    threading.SetGlobalSpinControl(options.spinning);
    return {threading, ORT_LOGGING_LEVEL_FATAL, "ncdeploy"};
}

// The options of the CUDA provider, freed at the end of the scope.
class CudaOptions {
  public:
    CudaOptions(const std::string &device, bool tf32) {
        const std::array<const char *, 2> keys{"device_id", "use_tf32"};
        const std::array<const char *, 2> values{device.c_str(), tf32 ? "1" : "0"};
        Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&options_));
        const std::unique_ptr<OrtStatus, void (*)(OrtStatus *)> status(
            Ort::GetApi().UpdateCUDAProviderOptions(options_, keys.data(), values.data(), keys.size()),
            Ort::GetApi().ReleaseStatus);
        if (status) {
            Ort::GetApi().ReleaseCUDAProviderOptions(options_);
            throw Ort::Exception(Ort::GetApi().GetErrorMessage(status.get()), ORT_FAIL);
        }
    }
    CudaOptions(const CudaOptions &) = delete;
    CudaOptions &operator=(const CudaOptions &) = delete;
    ~CudaOptions() { Ort::GetApi().ReleaseCUDAProviderOptions(options_); }

    const OrtCUDAProviderOptionsV2 &get() const { return *options_; }

  private:
    OrtCUDAProviderOptionsV2 *options_ = nullptr;
};

Ort::SessionOptions session_options(const GraphFile &file, const EngineOptions &options, bool tf32) {
    Ort::SessionOptions session;
    if (!file.others.empty()) {
        std::vector<std::basic_string<ORTCHAR_T>> names;
        std::vector<char *> bytes;
        std::vector<std::size_t> sizes;
        for (const auto &[name, view] : file.others) {
            names.push_back(std::filesystem::path(name).native());
            bytes.push_back(const_cast<char *>(view.data())); // not written to; the API has no const form
            sizes.push_back(view.size());
        }
        session.AddExternalInitializersFromFilesInMemory(names, bytes, sizes);
    }
    session.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL); // every failure is thrown; the log would repeat it
    if (options.shared_threads) {
        session.DisablePerSessionThreads();
    } else {
        session.SetIntraOpNumThreads(options.threads);
        session.AddConfigEntry("session.intra_op.allow_spinning", options.spinning ? "1" : "0");
    }
    if (!options.arena) {
        session.DisableCpuMemArena();
    }
    if (!options.provider.empty()) {
        session.AppendExecutionProvider(options.provider,
                                        {options.provider_options.begin(), options.provider_options.end()});
    } else if (const std::optional<int> index = cuda_index(device_name(options))) {
        session.AppendExecutionProvider_CUDA_V2(CudaOptions(std::to_string(*index), tf32).get());
    }
    return session;
}

ONNXTensorElementDataType element_type(DType dtype) {
    return dtype == DType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

bool fits(const Ort::ConstTensorTypeAndShapeInfo &tensor, ONNXTensorElementDataType type,
          const std::vector<std::int64_t> &wanted) {
    const std::vector<std::int64_t> shape = tensor.GetShape();
    return tensor.GetElementType() == type && !shape.empty() && shape[0] == -1 &&
           std::equal(wanted.begin(), wanted.end(), shape.begin(), shape.end(),
                      [](std::int64_t want, std::int64_t have) { return have == want || have == -1; });
}

Ort::Session session(const Ort::Env &env, const GraphFile &file, const Ort::SessionOptions &options) {
    return file.bytes.empty() ? Ort::Session(env, std::filesystem::path(file.path).c_str(), options)
                              : Ort::Session(env, file.bytes.data(), file.bytes.size(), options);
}

} // namespace

GraphFile::GraphFile(const Bundle &bundle, const std::string &name)
    : path(bundle.file(name)), bytes(bundle.memory(name)) {
    for (const std::string &other : bundle.files()) {
        const std::string end = other.size() > 5 ? other.substr(other.size() - 5) : "";
        if (!bytes.empty() && (end == ".data" || end.substr(1) == ".bin")) {
            others.emplace(other, bundle.memory(other));
        }
    }
}

OnnxGraph::OnnxGraph(const GraphFile &file, std::vector<Port> inputs, std::vector<Port> outputs,
                     const EngineOptions &options, bool tf32) try
    : name_(text("onnxruntime ", initialise(options.library), " (", device_name(options), ")")),
      env_(environment(options)), session_(session(env_, file, session_options(file, options, tf32))),
      memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)), inputs_(bound(inputs)),
      outputs_(bound(outputs)) {
    check(file.path, "inputs", inputs_, false);
    check(file.path, "outputs", outputs_, true);
    for (const Bound &port : inputs_) {
        input_names_.push_back(port.name.c_str());
    }
    for (const Bound &port : outputs_) {
        output_names_.push_back(port.name.c_str());
    }
} catch (const Ort::Exception &e) {
    throw BackendError(file.path + ": ONNX Runtime cannot load it: " + reason(e));
}

void OnnxGraph::run(const std::vector<View> &inputs, const std::vector<View> &outputs) {
    fill(in_, inputs_, inputs);
    fill(out_, outputs_, outputs);
    try {
        session_.Run(Ort::RunOptions{nullptr}, input_names_.data(), in_.data(), in_.size(), output_names_.data(),
                     out_.data(), out_.size());
    } catch (const Ort::Exception &e) {
        throw BackendError(text(name_, " failed on a batch of ", inputs.front().count, ": ", reason(e)));
    }
}

std::vector<OnnxGraph::Bound> OnnxGraph::bound(const std::vector<Port> &ports) {
    std::vector<Bound> all;
    for (const Port &port : ports) {
        all.push_back({port.name, element_type(port.dtype), {-1}});
        all.back().shape.insert(all.back().shape.end(), port.shape.begin(), port.shape.end());
    }
    return all;
}

// Views of the arrays as tensors. Inputs are not written to; the API has no const form.
void OnnxGraph::fill(std::vector<Ort::Value> &values, std::vector<Bound> &ports, const std::vector<View> &views) {
    values.clear();
    for (std::size_t i = 0; i < ports.size(); ++i) {
        Bound &port = ports[i];
        port.shape[0] = static_cast<std::int64_t>(views[i].count);
        std::size_t bytes = port.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? sizeof(float) : sizeof(std::int64_t);
        for (const std::int64_t size : port.shape) {
            bytes *= static_cast<std::size_t>(size);
        }
        values.push_back(Ort::Value::CreateTensor(memory_, const_cast<void *>(views[i].data), bytes, port.shape.data(),
                                                  port.shape.size(), port.type));
    }
}

// Throws FileError unless the graph has exactly these ports, each with a dynamic batch.
void OnnxGraph::check(const std::string &path, const char *kind, const std::vector<Bound> &wanted, bool outputs) const {
    const std::size_t count = outputs ? session_.GetOutputCount() : session_.GetInputCount();
    std::string found, expected;
    std::size_t matched = 0;
    for (const Bound &port : wanted) {
        expected += (expected.empty() ? "" : ", ") + port.name;
    }
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < count; ++i) {
        const auto held =
            outputs ? session_.GetOutputNameAllocated(i, allocator) : session_.GetInputNameAllocated(i, allocator);
        const std::string name = held.get();
        found += (found.empty() ? "" : ", ") + name;
        const auto port = std::find_if(wanted.begin(), wanted.end(), [&](const Bound &p) { return p.name == name; });
        if (port == wanted.end()) {
            continue;
        }
        ++matched;
        const Ort::TypeInfo type = outputs ? session_.GetOutputTypeInfo(i) : session_.GetInputTypeInfo(i);
        if (type.GetONNXType() != ONNX_TYPE_TENSOR ||
            !fits(type.GetTensorTypeAndShapeInfo(), port->type, port->shape)) {
            throw FileError(path + ": " + name +
                            " has another type or shape than the manifest says, or no dynamic batch");
        }
    }
    if (matched != wanted.size() || count != wanted.size()) {
        throw FileError(path + ": the graph's " + kind + " are " + found + "; expected " + expected);
    }
}

} // namespace ncdeploy::detail
