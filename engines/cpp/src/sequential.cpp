// Forward substitution through a plan: one network call after another.
#include <algorithm>
#include <limits>

#include "drivers.hpp"
#include "noise.hpp"
#include "track.hpp"

namespace ncdeploy::detail {
namespace {

// Returns whether there is time for more.
bool group(const Run &run, std::size_t first, std::size_t last, std::vector<std::size_t> &accepted) {
    const Plan &plan = run.plan;
    std::vector<Track> tracks(last - first, Track(plan.reach + 1, run.dim));
    std::vector<float> noise(run.dim);
    for (std::size_t k = 0; k < plan.size(); ++k) {
        const auto call = std::chrono::steady_clock::now();
        for (std::size_t i = first; i < last; ++i) {
            Track &track = tracks[i - first];
            std::fill(noise.begin(), noise.end(), 0.0F);
            if (plan.noise[k] != 0) {
                normal(run.seeds[i], k, run.dim, plan.noise[k], noise.data());
            }
            float *x = track.x[k];
            each_piece(run.dim, [&](std::size_t first_value, std::size_t count) {
                kernels().state(track.row(plan, k, first_value), count, noise.data() + first_value, x + first_value);
            });
            if (plan.evaluated[k]) {
                run.evaluator.add(x, k, i, track.D[k]);
            }
        }
        if (!plan.evaluated[k]) {
            continue;
        }
        const std::size_t rows = run.evaluator.run();
        std::fill(accepted.begin() + static_cast<std::ptrdiff_t>(first),
                  accepted.begin() + static_cast<std::ptrdiff_t>(last), k + 1);
        if (run.options.on_sweep) {
            run.options.on_sweep({run.evaluator.calls, rows, plan.size(), accepted});
        }
        for (std::size_t i = first; run.options.keep && i < last; ++i) {
            std::copy_n(tracks[i - first].D[k], run.dim,
                        run.result.trajectory.data() + (i * plan.size() + k) * run.dim);
        }
        const bool ends = std::none_of(plan.evaluated.begin() + static_cast<std::ptrdiff_t>(k) + 1,
                                       plan.evaluated.end(), [](unsigned char due) { return due; });
        if (!ends && run.late(call)) {
            for (std::size_t i = first; i < last; ++i) {
                run.leave(i, k + 1, tracks[i - first].D[k], std::numeric_limits<double>::infinity());
            }
            return false;
        }
    }
    const bool late = run.late(std::chrono::steady_clock::now());
    for (std::size_t i = first; i < last; ++i) {
        std::copy_n(tracks[i - first].x[plan.size() - 1], run.dim, run.result.samples.data() + i * run.dim);
        accepted[i] = plan.size();
        run.result.sweeps[i] = plan.evaluations();
    }
    return !late;
}

} // namespace

void run_sequential(const Run &run) {
    std::vector<std::size_t> accepted(run.seeds.size(), 0);
    bool time = true;
    for (std::size_t first = 0; first < run.seeds.size(); first += run.lanes) {
        const std::size_t last = std::min(first + run.lanes, run.seeds.size());
        for (std::size_t i = first; !time && i < last; ++i) {
            run.leave(i, 0, nullptr, std::numeric_limits<double>::infinity());
        }
        time = time && group(run, first, last, accepted);
    }
}

} // namespace ncdeploy::detail
