// How long a network call takes, and sequential against parallel sampling: latency BUNDLE [THREADS]
#include <ncdeploy/ncdeploy.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

// Zeros for everything that the model is conditioned on.
ncdeploy::Conditions nothing(const ncdeploy::ModelInfo &info) {
    ncdeploy::Conditions conditions;
    for (const ncdeploy::Condition &condition : info.conditions) {
        conditions[condition.name] = condition.dtype == ncdeploy::DType::float32
                                         ? ncdeploy::Values(std::vector<float>(condition.dim()))
                                         : ncdeploy::Values(std::vector<std::int64_t>(condition.dim()));
    }
    if (info.num_classes) {
        conditions["labels"] = std::vector<std::int64_t>{0};
    }
    return conditions;
}

// Median seconds of one call with `rows` rows.
double call_seconds(ncdeploy::Engine &engine, std::size_t rows) {
    const ncdeploy::ModelInfo &info = engine.info();
    const std::vector<float> x(rows * info.dim(), 0.1F), sigma(rows, static_cast<float>(info.sigma_data)),
        weight(rows, 1);
    const std::vector<std::int64_t> zeros(rows, 0);
    const ncdeploy::Conditions conditions = nothing(info);
    std::vector<ncdeploy::Array> arrays;
    for (const ncdeploy::Condition &condition : info.conditions) {
        arrays.push_back({condition, std::visit([](const auto &v) -> const void * { return v.data(); },
                                                conditions.at(condition.name))});
    }
    std::vector<float> denoised(x.size());
    std::vector<double> seconds;
    double total = 0;
    while (seconds.size() < 5 || (total < 0.3 && seconds.size() < 200)) {
        const auto start = std::chrono::steady_clock::now();
        ncdeploy::Batch batch;
        batch.rows = rows, batch.x = x.data(), batch.sigma = sigma.data(), batch.denoised = denoised.data();
        batch.labels = info.num_classes ? zeros.data() : nullptr,
        batch.guidance = info.guidance ? weight.data() : nullptr;
        batch.sample = zeros.data(), batch.samples = 1, batch.conditions = arrays.data();
        engine.denoise(batch);
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        total += seconds.back();
    }
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
    return seconds[seconds.size() / 2];
}

// Best of three runs of one sample, after one to warm up.
ncdeploy::Result best_run(ncdeploy::Engine &engine, const ncdeploy::Plan &plan, const ncdeploy::Options &options) {
    const ncdeploy::Sampler sampler(engine, plan, options);
    const ncdeploy::Conditions conditions = nothing(engine.info());
    ncdeploy::Result best = sampler.sample({0}, conditions);
    best.wall_s = 1e9;
    for (int run = 0; run < 3; ++run) {
        ncdeploy::Result result = sampler.sample({0}, conditions);
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
        ncdeploy::EngineOptions options;
        options.threads = argc > 2 ? std::atoi(argv[2]) : 0;
        const auto engine = ncdeploy::open_onnxruntime(bundle, options);
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
