// Samples from a bundle, as pictures: simple BUNDLE [options]. Progress goes to stderr.
#include <ncdeploy/ncdeploy.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>

namespace {

const char *const usage = "usage: simple BUNDLE [options]\n"
                          "  --n N           how many samples (1)\n"
                          "  --seed S        of the first; the others count up (0)\n"
                          "  --plan NAME     of the bundle (its first)\n"
                          "  --window W      nodes per sample and sweep; 0 samples sequentially (the bundle's)\n"
                          "  --tolerance T   of parallel sampling (the bundle's)\n"
                          "  --max-rows R    most rows of one network call; 0 is no limit (0)\n"
                          "  --label L       class of all samples, for a model with classes\n"
                          "  --guidance W    weight of classifier-free guidance\n"
                          "  --threads T     of the CPU; 0 takes all (0)\n"
                          "  --output NAME   NAME-0.pgm, NAME-1.pgm, ... (sample)\n"
                          "  --raw FILE      all samples as float32 in model units, instead of pictures\n";

// --name value pairs; numbers are checked to the last character.
class Arguments {
  public:
    Arguments(int argc, char **argv) {
        for (int i = 2; i < argc; i += 2) {
            const std::string name = argv[i];
            if (i + 1 == argc || name.size() < 3 || std::string(usage).find("  " + name + " ") == std::string::npos) {
                throw ncdeploy::InputError(name + ": unknown option, or its value is missing");
            }
            values_[name] = argv[i + 1];
        }
    }
    bool has(const std::string &name) const { return values_.count(name) > 0; }
    std::string text(const std::string &name, const std::string &otherwise) const {
        return has(name) ? values_.at(name) : otherwise;
    }
    double number(const std::string &name, double otherwise, double least = 0) const {
        if (!has(name)) {
            return otherwise;
        }
        char *end = nullptr;
        const double value = std::strtod(values_.at(name).c_str(), &end);
        if (*end || end == values_.at(name).c_str() || !(value >= least && value <= 9007199254740992.0)) {
            throw ncdeploy::InputError(name + ": got '" + values_.at(name) + "', expected a number in its range");
        }
        return value;
    }

  private:
    std::map<std::string, std::string> values_;
};

// A picture [C, H, W] in -1 .. 1 as PGM (C = 1) or PPM (C = 3).
void write_picture(const std::string &path, const float *sample, const std::vector<std::int64_t> &shape) {
    const auto channels = static_cast<std::size_t>(shape[0]), pixels = static_cast<std::size_t>(shape[1] * shape[2]);
    std::ofstream file(path, std::ios::binary);
    file << (channels == 1 ? "P5" : "P6") << '\n' << shape[2] << ' ' << shape[1] << "\n255\n";
    for (std::size_t i = 0; i < channels * pixels; ++i) {
        const float value = std::clamp(sample[i % channels * pixels + i / channels], -1.0F, 1.0F);
        file.put(static_cast<char>(std::lround((value + 1) * 127.5F)));
    }
    if (!file.flush()) {
        throw ncdeploy::FileError(path + ": cannot be written");
    }
}

void run(int argc, char **argv) {
    const Arguments given(argc, argv);
    const ncdeploy::Bundle bundle(argv[1]);
    const std::string plan = given.text("--plan", "");
    ncdeploy::Options options = bundle.options(plan);
    options.window = static_cast<std::size_t>(given.number("--window", static_cast<double>(options.window)));
    options.tolerance = given.number("--tolerance", options.tolerance);
    options.max_rows = static_cast<std::size_t>(given.number("--max-rows", 0));
    if (given.has("--guidance")) {
        options.guidance = given.number("--guidance", 1, -1e6);
    }
    options.on_sweep = [](const ncdeploy::Sweep &sweep) {
        const std::size_t done = std::accumulate(sweep.accepted.begin(), sweep.accepted.end(), std::size_t{0});
        std::fprintf(stderr, "\rcall %zu, %zu rows: %3.0f %%", sweep.calls, sweep.rows,
                     100.0 * static_cast<double>(done) / static_cast<double>(sweep.accepted.size() * sweep.nodes));
    };
    std::vector<std::uint64_t> seeds(static_cast<std::size_t>(given.number("--n", 1, 1)));
    std::iota(seeds.begin(), seeds.end(), static_cast<std::uint64_t>(given.number("--seed", 0)));
    ncdeploy::Conditions conditions;
    if (given.has("--label")) {
        conditions["labels"] = std::vector(seeds.size(), static_cast<std::int64_t>(given.number("--label", 0)));
    }

    ncdeploy::EngineOptions how;
    how.threads = static_cast<int>(given.number("--threads", 0));
    const auto engine = ncdeploy::open_onnxruntime(bundle, how);
    const ncdeploy::Sampler sampler(*engine, bundle.plan(plan), options);
    const ncdeploy::Result result = sampler.sample(seeds, conditions);
    std::fprintf(stderr, "\r%zu samples, %zu network calls, NFE %.1f, %.3f s, of which the network %.3f s\n",
                 seeds.size(), result.depth, result.nfe, result.wall_s, result.engine_s);

    const ncdeploy::ModelInfo &info = engine->info();
    if (given.has("--raw")) {
        std::ofstream file(given.text("--raw", ""), std::ios::binary);
        const char *bytes = reinterpret_cast<const char *>(result.samples.data());
        if (!file.write(bytes, static_cast<std::streamsize>(result.samples.size() * sizeof(float))).flush()) {
            throw ncdeploy::FileError(given.text("--raw", "") + ": cannot be written");
        }
    } else if (info.shape.size() != 3 || (info.shape[0] != 1 && info.shape[0] != 3)) {
        throw ncdeploy::InputError("these samples are no pictures (1 or 3, H, W); write them with --raw FILE");
    } else {
        for (std::size_t i = 0; i < seeds.size(); ++i) {
            const std::string suffix = info.shape[0] == 1 ? ".pgm" : ".ppm";
            const std::string path = given.text("--output", "sample") + "-" + std::to_string(i) + suffix;
            write_picture(path, result.samples.data() + i * info.dim(), info.shape);
        }
    }
    for (std::size_t i = 0; i < seeds.size(); ++i) {
        std::printf("seed %llu: %zu sweeps, residual %.2e\n", static_cast<unsigned long long>(seeds[i]),
                    result.sweeps[i], result.residual[i]);
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2 || argv[1][0] == '-') {
        std::fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    try {
        run(argc, argv);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "\nerror: %s\n", e.what());
        return 1;
    }
}
