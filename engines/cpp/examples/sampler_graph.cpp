// One Run call from noise to samples: sampler_graph SAMPLER.onnx [N [SEED [RAW_FILE]]] [NAME=FILE ...]
//
// NAME=FILE gives a condition, labels among them: raw float32, or int64 of integers, of one sample after the other.
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
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

using Shape = std::vector<std::int64_t>;

constexpr auto floats = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, integers = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

std::size_t bytes_of(const Shape &shape, ONNXTensorElementDataType type) {
    std::size_t bytes = type == integers ? sizeof(std::int64_t) : sizeof(float);
    for (const std::int64_t axis : shape) {
        bytes *= static_cast<std::size_t>(axis);
    }
    return bytes;
}

Ort::Value tensor(void *values, const Shape &shape, ONNXTensorElementDataType type) {
    static const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor(memory, values, bytes_of(shape, type), shape.data(), shape.size(), type);
}

std::vector<char> read(const std::string &path, std::size_t size) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    if (bytes.size() != size) {
        throw ncdeploy::FileError(path + ": has " + std::to_string(bytes.size()) + " bytes, expected " +
                                  std::to_string(size));
    }
    return bytes;
}

void run(const std::string &path, std::size_t n, std::uint64_t seed, const char *raw,
         const std::map<std::string, std::string> &files) {
    Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "sampler_graph");
    Ort::SessionOptions options;
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
    Ort::Session session(env, std::filesystem::path(path).c_str(), options);
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
        names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    }
    const std::size_t last = names.size() - 1; // conditions lie between noise and these two
    if (names.size() < 3 || names[0] != "noise" || names[last - 1] != "tolerance" || names[last] != "max_sweeps") {
        throw ncdeploy::InputError(path + ": this example runs sampler graphs that hold their plan and accept pathwise");
    }
    const auto type_of = [&](std::size_t i) {
        const Ort::TypeInfo type = session.GetInputTypeInfo(i); // which owns what it tells
        Shape shape = type.GetTensorTypeAndShapeInfo().GetShape();
        shape[0] = static_cast<std::int64_t>(n);
        return std::pair(shape, type.GetTensorTypeAndShapeInfo().GetElementType());
    };

    // noise [n, draws, *shape]: row j is the draw of node j.
    const Shape shape = type_of(0).first;
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
    float tolerance = 1e-3F;
    std::int64_t max_sweeps = 100000;

    std::vector<std::vector<char>> held;
    std::vector<Ort::Value> values;
    values.push_back(tensor(noise.data(), shape, floats));
    for (std::size_t i = 1; i < last - 1; ++i) {
        if (!files.count(names[i])) {
            throw ncdeploy::InputError(names[i] + ": this graph needs it of every sample; give " + names[i] + "=FILE");
        }
        const auto [sizes, type] = type_of(i);
        held.push_back(read(files.at(names[i]), bytes_of(sizes, type)));
        values.push_back(tensor(held.back().data(), sizes, type));
    }
    values.push_back(tensor(&tolerance, {}, floats));
    values.push_back(tensor(&max_sweeps, {}, integers));
    std::vector<const char *> inputs;
    for (const std::string &name : names) {
        inputs.push_back(name.c_str());
    }
    const std::array<const char *, 3> outputs{"samples", "sweeps", "residual"};
    const std::vector<Ort::Value> results = session.Run(Ort::RunOptions{nullptr}, inputs.data(), values.data(),
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
    std::vector<const char *> words;
    std::map<std::string, std::string> files;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos) {
            words.push_back(argv[i]);
        } else {
            files[word.substr(0, equals)] = word.substr(equals + 1);
        }
    }
    const auto number = [&](std::size_t at, unsigned long long otherwise) {
        return words.size() > at ? std::strtoull(words[at], nullptr, 10) : otherwise;
    };
    const unsigned long long n = number(1, 1);
    if (words.empty() || words.size() > 4 || n < 1) {
        std::fputs("usage: sampler_graph SAMPLER.onnx [N [SEED [RAW_FILE]]] [NAME=FILE ...]\n", stderr);
        return 2;
    }
    try {
        run(words[0], n, number(2, 0), words.size() > 3 ? words[3] : nullptr, files);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
