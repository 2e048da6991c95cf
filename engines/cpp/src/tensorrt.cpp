// model.plan of a bundle on TensorRT 10.12 to 11: one execution context a profile, on a stream of its own. With
// NCDEPLOY_TENSORRT_RTX on TensorRT for RTX, whose interface is the same.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "device.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "sidecar.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::text;
using nvinfer1::DataType;

#ifdef NCDEPLOY_TENSORRT_RTX
constexpr bool rtx = true;
constexpr const char *runtime_name = "TensorRT for RTX", *short_name = "tensorrt-rtx";
#else
constexpr bool rtx = false;
constexpr const char *runtime_name = "TensorRT", *short_name = "tensorrt";
#endif

void check(cudaError_t status, const std::string &what) {
    if (status != cudaSuccess) {
        throw BackendError(what + ": " + cudaGetErrorString(status));
    }
}

// TensorRT reports why something failed to its logger alone; the last such line becomes part of the exception.
class Logger final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char *message) noexcept override {
        if (severity <= Severity::kERROR) {
            const std::lock_guard<std::mutex> lock(mutex_);
            last_ = message;
            last_ = last_.substr(0, last_.find('\n'));
        }
    }
    std::string reason() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return last_.empty() ? "no reason given" : last_;
    }

  private:
    std::mutex mutex_;
    std::string last_;
};

class Stream {
  public:
    explicit Stream(int device) {
        check(cudaSetDevice(device), text("cuda:", device, " cannot be used"));
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "no CUDA stream");
    }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;
    ~Stream() { cudaStreamDestroy(stream_); }
    cudaStream_t get() const { return stream_; }

  private:
    cudaStream_t stream_ = nullptr;
};

enum class Role { input, condition, output }; // a condition has one row for each sample, the others for each row of x

// One input or output with its memory on the device.
class Port {
  public:
    Port(std::string name, DataType type, std::vector<std::int64_t> sample, std::size_t row_bytes,
         Role role = Role::input)
        : name(std::move(name)), type(type), sample(std::move(sample)), row_bytes(row_bytes), role(role) {}
    Port(Port &&other) noexcept
        : name(std::move(other.name)), type(other.type), sample(std::move(other.sample)), row_bytes(other.row_bytes),
          role(other.role), memory(std::exchange(other.memory, nullptr)) {}
    Port &operator=(Port &&) = delete;
    ~Port() { cudaFree(memory); }

    void allocate(std::int64_t rows) {
        const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes;
        check(cudaMalloc(&memory, bytes), text(name, ": no room on the GPU for ", bytes, " bytes"));
    }
    nvinfer1::Dims shape(std::int64_t rows) const {
        nvinfer1::Dims dims{};
        dims.nbDims = static_cast<std::int32_t>(sample.size() + 1);
        dims.d[0] = rows;
        std::copy(sample.begin(), sample.end(), dims.d + 1);
        return dims;
    }

    std::string name;
    DataType type;
    std::vector<std::int64_t> sample; // sizes behind the batch axis
    std::size_t row_bytes;
    Role role;
    void *memory = nullptr;
};

struct Profile {
    std::int32_t index;
    std::int64_t least, most; // rows of a call
    std::int64_t samples;     // at most, for a model with conditions
    std::unique_ptr<nvinfer1::IExecutionContext> context;
};

class TensorRt final : public Engine {
  public:
    // host_code: whether the engine may bring code of its own, as version-compatible ones do
    TensorRt(const std::string &path, const std::string &bytes, ModelInfo info, int device, bool host_code)
        : path_(path), info_(std::move(info)), device_(device), stream_(device) {
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (!runtime_) {
            throw BackendError(text(runtime_name, " does not start: ", logger_.reason()));
        }
        runtime_->setEngineHostCodeAllowed(host_code);
        engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
        if (!engine_) {
            throw BackendError(text(path, ": ", runtime_name, " ", version(), " cannot load it (", logger_.reason(),
                                    "); build it again", rtx ? " for this card" : " on this machine"));
        }
        const std::size_t dim = info_.dim();
        const std::vector<std::int64_t> number;
        ports_.emplace_back("x", DataType::kFLOAT, info_.shape, dim * sizeof(float));
        ports_.emplace_back("sigma", DataType::kFLOAT, number, sizeof(float));
        for (const Condition &condition : info_.conditions) {
            const bool floats = condition.dtype == DType::float32;
            ports_.emplace_back(condition.name, floats ? DataType::kFLOAT : DataType::kINT64, condition.shape,
                                condition.dim() * (floats ? sizeof(float) : sizeof(std::int64_t)), Role::condition);
        }
        if (!info_.conditions.empty()) {
            ports_.emplace_back("sample", DataType::kINT64, number, sizeof(std::int64_t));
        }
        if (info_.num_classes) {
            ports_.emplace_back("labels", DataType::kINT64, number, sizeof(std::int64_t));
        }
        if (info_.guidance) {
            ports_.emplace_back("guidance", DataType::kFLOAT, number, sizeof(float));
        }
        ports_.emplace_back("denoised", DataType::kFLOAT, info_.shape, dim * sizeof(float), Role::output);
        check_ports();
        open_profiles();
    }

