// model.onnx of a bundle on ONNX Runtime, float arrays in and out without a copy.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "device.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::text;

// The first line of what the runtime says.
std::string reason(const std::exception &e) {
    const std::string what = e.what();
    return what.substr(0, what.find('\n'));
}

// Throws BackendError if the library that was loaded is older than the headers this was built with.
void initialise() {
    static const OrtApi *const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!api) {
        throw BackendError(text("ONNX Runtime ", OrtGetApiBase()->GetVersionString(), " is too old; expected 1.",
                                ORT_API_VERSION, " or newer"));
    }
    Ort::InitApi(api);
}

std::string device_name(const EngineOptions &options) { return options.device.empty() ? "cpu" : options.device; }

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
    if (options.threads < 0) {
        throw InputError(text("threads: got ", options.threads, ", expected 0 or more"));
    }
    if (options.threads > 0) {
        session.SetIntraOpNumThreads(options.threads);
    }
    if (const std::optional<int> index = detail::cuda_index(device_name(options))) {
        session.AppendExecutionProvider_CUDA_V2(CudaOptions(std::to_string(*index), tf32).get());
    }
    return session;
}

struct Port {
    std::string name;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> sample; // expected sizes behind the batch axis
};

class OnnxRuntime final : public Engine {
  public:
    OnnxRuntime(const std::string &path, ModelInfo info, const EngineOptions &options)
        : info_(std::move(info)), env_(ORT_LOGGING_LEVEL_FATAL, "ncdeploy"),
          session_(env_, std::filesystem::path(path).c_str(), session_options(options, info_.precision == "tf32")),
          memory_(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault)), device_(device_name(options)) {
        inputs_ = {{"x", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, info_.shape},
                   {"sigma", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {}}};
        if (info_.num_classes) {
            inputs_.push_back({"labels", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, {}});
        }
        if (info_.guidance) {
            inputs_.push_back({"guidance", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {}});
        }
        check(path, "inputs", inputs_, false);
        check(path, "outputs", {{"denoised", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, info_.shape}}, true);
    }

    const ModelInfo &info() const override { return info_; }

    std::string name() const override {
        return text("onnxruntime ", OrtGetApiBase()->GetVersionString(), " (", device_, ")");
    }

    void denoise(const Batch &batch) override {
        const auto rows = static_cast<std::int64_t>(batch.rows);
        std::vector<std::int64_t> sizes{rows};
        sizes.insert(sizes.end(), info_.shape.begin(), info_.shape.end());
        const std::size_t values = batch.rows * info_.dim();
        // Inputs are not written to; the API has no const form.
        std::vector<Ort::Value> inputs;
        inputs.push_back(tensor(const_cast<float *>(batch.x), values, sizes));
        inputs.push_back(tensor(const_cast<float *>(batch.sigma), batch.rows, {rows}));
        if (info_.num_classes) {
            inputs.push_back(tensor(const_cast<std::int64_t *>(batch.labels), batch.rows, {rows}));
        }
        if (info_.guidance) {
            inputs.push_back(tensor(const_cast<float *>(batch.guidance), batch.rows, {rows}));
        }
        Ort::Value output = tensor(batch.denoised, values, sizes);
        const std::array<const char *, 4> names{"x", "sigma", info_.num_classes ? "labels" : "guidance", "guidance"};
        const std::array<const char *, 1> outputs{"denoised"};
        try {
            session_.Run(Ort::RunOptions{nullptr}, names.data(), inputs.data(), inputs.size(), outputs.data(), &output,
                         1);
        } catch (const Ort::Exception &e) {
            throw BackendError(text(name(), " failed on a batch of ", rows, ": ", reason(e)));
        }
    }

  private:
    template <class T> Ort::Value tensor(T *data, std::size_t count, const std::vector<std::int64_t> &sizes) const {
        return Ort::Value::CreateTensor<T>(memory_, data, count, sizes.data(), sizes.size());
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
        if (tensor.GetElementType() != port.type || shape.size() != port.sample.size() + 1 || shape[0] != -1) {
            return false;
        }
        return std::equal(port.sample.begin(), port.sample.end(), shape.begin() + 1,
                          [](std::int64_t want, std::int64_t have) { return have == want || have == -1; });
    }

    ModelInfo info_;
    Ort::Env env_;
    Ort::Session session_;
    Ort::MemoryInfo memory_;
    std::string device_;
    std::vector<Port> inputs_;
};

} // namespace

std::unique_ptr<Engine> open_onnxruntime(const Bundle &bundle, const EngineOptions &options) {
    const std::string path = bundle.engine();
    if (path.size() < 5 || path.compare(path.size() - 5, 5, ".onnx") != 0) {
        throw InputError(path + ": ONNX Runtime runs model.onnx; open this engine with open_tensorrt");
    }
    initialise();
    try {
        return std::make_unique<OnnxRuntime>(path, bundle.info(), options);
    } catch (const Ort::Exception &e) {
        throw BackendError(path + ": ONNX Runtime cannot load it: " + reason(e));
    }
}

} // namespace ncdeploy
