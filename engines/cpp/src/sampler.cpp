#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>

#include "drivers.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy {

using detail::text;

namespace {

// Throws InputError unless every row of the plan but the last adds noise, in a parallel run.
void check_law(const Plan &plan, const Options &options) {
    for (std::size_t k = 0; k + 1 < plan.size(); ++k) {
        if (!(plan.noise[k] > 0) || !plan.evaluated[k]) {
            throw InputError(text("acceptance: ", plan.name,
                                  " has rows without noise, so that there is no law to be exact in; take pathwise "
                                  "acceptance, or a plan of ddpm, ddim with eta > 0, or dpmpp_2m_sde"));
        }
    }
    if (options.window == 0) {
        throw InputError("acceptance: law is of parallel sampling; give a window");
    }
    if (!(options.theta > 0 && options.theta <= 1)) {
        throw InputError(text("theta: got ", options.theta, "; expected a probability, above 0 and at most 1"));
    }
}

void check_start(const Result &start, const std::vector<std::uint64_t> &seeds, const Plan &plan, const Options &options,
                 std::size_t dim) {
    if (options.window == 0) {
        throw InputError("start: is of parallel sampling; give a window, or leave it out");
    }
    const bool whole = !start.trajectory.empty();
    const std::vector<float> &values = whole ? start.trajectory : start.samples;
    const std::size_t wanted = seeds.size() * (whole ? plan.size() : 1) * dim;
    if (values.size() != wanted) {
        throw InputError(text("start: got ", values.size(), " values, expected ", wanted));
    }
    if (whole && start.seeds != seeds) {
        throw InputError("start: is of other seeds, whose noise it followed; start from its samples alone");
    }
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) {
        throw InputError("start: holds NaN or infinity");
    }
}

} // namespace

Sampler::Sampler(Engine &engine, Plan plan, Options options)
    : engine_(engine), plan_(std::move(plan)), options_(std::move(options)) {
    plan_.check();
    const ModelInfo &info = engine_.info();
    options_.window = std::min(options_.window, plan_.evaluations());
    const std::size_t width = std::max<std::size_t>(options_.window, 1);
    if (!(options_.tolerance >= 0)) {
        throw InputError(text("tolerance: got ", options_.tolerance, "; expected 0 or more"));
    }
    if (!(options_.deadline >= 0)) {
        throw InputError(text("deadline: got ", options_.deadline, "; expected seconds, or 0 for none"));
    }
    if (!(options_.error_floor > 0)) {
        throw InputError(text("error_floor: got ", options_.error_floor, "; expected a positive number"));
    }
    if (options_.acceptance == Acceptance::law) {
        check_law(plan_, options_);
    }
    if (options_.guidance) {
        if (!std::isfinite(*options_.guidance)) {
            throw InputError(text("guidance: got ", *options_.guidance, "; expected a finite weight, 1 for none"));
        }
        if (info.num_classes == 0 && info.conditions.empty()) {
            throw InputError("guidance: this model takes no conditions; leave guidance out");
        }
        if (!info.guidable()) {
            throw InputError(info.conditions.empty()
                                 ? "guidance: this model has no unconditional class to guide away from; leave it out"
                                 : "guidance: none of this model's conditions has a null value to guide away from; "
                                   "leave it out");
        }
    }
    const std::size_t needed = width * detail::rows_per_evaluation(engine_, options_);
    if (options_.max_rows && options_.max_rows < needed) {
        throw InputError(text("max_rows: got ", options_.max_rows, "; a window of ", width, " needs at least ", needed,
                              needed > width ? ", with guidance" : ""));
    }
    if (!info.mean.empty() && info.mean.size() != info.dim()) {
        throw InputError(text("mean: got ", info.mean.size(), " values for samples of ", info.dim()));
    }
}

Result Sampler::sample(const std::vector<std::uint64_t> &seeds, const Conditions &conditions,
                       const Result *start_from) const {
    const ModelInfo &info = engine_.info();
    if (seeds.empty()) {
        throw InputError("seeds: got none; give one per sample");
    }
    if (start_from) {
        check_start(*start_from, seeds, plan_, options_, info.dim());
    }
    const detail::Inputs inputs(info, conditions, seeds.size(), options_.guidance && !info.guidance);
    const auto start = std::chrono::steady_clock::now();
    const std::size_t needed = (options_.window ? options_.window : 1) * detail::rows_per_evaluation(engine_, options_);
    const std::size_t lanes = options_.max_rows ? options_.max_rows / needed : seeds.size();
    try {
        Result result;
        result.samples.resize(seeds.size() * info.dim());
        result.sweeps.resize(seeds.size());
        result.residual.resize(seeds.size());
        result.complete.assign(seeds.size(), 1);
        result.seeds = seeds;
        result.trajectory.resize(options_.keep ? seeds.size() * plan_.size() * info.dim() : 0);
        result.rejections.resize(seeds.size());
        result.rejection_odds.resize(seeds.size());
        detail::Evaluator evaluator(engine_, plan_, inputs, options_.guidance);
        const detail::Run run{evaluator, plan_, options_, seeds, info.mean, info.dim(), lanes, result,
                              start_from, start};
        (options_.window ? detail::run_parallel : detail::run_sequential)(run);
        result.depth = evaluator.calls;
        result.nfe = static_cast<double>(evaluator.rows) / static_cast<double>(seeds.size());
        result.engine_s = evaluator.seconds;
        result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        return result;
    } catch (const std::bad_alloc &) {
        throw InputError(text("the states of ", seeds.size(), " samples do not fit into memory; set max_rows, so that ",
                              "fewer are worked on at once, or a smaller window"));
    }
}

} // namespace ncdeploy
