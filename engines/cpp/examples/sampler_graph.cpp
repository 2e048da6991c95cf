// One Run call from noise to samples: sampler_graph SAMPLER.onnx [N [SEED [RAW_FILE]]]
//
// The graph (`ncdeploy export --graph sampler`) holds the network, the plan and the loop, so any ONNX Runtime will do.
// Only the noise comes from outside; drawn with ncdeploy::normal, the samples are those of every other way to sample.
#include <ncdeploy/ncdeploy.hpp>
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace {

template <class T> Ort::Value tensor(std::vector<T> &values, const std::vector<std::int64_t> &shape) {
    static const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(), shape.size());
}

void run(const std::string &path, std::size_t n, std::uint64_t seed, const char *raw) {
    Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "sampler_graph");
    Ort::SessionOptions options;
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    Ort::Session session(env, std::filesystem::path(path).c_str(), options);
    const std::array<const char *, 3> names{"noise", "tolerance", "max_sweeps"};
    Ort::AllocatorWithDefaultOptions allocator;
    bool fits = session.GetInputCount() == names.size();
    for (std::size_t i = 0; fits && i < names.size(); ++i) {
        fits = std::string(session.GetInputNameAllocated(i, allocator).get()) == names[i];
    }
    if (!fits) {
        throw ncdeploy::InputError(path + ": this example runs sampler graphs without classes that hold their plan");
    }

    // noise [n, draws, *shape]: row j is the draw of node j.
    std::vector<std::int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    shape[0] = static_cast<std::int64_t>(n);
    std::size_t dim = 1;
    for (std::size_t axis = 2; axis < shape.size(); ++axis) {
        dim *= static_cast<std::size_t>(shape[axis]);
    }
    std::vector<float> noise;
    for (std::size_t i = 0; i < n; ++i) {
        for (std::int64_t node = 0; node < shape[1]; ++node) {
            const std::vector<float> draw = ncdeploy::normal(seed + i, static_cast<std::size_t>(node), dim);
            noise.insert(noise.end(), draw.begin(), draw.end());
        }
    }
    std::vector<float> tolerance{1e-3F};
    std::vector<std::int64_t> max_sweeps{100000};

    const std::array<Ort::Value, 3> values{tensor(noise, shape), tensor(tolerance, {}), tensor(max_sweeps, {})};
    const std::array<const char *, 3> outputs{"samples", "sweeps", "residual"};
    const std::vector<Ort::Value> results = session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(),
                                                        values.size(), outputs.data(), outputs.size());

    const float *samples = results[0].GetTensorData<float>();
    if (raw) {
        std::ofstream file(raw, std::ios::binary);
        const char *bytes = reinterpret_cast<const char *>(samples);
        if (!file.write(bytes, static_cast<std::streamsize>(n * dim * sizeof(float))).flush()) {
            throw ncdeploy::FileError(std::string(raw) + ": cannot be written");
        }
    }
    for (std::size_t i = 0; i < n; ++i) {
        std::printf("seed %llu: %lld sweeps, residual %.2e, first value %.4f\n",
                    static_cast<unsigned long long>(seed + i),
                    static_cast<long long>(results[1].GetTensorData<std::int64_t>()[i]),
                    static_cast<double>(results[2].GetTensorData<float>()[i]), static_cast<double>(samples[i * dim]));
    }
}

} // namespace

int main(int argc, char **argv) {
    const auto number = [&](int at, unsigned long long otherwise) {
        return argc > at ? std::strtoull(argv[at], nullptr, 10) : otherwise;
    };
    const unsigned long long n = number(2, 1);
    if (argc < 2 || argc > 5 || n < 1) {
        std::fputs("usage: sampler_graph SAMPLER.onnx [N [SEED [RAW_FILE]]]\n", stderr);
        return 2;
    }
    try {
        run(argv[1], n, number(3, 0), argc > 4 ? argv[4] : nullptr);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
