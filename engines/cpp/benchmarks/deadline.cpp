// Whether runs end in time: deadline BUNDLE [CALLS [PLAN]]. CALLS runs in all (10,000), a third each with deadlines of
// 20, 50 and 80 % of a whole run; says how many ended by their deadline, and by that and one network call: the longest of
// a whole run, which is that of a full window.
#include <ncdeploy/ncdeploy.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace {

double seconds(std::chrono::steady_clock::duration span) { return std::chrono::duration<double>(span).count(); }

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    return values[values.size() / 2];
}

double distance(const std::vector<float> &a, const std::vector<float> &b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    }
    return std::sqrt(sum / static_cast<double>(a.size()));
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fputs("usage: deadline BUNDLE [CALLS [PLAN]]\n", stderr);
        return 2;
    }
    try {
        const ncdeploy::Bundle bundle(argv[1]);
        const int calls = argc > 2 ? std::atoi(argv[2]) : 10000;
        const std::string plan = argc > 3 ? argv[3] : "";
        ncdeploy::EngineOptions how;
        how.threads = 1;
        const auto engine = ncdeploy::open_onnxruntime(bundle, how);
        ncdeploy::Options options = bundle.options(plan);
        const ncdeploy::Sampler whole(*engine, bundle.plan(plan), options);
        ncdeploy::Result wanted;
        std::vector<double> runs, longest;
        for (int i = 0; i < 9; ++i) {
            ncdeploy::Stepper stepper = whole.begin({0});
            double most = 0;
            for (bool more = true; more;) {
                const auto before = std::chrono::steady_clock::now();
                more = stepper.step();
                most = std::max(most, seconds(std::chrono::steady_clock::now() - before));
            }
            wanted = stepper.finish();
            runs.push_back(wanted.wall_s);
            longest.push_back(most);
        }
        const double run = median(runs), call = median(longest);
        std::printf("a whole run: %.2f ms, %zu calls, the longest %.2f ms\n", 1e3 * run, wanted.depth, 1e3 * call);
        int kept = 0, all = 0;
        for (const double part : {0.2, 0.5, 0.8}) {
            options.deadline = part * run;
            const ncdeploy::Sampler sampler(*engine, bundle.plan(plan), options);
            int in_time = 0, by_deadline = 0;
            double worst = 0, off = 0;
            for (int i = 0; i < calls / 3; ++i) {
                const ncdeploy::Result result = sampler.sample({0});
                by_deadline += result.wall_s <= options.deadline;
                in_time += result.wall_s <= options.deadline + call;
                worst = std::max(worst, result.wall_s);
                off += distance(result.samples, wanted.samples) / (calls / 3);
            }
            std::printf("deadline %6.2f ms: %.3f %% by it, %.3f %% by it and one call; the longest %.2f ms; rms to the "
                        "whole run %.4f\n",
                        1e3 * options.deadline, 300.0 * by_deadline / (calls / 3 * 3),
                        300.0 * in_time / (calls / 3 * 3), 1e3 * worst, off);
            kept += in_time, all += calls / 3;
        }
        std::printf("in all: %d of %d, %.3f %%\n", kept, all, 100.0 * kept / all);
    } catch (const ncdeploy::Error &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
