// model.onnx of a bundle on ONNX Runtime, float arrays in and out without a copy.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <unordered_map>

#include "device.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "onnxruntime_library.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::text;

// The first line of what the runtime says.
std::string reason(const std::exception &e) {
    const std::string what = e.what();
    return what.substr(0, what.find('\n'));
}

// The library's version, after its functions were given to the C++ wrapper, which holds them for the whole process.
const std::string &initialise(const std::string &file) {
    const detail::OnnxRuntimeLibrary &library = detail::onnxruntime_library(file);
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

Ort::SessionOptions session_options(const EngineOptions &options, bool tf32) {
    Ort::SessionOptions session;
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
    } else if (const std::optional<int> index = detail::cuda_index(device_name(options))) {
        session.AppendExecutionProvider_CUDA_V2(CudaOptions(std::to_string(*index), tf32).get());
    }
    return session;
}

struct Port {
    std::string name;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> shape; // expected: first the batch axis, -1, or the samples
};

ONNXTensorElementDataType element_type(DType dtype) {
    return dtype == DType::float32 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

std::vector<std::int64_t> behind(std::int64_t count, const std::vector<std::int64_t> &shape) {
    std::vector<std::int64_t> sizes{count};
    sizes.insert(sizes.end(), shape.begin(), shape.end());
    return sizes;
}

class OnnxRuntime final : public Engine {
  public:
    OnnxRuntime(const std::string &path, ModelInfo info, const EngineOptions &options, const std::string &version)
        : info_(std::move(info)), name_(text("onnxruntime ", version, " (", device_name(options), ")")),
          env_(environment(options)),
          session_(env_, std::filesystem::path(path).c_str(), session_options(options, info_.precision == "tf32")),
          memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)) {
        const Port output{"denoised", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, behind(-1, info_.shape)};
        inputs_ = {{"x", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, output.shape},
                   {"sigma", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {-1}}};
        for (const Condition &condition : info_.conditions) {
            inputs_.push_back({condition.name, element_type(condition.dtype), behind(-1, condition.shape)});
        }
        if (!info_.conditions.empty()) {
            inputs_.push_back({"sample", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {-1}});
        }
        if (info_.num_classes) {
            inputs_.push_back({"labels", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {-1}});
        }
        if (info_.guidance) {
            inputs_.push_back({"guidance", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {-1}});
        }
        check(path, "inputs", inputs_, false);
        check(path, "outputs", {output}, true);
        for (const Port &port : inputs_) {
            names_.push_back(port.name.c_str());
        }
    }

    const ModelInfo &info() const override { return info_; }

    std::string name() const override { return name_; }

    void denoise(const Batch &batch) override {
        values_.clear();
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
            const bool condition = i >= 2 && i < 2 + info_.conditions.size();
            values_.push_back(tensor(inputs_[i], condition ? batch.samples : batch.rows,
                                     condition ? batch.conditions[i - 2].values : source(batch, inputs_[i].name)));
        }
        Ort::Value output = tensor(inputs_[0], batch.rows, batch.denoised);
        const std::array<const char *, 1> outputs{"denoised"};
        try {
            session_.Run(Ort::RunOptions{nullptr}, names_.data(), values_.data(), values_.size(), outputs.data(),
                         &output, 1);
        } catch (const Ort::Exception &e) {
            throw BackendError(text(name_, " failed on a batch of ", batch.rows, ": ", reason(e)));
        }
    }

  private:
    static const void *source(const Batch &batch, const std::string &name) {
        if (name == "sample" || name == "labels") {
            return name == "sample" ? batch.sample : batch.labels;
        }
        return name == "x" ? batch.x : name == "sigma" ? batch.sigma : batch.guidance;
    }

    // A view of so many rows. Inputs are not written to; the API has no const form.
    Ort::Value tensor(Port &port, std::size_t count, const void *data) {
        port.shape[0] = static_cast<std::int64_t>(count);
        std::size_t bytes = port.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? sizeof(float) : sizeof(std::int64_t);
        for (const std::int64_t size : port.shape) {
            bytes *= static_cast<std::size_t>(size);
        }
        return Ort::Value::CreateTensor(memory_, const_cast<void *>(data), bytes, port.shape.data(), port.shape.size(),
                                        port.type);
    }

    // Throws FileError unless the graph has exactly these ports, each with a dynamic batch.
    void check(const std::string &path, const char *kind, const std::vector<Port> &wanted, bool outputs) const {
        const std::size_t count = outputs ? session_.GetOutputCount() : session_.GetInputCount();
        std::string found, expected;
        std::size_t matched = 0;
        for (const Port &port : wanted) {
            expected += (expected.empty() ? "" : ", ") + port.name;
        }
        Ort::AllocatorWithDefaultOptions allocator;
        for (std::size_t i = 0; i < count; ++i) {
            const auto held =
                outputs ? session_.GetOutputNameAllocated(i, allocator) : session_.GetInputNameAllocated(i, allocator);
            const std::string name = held.get();
            found += (found.empty() ? "" : ", ") + name;
            const auto port = std::find_if(wanted.begin(), wanted.end(), [&](const Port &p) { return p.name == name; });
            if (port == wanted.end()) {
                continue;
            }
            ++matched;
            const Ort::TypeInfo type = outputs ? session_.GetOutputTypeInfo(i) : session_.GetInputTypeInfo(i);
            if (type.GetONNXType() != ONNX_TYPE_TENSOR || !fits(type.GetTensorTypeAndShapeInfo(), *port)) {
                throw FileError(path + ": " + name +
                                " has another type or shape than the manifest says, or no dynamic batch");
            }
        }
        if (matched != wanted.size() || count != wanted.size()) {
            throw FileError(path + ": the graph's " + kind + " are " + found + "; expected " + expected);
        }
    }

    static bool fits(const Ort::ConstTensorTypeAndShapeInfo &tensor, const Port &port) {
        const std::vector<std::int64_t> shape = tensor.GetShape();
        return tensor.GetElementType() == port.type && !shape.empty() && shape[0] == -1 &&
               std::equal(port.shape.begin(), port.shape.end(), shape.begin(), shape.end(),
                          [](std::int64_t want, std::int64_t have) { return have == want || have == -1; });
    }

    ModelInfo info_;
    std::string name_;
    Ort::Env env_;
    Ort::Session session_;
    Ort::MemoryInfo memory_;
    std::vector<Port> inputs_; // x, sigma, the conditions, and the others that the model takes
    std::vector<const char *> names_;
    std::vector<Ort::Value> values_;
};

} // namespace

std::unique_ptr<Engine> open_onnxruntime(const Bundle &bundle, const EngineOptions &options) {
    const std::string path = bundle.engine();
    if (path.size() < 5 || path.compare(path.size() - 5, 5, ".onnx") != 0) {
        throw InputError(path + ": ONNX Runtime runs model.onnx; open this engine with open_tensorrt");
    }
    if (options.threads < 0) {
        throw InputError(text("threads: got ", options.threads, ", expected 0 or more"));
    }
    const std::string &version = initialise(options.library);
    try {
        return std::make_unique<OnnxRuntime>(path, bundle.info(), options, version);
    } catch (const Ort::Exception &e) {
        throw BackendError(path + ": ONNX Runtime cannot load it: " + reason(e));
    }
}

} // namespace ncdeploy
