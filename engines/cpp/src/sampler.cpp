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

struct Stepper::Parts {
    Parts(Engine &engine, const Plan &plan, const Options &options, const std::vector<std::uint64_t> &seeds,
          Conditions given, const Result *start)
        : begin(std::chrono::steady_clock::now()), info(engine.info()), conditions(std::move(given)),
          inputs(info, conditions, seeds.size(), options.guidance && !info.guidance),
          result(room(seeds, plan, options)), evaluator(engine, plan, inputs, options.guidance),
          run{evaluator, plan,  options, result.seeds, info.mean, info.dim(), lanes(engine, options),
              result,    start, begin},
          driver(options.window ? detail::parallel_driver(run) : detail::sequential_driver(run)) {}

    Result room(const std::vector<std::uint64_t> &seeds, const Plan &plan, const Options &options) const {
        const std::size_t n = seeds.size();
        Result empty;
        empty.samples.resize(n * info.dim());
        empty.sweeps.resize(n);
        empty.residual.resize(n);
        empty.complete.assign(n, 1);
        empty.seeds = seeds;
        empty.trajectory.resize(options.keep ? n * plan.size() * info.dim() : 0);
        empty.rejections.resize(n);
        empty.rejection_odds.resize(n);
        return empty;
    }

    std::size_t lanes(const Engine &engine, const Options &options) const {
        const std::size_t needed =
            std::max<std::size_t>(options.window, 1) * detail::rows_per_evaluation(engine, options);
        return options.max_rows ? options.max_rows / needed : result.seeds.size();
    }

    const std::chrono::steady_clock::time_point begin;
    const ModelInfo &info;
    const Conditions conditions;
    const detail::Inputs inputs;
    Result result;
    detail::Evaluator evaluator;
    const detail::Run run;
    const std::unique_ptr<detail::Driver> driver;
    bool more = true;
};

namespace {

template <class Work> auto with_room(std::size_t samples, const Work &work) {
    try {
        return work();
    } catch (const std::bad_alloc &) {
        throw InputError(text("the states of ", samples, " samples do not fit into memory; set max_rows, so that ",
                              "fewer are worked on at once, or a smaller window"));
    }
}

} // namespace

Stepper::Stepper(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Stepper::Stepper(Stepper &&) noexcept = default;
Stepper::~Stepper() = default;

bool Stepper::step() {
    if (!parts_ || !parts_->more) {
        return false;
    }
    try {
        return parts_->more = with_room(parts_->result.seeds.size(), [this] {
                   const auto call = std::chrono::steady_clock::now();
                   const bool more = parts_->driver->step();
                   if (more && parts_->run.late(call)) {
                       parts_->driver->leave();
                       return false;
                   }
                   return more;
               });
    } catch (...) {
        parts_.reset();
        throw;
    }
}

Result Stepper::finish() {
    if (!parts_) {
        throw InputError("finish: there is no run, it has failed or was finished before; begin another");
    }
    if (parts_->more) {
        parts_->driver->leave();
    }
    Result result = std::move(parts_->result);
    const detail::Evaluator &evaluator = parts_->evaluator;
    result.depth = evaluator.calls;
    result.nfe = static_cast<double>(evaluator.rows) / static_cast<double>(result.seeds.size());
    result.engine_s = evaluator.seconds;
    result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - parts_->begin).count();
    parts_.reset();
    return result;
}

Stepper Sampler::begin(const std::vector<std::uint64_t> &seeds, Conditions conditions, const Result *start) const {
    if (seeds.empty()) {
        throw InputError("seeds: got none; give one per sample");
    }
    if (start) {
        check_start(*start, seeds, plan_, options_, engine_.info().dim());
    }
    return with_room(seeds.size(), [&] {
        return Stepper(std::make_unique<Stepper::Parts>(engine_, plan_, options_, seeds, std::move(conditions), start));
    });
}

Result Sampler::sample(const std::vector<std::uint64_t> &seeds, const Conditions &conditions,
                       const Result *start) const {
    Stepper run = begin(seeds, conditions, start);
    while (run.step()) {
    }
    return run.finish();
}

Result shifted(const Result &last, const std::vector<std::int64_t> &shape, std::size_t by) {
    const Condition chunk{"", DType::float32, shape, {}};
    const std::size_t dim = chunk.dim();
    if (shape.empty() || last.samples.size() != last.seeds.size() * dim || by > static_cast<std::size_t>(shape[0])) {
        throw InputError(text("shifted: got ", last.samples.size(), " values of ", last.seeds.size(),
                              " samples, to be shifted by ", by, "; expected samples of the shape [steps, ...]"));
    }
    const auto steps = static_cast<std::size_t>(shape[0]), width = dim / steps;
    Result next;
    next.seeds = last.seeds;
    next.samples = last.samples;
    next.trajectory = last.trajectory;
    for (std::vector<float> *values : {&next.samples, &next.trajectory}) {
        for (std::size_t first = 0; first < values->size(); first += dim) {
            float *at = values->data() + first;
            for (std::size_t step = 0; step < steps; ++step) {
                std::copy_n(at + std::min(step + by, steps - 1) * width, width, at + step * width);
            }
        }
    }
    return next;
}

} // namespace ncdeploy