    const ModelInfo &info() const override { return info_; }

    std::string name() const override { return text(short_name, " ", version(), " (cuda:", device_, ")"); }

    void denoise(const Batch &batch) override {
        check(cudaSetDevice(device_), name());
        Profile &profile = profile_for(static_cast<std::int64_t>(batch.rows), static_cast<std::int64_t>(batch.samples));
        const Array *condition = batch.conditions;
        for (const Port &port : ports_) {
            if (port.role != Role::output) {
                const bool each_sample = port.role == Role::condition;
                const std::size_t rows = each_sample ? batch.samples : batch.rows;
                const void *from = each_sample ? condition++->values : source(batch, port);
                check(cudaMemcpyAsync(port.memory, from, rows * port.row_bytes, cudaMemcpyHostToDevice, stream_.get()),
                      name());
                require(profile.context->setInputShape(port.name.c_str(), port.shape(static_cast<std::int64_t>(rows))),
                        "setInputShape");
            }
        }
        require(profile.context->enqueueV3(stream_.get()), "enqueueV3");
        const Port &output = ports_.back();
        check(cudaMemcpyAsync(batch.denoised, output.memory, batch.rows * output.row_bytes, cudaMemcpyDeviceToHost,
                              stream_.get()),
              name());
        check(cudaStreamSynchronize(stream_.get()), name() + text(" failed on a batch of ", batch.rows));
    }

  private:
    static std::string version() {
        const std::int32_t number = getInferLibVersion();
        return text(number / 10000, ".", number / 100 % 100, ".", number % 100);
    }

    static const void *source(const Batch &batch, const Port &port) {
        if (port.name == "labels" || port.name == "sample") {
            return port.name == "labels" ? batch.labels : batch.sample;
        }
        return port.name == "x" ? batch.x : port.name == "sigma" ? batch.sigma : batch.guidance;
    }

    void require(bool done, const char *what) {
        if (!done) {
            throw BackendError(name() + ": " + what + " failed: " + logger_.reason());
        }
    }

    // Throws FileError unless the engine has exactly these ports, each with a dynamic batch.
    void check_ports() const {
        const std::int32_t count = engine_->getNbIOTensors();
        std::string found;
        for (std::int32_t i = 0; i < count; ++i) {
            found += (found.empty() ? "" : ", ") + std::string(engine_->getIOTensorName(i));
        }
        std::string expected;
        for (const Port &port : ports_) {
            expected += (expected.empty() ? "" : ", ") + port.name;
            const auto mode =
                port.role == Role::output ? nvinfer1::TensorIOMode::kOUTPUT : nvinfer1::TensorIOMode::kINPUT;
            if (engine_->getTensorIOMode(port.name.c_str()) != mode) {
                continue;
            }
            const nvinfer1::Dims have = engine_->getTensorShape(port.name.c_str()), want = port.shape(-1);
            if (engine_->getTensorDataType(port.name.c_str()) != port.type || have.nbDims != want.nbDims ||
                !std::equal(want.d, want.d + want.nbDims, have.d)) {
                throw FileError(path_ + ": " + port.name +
                                " has another type or shape than the manifest says, or no dynamic batch");
            }
        }
        const auto known = [&](const Port &port) {
            return engine_->getTensorIOMode(port.name.c_str()) != nvinfer1::TensorIOMode::kNONE;
        };
        if (count != static_cast<std::int32_t>(ports_.size()) || !std::all_of(ports_.begin(), ports_.end(), known)) {
            throw FileError(path_ + ": the engine's tensors are " + found + "; expected " + expected);
        }
    }

