// How long a network call takes, and sequential against parallel sampling: latency BUNDLE [THREADS]
#include <ncdeploy/ncdeploy.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

// Median seconds of one call with `rows` rows.
double call_seconds(ncdeploy::Engine &engine, std::size_t rows) {
    const ncdeploy::ModelInfo &info = engine.info();
    const std::vector<float> x(rows * info.dim(), 0.1F), sigma(rows, static_cast<float>(info.sigma_data)),
        weight(rows, 1);
    const std::vector<std::int64_t> labels(rows, 0);
    std::vector<float> denoised(x.size());
    std::vector<double> seconds;
    double total = 0;
    while (seconds.size() < 5 || (total < 0.3 && seconds.size() < 200)) {
        const auto start = std::chrono::steady_clock::now();
        engine.denoise({rows, x.data(), sigma.data(), info.num_classes ? labels.data() : nullptr,
                        info.guidance ? weight.data() : nullptr, denoised.data()});
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        total += seconds.back();
    }
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
    return seconds[seconds.size() / 2];
}

// Best of three runs of one sample, after one to warm up.
ncdeploy::Result best_run(ncdeploy::Engine &engine, const ncdeploy::Plan &plan, const ncdeploy::Options &options) {
    const ncdeploy::Sampler sampler(engine, plan, options);
    const std::vector<std::int64_t> labels(engine.info().num_classes ? 1 : 0, 0);
    ncdeploy::Result best = sampler.sample({0}, labels);
    best.wall_s = 1e9;
    for (int run = 0; run < 3; ++run) {
        ncdeploy::Result result = sampler.sample({0}, labels);
        if (result.wall_s < best.wall_s) {
            best = std::move(result);
        }
    }
    return best;
}

void report(const char *how, const ncdeploy::Result &result) {
    const double driver = result.wall_s - result.engine_s;
    std::printf("  %-12s %5zu calls, NFE %7.1f, %9.2f ms, driver %6.2f ms = %.2f %% of the network\n", how,
                result.depth, result.nfe, 1e3 * result.wall_s, 1e3 * driver, 100 * driver / result.engine_s);
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fputs("usage: latency BUNDLE [THREADS]\n", stderr);
        return 2;
    }
    try {
        const ncdeploy::Bundle bundle(argv[1]);
        const auto engine = ncdeploy::open_onnxruntime(bundle, {"", argc > 2 ? std::atoi(argv[2]) : 0});
        std::printf("%s\n", engine->name().c_str());
        for (std::size_t rows = 1; rows <= 64; rows *= 2) {
            std::printf("  t(%2zu) = %7.3f ms\n", rows, 1e3 * call_seconds(*engine, rows));
        }
        for (const std::string &name : bundle.plans()) {
            ncdeploy::Options options = bundle.options(name);
            std::printf("%s, window %zu\n", name.c_str(), options.window);
            report("parallel", best_run(*engine, bundle.plan(name), options));
            options.window = 0;
            report("sequential", best_run(*engine, bundle.plan(name), options));
        }
    } catch (const ncdeploy::Error &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
