// model.plan of a bundle on TensorRT 10.12 to 11: one execution context a profile, on a stream of its own.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <utility>

#include "device.hpp"
#include "files.hpp"
#include "json.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::text;
using nvinfer1::DataType;

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

// One input or output with its memory on the device.
class Port {
  public:
    Port(std::string name, DataType type, std::vector<std::int64_t> sample, std::size_t row_bytes, bool output)
        : name(std::move(name)), type(type), sample(std::move(sample)), row_bytes(row_bytes), output(output) {}
    Port(Port &&other) noexcept
        : name(std::move(other.name)), type(other.type), sample(std::move(other.sample)), row_bytes(other.row_bytes),
          output(other.output), memory(std::exchange(other.memory, nullptr)) {}
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
    bool output;
    void *memory = nullptr;
};

struct Profile {
    std::int32_t index;
    std::int64_t least, most; // rows of a call
    std::unique_ptr<nvinfer1::IExecutionContext> context;
};

class TensorRt final : public Engine {
  public:
    // host_code: whether the engine may bring code of its own, as version-compatible ones do
    TensorRt(const std::string &path, ModelInfo info, int device, bool host_code)
        : path_(path), info_(std::move(info)), device_(device), stream_(device) {
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (!runtime_) {
            throw BackendError("TensorRT does not start: " + logger_.reason());
        }
        runtime_->setEngineHostCodeAllowed(host_code);
        const std::string bytes = detail::read_file(path, std::numeric_limits<std::int64_t>::max());
        engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
        if (!engine_) {
            throw BackendError(path + ": TensorRT " + version() + " cannot load it (" + logger_.reason() +
                               "); build it again on this machine");
        }
        const std::size_t dim = info_.dim();
        ports_.emplace_back("x", DataType::kFLOAT, info_.shape, dim * sizeof(float), false);
        ports_.emplace_back("sigma", DataType::kFLOAT, std::vector<std::int64_t>{}, sizeof(float), false);
        if (info_.num_classes) {
            ports_.emplace_back("labels", DataType::kINT64, std::vector<std::int64_t>{}, sizeof(std::int64_t), false);
        }
        if (info_.guidance) {
            ports_.emplace_back("guidance", DataType::kFLOAT, std::vector<std::int64_t>{}, sizeof(float), false);
        }
        ports_.emplace_back("denoised", DataType::kFLOAT, info_.shape, dim * sizeof(float), true);
        check_ports();
        open_profiles();
    }

    const ModelInfo &info() const override { return info_; }

    std::string name() const override { return text("tensorrt ", version(), " (cuda:", device_, ")"); }

    void denoise(const Batch &batch) override {
        check(cudaSetDevice(device_), name());
        const auto rows = static_cast<std::int64_t>(batch.rows);
        Profile &profile = profile_for(rows);
        for (const Port &port : ports_) {
            if (!port.output) {
                const std::size_t bytes = batch.rows * port.row_bytes;
                check(cudaMemcpyAsync(port.memory, source(batch, port), bytes, cudaMemcpyHostToDevice, stream_.get()),
                      name());
                require(profile.context->setInputShape(port.name.c_str(), port.shape(rows)), "setInputShape");
            }
        }
        require(profile.context->enqueueV3(stream_.get()), "enqueueV3");
        const Port &output = ports_.back();
        check(cudaMemcpyAsync(batch.denoised, output.memory, batch.rows * output.row_bytes, cudaMemcpyDeviceToHost,
                              stream_.get()),
              name());
        check(cudaStreamSynchronize(stream_.get()), name() + text(" failed on a batch of ", rows));
    }

  private:
    static std::string version() {
        const std::int32_t number = getInferLibVersion();
        return text(number / 10000, ".", number / 100 % 100, ".", number % 100);
    }

    static const void *source(const Batch &batch, const Port &port) {
        if (port.name == "labels") {
            return batch.labels;
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
            const auto mode = port.output ? nvinfer1::TensorIOMode::kOUTPUT : nvinfer1::TensorIOMode::kINPUT;
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
        std::int64_t most = 0;
        for (std::int32_t i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
            const auto rows = [&](nvinfer1::OptProfileSelector which) {
                return engine_->getProfileShape("x", i, which).d[0];
            };
            profiles_.push_back(
                {i, rows(nvinfer1::OptProfileSelector::kMIN), rows(nvinfer1::OptProfileSelector::kMAX), nullptr});
            most = std::max(most, profiles_.back().most);
        }
        for (Port &port : ports_) {
            port.allocate(most);
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
    Profile &profile_for(std::int64_t rows) {
        Profile *best = nullptr;
        std::int64_t most = 0;
        for (Profile &profile : profiles_) {
            most = std::max(most, profile.most);
            if (profile.least <= rows && rows <= profile.most && (!best || profile.most < best->most)) {
                best = &profile;
            }
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

std::unique_ptr<Engine> open_tensorrt(const Bundle &bundle, const EngineOptions &options) {
    const std::string path = bundle.engine();
    if (path.size() < 5 || path.compare(path.size() - 5, 5, ".plan") != 0) {
        throw InputError(path + ": TensorRT runs model.plan; open this graph with open_onnxruntime");
    }
    const std::optional<int> device = detail::cuda_index(options.device.empty() ? "cuda" : options.device);
    if (!device) {
        throw InputError("device: got 'cpu'; TensorRT runs on a GPU, cuda or cuda:N");
    }
    // What the engine's record says of how it was built; the bundle's digests have matched, so it may be believed.
    const std::string record = bundle.file("model.plan.json");
    const auto built = [&, fields = detail::Json::parse(detail::read_file(record, std::uint64_t{1} << 26), record)](
                           const char *option) {
        const auto options = fields.object.find("options");
        if (options == fields.object.end() || !options->second.object.count(option)) {
            throw FileError(record + ": does not say whether the engine is " + option + "; build the engine again");
        }
        return options->second.object.at(option).boolean;
    };
    if (built("stripped")) {
        throw FileError(path +
                        ": has no weights of its own, which only Python can give it; build it without stripping");
    }
    return std::make_unique<TensorRt>(path, bundle.info(), *device, built("version_compatible"));
}

} // namespace ncdeploy