    void open_profiles() {
        std::int64_t most = 0, samples = 0;
        for (std::int32_t i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
            const auto rows = [&](const std::string &input, nvinfer1::OptProfileSelector which) {
                return engine_->getProfileShape(input.c_str(), i, which).d[0];
            };
            const auto least = nvinfer1::OptProfileSelector::kMIN, greatest = nvinfer1::OptProfileSelector::kMAX;
            profiles_.push_back({i, rows("x", least), rows("x", greatest), 0, nullptr});
            Profile &profile = profiles_.back();
            profile.samples = info_.conditions.empty() ? 0 : rows(info_.conditions[0].name, greatest);
            for (const Condition &condition : info_.conditions) {
                profile.samples = std::min(profile.samples, rows(condition.name, greatest));
            }
            most = std::max(most, profile.most);
            samples = std::max(samples, profile.samples);
        }
        for (Port &port : ports_) {
            port.allocate(port.role == Role::condition ? samples : most);
        }
        for (Profile &profile : profiles_) {
            profile.context.reset(engine_->createExecutionContext());
            require(profile.context != nullptr, "createExecutionContext");
            require(profile.context->setOptimizationProfileAsync(profile.index, stream_.get()),
                    "setOptimizationProfileAsync");
            for (const Port &port : ports_) {
                require(profile.context->setTensorAddress(port.name.c_str(), port.memory), "setTensorAddress");
            }
        }
        check(cudaStreamSynchronize(stream_.get()), name());
    }

    // The tightest profile that takes a batch of this size.
    Profile &profile_for(std::int64_t rows, std::int64_t samples) {
        Profile *best = nullptr;
        std::int64_t most = 0, most_samples = 0;
        for (Profile &profile : profiles_) {
            most = std::max(most, profile.most);
            most_samples = std::max(most_samples, profile.samples);
            if (!info_.conditions.empty() && samples > profile.samples) {
                continue;
            }
            if (profile.least <= rows && rows <= profile.most && (!best || profile.most < best->most)) {
                best = &profile;
            }
        }
        if (!info_.conditions.empty() && samples > most_samples) {
            throw InputError(text("conditions: got those of ", samples, " samples; this engine takes ", most_samples,
                                  ". Sample fewer at a time, or rebuild it with a larger --max-batch."));
        }
        if (!best) {
            throw InputError(text("x: got a batch of ", rows, "; this engine takes ",
                                  profiles_.empty() ? 0 : profiles_[0].least, " to ", most,
                                  ". Set max_rows, or rebuild it with a larger --max-batch."));
        }
        return *best;
    }

    // In this order: contexts go before the engine, the engine before the runtime, memory and stream before that.
    std::string path_;
    ModelInfo info_;
    int device_;
    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    Stream stream_;
    std::vector<Port> ports_;
    std::vector<Profile> profiles_;
};

} // namespace

#ifdef NCDEPLOY_TENSORRT_RTX
std::unique_ptr<Engine> open_tensorrt_rtx(const Bundle &bundle, const EngineOptions &options) {
#else
std::unique_ptr<Engine> open_tensorrt(const Bundle &bundle, const EngineOptions &options) {
#endif
    const std::string path = bundle.engine();
    if (path.size() < 5 || path.compare(path.size() - 5, 5, ".plan") != 0) {
        throw InputError(path + ": TensorRT runs model.plan; open this graph with open_onnxruntime");
    }
    const std::optional<int> device = detail::cuda_index(options.device.empty() ? "cuda" : options.device);
    if (!device) {
        throw InputError("device: got 'cpu'; TensorRT runs on a GPU, cuda or cuda:N");
    }
    // What the engine's record says of how it was built; the bundle's digests have matched, so it may be believed.
    const auto built = detail::Sidecar::parse(bundle.read("model.plan.json"), bundle.file("model.plan.json"));
    if (built.rtx != rtx) {
        throw InputError(path + (rtx ? ": is an engine of TensorRT; open it with open_tensorrt"
                                     : ": is an engine of TensorRT for RTX; open it with open_tensorrt_rtx"));
    }
    if (built.stripped) {
        throw FileError(path +
                        ": has no weights of its own, which only Python can give it; build it without stripping");
    }
    return std::make_unique<TensorRt>(path, bundle.read("model.plan"), bundle.info(), *device,
                                      built.version_compatible);
}

} // namespace ncdeploy
