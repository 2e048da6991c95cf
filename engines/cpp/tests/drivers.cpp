// Both drivers on an exact denoiser.
#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "allocations.hpp"
#include "check.hpp"
#include "plans.hpp"

using namespace ncdeploy;

namespace {

constexpr std::size_t dim = 6;
const std::vector<std::uint64_t> seeds{0, 1, 2, 3, std::uint64_t{1} << 63};

Options window(std::size_t width, double tolerance = 1e-3) {
    Options options;
    options.window = width;
    options.tolerance = tolerance;
    return options;
}

std::vector<Plan> plans() {
    std::vector<Plan> all{make_plan(40, 0), make_plan(40, 1), make_plan(41, 0, true), make_plan(41, 1, true)};
    for (std::size_t i = 0, n = all.size(); i < n; ++i) { // the same with a known Jacobian
        Plan plan = all[i];
        for (std::size_t k = 0; k < plan.size(); ++k) {
            plan.jacobian.push_back(plan.evaluated[k] ? Mixture::jacobian(plan.sigmas[k]) : 0);
        }
        all.push_back(plan);
    }
    return all;
}

double rms(const Result &a, const Result &b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.samples.size(); ++i) {
        sum += std::pow(static_cast<double>(a.samples[i]) - b.samples[i], 2);
    }
    return std::sqrt(sum / static_cast<double>(a.samples.size()));
}

void parallel_ends_at_the_sequential_result() {
    for (const Plan &plan : plans()) {
        Mixture engine(dim);
        const Result sequential = Sampler(engine, plan).sample(seeds);
        CHECK(sequential.depth == plan.evaluations());
        for (const std::size_t width : {std::size_t{1}, std::size_t{7}, plan.evaluations()}) {
            // With tolerance 0, and with nothing but the first node of a window to accept, to the last bit.
            const Result exact = Sampler(engine, plan, window(width, 0)).sample(seeds);
            CHECK(exact.samples == sequential.samples);
            CHECK(*std::max_element(exact.residual.begin(), exact.residual.end()) == 0);
            const Result close = Sampler(engine, plan, window(width)).sample(seeds);
            CHECK(rms(close, sequential) < 2e-3);
            CHECK(*std::max_element(close.residual.begin(), close.residual.end()) <= 1e-3);
            CHECK(*std::max_element(close.sweeps.begin(), close.sweeps.end()) == close.depth);
        }
        const Result wide = Sampler(engine, plan, window(plan.evaluations())).sample(seeds);
        CHECK(wide.depth < plan.evaluations() * 3 / 4);
        Plan other = plan; // a plan that is off by a little must be found out
        other.denoised[2 * (plan.size() - 1) + (plan.evaluated[plan.size() - 2] ? 0 : 1)] *= 1.01;
        CHECK(rms(Sampler(engine, other, window(7)).sample(seeds), sequential) > 3e-3);
    }
}

void a_sample_depends_on_its_seed_alone() {
    for (const Plan &plan : plans()) {
        Mixture engine(dim);
        for (const std::size_t width : {0, 9}) {
            Options options = window(width);
            const Result together = Sampler(engine, plan, options).sample(seeds);
            engine.largest = 0;
            options.max_rows = 20; // two lanes of nine
            const Result in_turn = Sampler(engine, plan, options).sample(seeds);
            CHECK(engine.largest <= 20);
            CHECK(in_turn.samples == together.samples && in_turn.sweeps == together.sweeps);
            for (std::size_t i = 0; i < seeds.size(); ++i) {
                const Result alone = Sampler(engine, plan, options).sample({seeds[i]});
                CHECK(std::equal(alone.samples.begin(), alone.samples.end(),
                                 together.samples.begin() + static_cast<long>(i * dim)));
            }
        }
    }
}

void the_jacobian_saves_sweeps() {
    const std::vector<Plan> all = plans();
    Mixture engine(dim);
    std::vector<std::uint64_t> many(40);
    std::iota(many.begin(), many.end(), 0);
    const auto total = [&](const Plan &plan) {
        const Result result = Sampler(engine, plan, window(39)).sample(many);
        return std::accumulate(result.sweeps.begin(), result.sweeps.end(), std::size_t{0});
    };
    Plan none = all[4];
    std::fill(none.jacobian.begin(), none.jacobian.end(), 0);
    CHECK(total(all[4]) < total(none));
    CHECK(total(all[0]) < total(none)); // estimated from the iterates
}

void guidance_mixes_two_evaluations() {
    Mixture engine(dim, 2);
    const Plan plan = make_plan(20, 0);
    const std::vector<std::int64_t> zeros(seeds.size(), 0), nobody(seeds.size(), 2);
    const auto run = [&](std::optional<double> weight, const Values &labels, std::size_t width) {
        Options options = window(width);
        options.guidance = weight;
        return Sampler(engine, plan, options).sample(seeds, {{"labels", labels}});
    };
    for (const std::size_t width : {0, 6}) {
        CHECK(run(1, zeros, width).samples == run(std::nullopt, zeros, width).samples);
        CHECK(run(0, zeros, width).samples == run(std::nullopt, nobody, width).samples);
        CHECK(run(2, zeros, width).samples != run(1, zeros, width).samples);
        CHECK(run(1, zeros, width).nfe == 2 * run(std::nullopt, zeros, width).nfe);
    }
}

// D = condition / (1 + sigma): what a row gets is that of its sample, whoever its neighbours are.
class Follower : public Engine {
  public:
    explicit Follower(bool null = true) {
        info_.shape = {2};
        info_.sigma_min = 0.01;
        info_.sigma_max = 80;
        info_.sigma_data = 1;
        info_.conditions = {{"goal", DType::float32, {2}, {}}, {"scale", DType::int64, {}, {}}};
        if (null) {
            info_.conditions[1].null = {1};
        }
    }
    const ModelInfo &info() const override { return info_; }
    std::string name() const override { return "follower"; }
    void denoise(const Batch &batch) override {
        const auto *goal = static_cast<const float *>(batch.conditions[0].values);
        const auto *scale = static_cast<const std::int64_t *>(batch.conditions[1].values);
        CHECK(batch.conditions[0].condition.name == "goal" && batch.conditions[1].condition.name == "scale");
        for (std::size_t i = 0; i < batch.rows; ++i) {
            const auto s = static_cast<std::size_t>(batch.sample[i]);
            CHECK(s < batch.samples);
            for (std::size_t d = 0; d < 2; ++d) {
                batch.denoised[2 * i + d] = static_cast<float>(scale[s]) * goal[2 * s + d] / (1 + batch.sigma[i]);
            }
        }
    }

  private:
    ModelInfo info_;
};

void conditions_belong_to_their_sample() {
    Follower engine;
    const Plan plan = make_plan(20, 1);
    const Conditions all{{"goal", std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
                         {"scale", std::vector<std::int64_t>{1, 2, 3, 4, 5}}};
    const Conditions third{{"goal", std::vector<float>{5, 6}}, {"scale", std::vector<std::int64_t>{3}}};
    const Conditions plain{{"goal", std::vector<float>{5, 6}}, {"scale", std::vector<std::int64_t>{1}}};
    for (const std::size_t width : {0, 6}) {
        Options options = window(width, 0);
        options.max_rows = 14; // two samples at a time
        const auto run = [&](const Conditions &conditions) {
            const bool one = &conditions != &all;
            return Sampler(engine, plan, options).sample(one ? std::vector{seeds[2]} : seeds, conditions).samples;
        };
        const std::vector<float> together = run(all), alone = run(third);
        CHECK(std::equal(alone.begin(), alone.end(), together.begin() + 4));
        CHECK(run(plain) != alone);
        // Guidance of weight 0 is no condition: a null scale of 1, and the goal, which has no null, as it is.
        options.guidance = 0;
        CHECK(run(third) == run(plain));
        options.guidance = 1;
        CHECK(run(third) == alone);
    }
    const auto refused = [&](const Conditions &conditions) {
        return thrown<InputError>([&] { Sampler(engine, plan).sample({0}, conditions); });
    };
    const auto with = [&](const char *name, Values values) {
        Conditions changed = third;
        changed[name] = std::move(values);
        return changed;
    };
    CHECK(refused({}) == "goal: is missing; this model takes goal, scale");
    CHECK(Follower(false).info().guidable() == false);
    Follower always(false);
    Options guided;
    guided.guidance = 2;
    CHECK(thrown<InputError>([&] { Sampler(always, plan, guided); }) ==
          "guidance: none of this model's conditions has a null value to guide away from; leave it out");
    CHECK(refused(with("goal", std::vector<float>{1})) == "goal: got 1 values, expected 2 for each of 1 samples");
    CHECK(refused(with("goal", std::vector<float>{1, NAN})) == "goal: holds NaN or infinity; expected finite values");
    CHECK(refused(with("goal", std::vector<std::int64_t>{1, 2})) == "goal: got int64, expected float32");
    CHECK(refused(with("labels", std::vector<std::int64_t>{1})) ==
          "labels: this model is unconditional and takes none");
}

std::size_t median(std::vector<std::size_t> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

void a_start_saves_sweeps_and_changes_nothing() {
    for (const Acceptance acceptance : {Acceptance::pathwise, Acceptance::law}) {
        const Plan plan = plans()[acceptance == Acceptance::law ? 5 : 4];
        std::vector<std::uint64_t> drawn = seeds;
        if (acceptance == Acceptance::law) { // where what a start saves differs from sample to sample
            drawn.resize(41);
            std::iota(drawn.begin(), drawn.end(), 0);
        }
        Mixture engine(dim);
        Options options = window(plan.evaluations());
        options.acceptance = acceptance;
        options.keep = true;
        const Sampler sampler(engine, plan, options);
        const Result cold = sampler.sample(drawn);
        Result last = cold;
        for (int step = 0; step < 3; ++step) {
            engine.drift += 0.001;
            last = sampler.sample(drawn, {}, &last);
            CHECK(median(last.sweeps) <= 3 && median(last.sweeps) <= median(cold.sweeps));
        }
        CHECK(median(last.sweeps) < median(cold.sweeps));
        Result far;
        far.samples.assign(drawn.size() * dim, 30);
        CHECK(median(sampler.sample(drawn, {}, &far).sweeps) <= plan.evaluations());
        if (acceptance == Acceptance::law) {
            continue; // another sample of the same law
        }
        const Result sequential = Sampler(engine, plan).sample(seeds);
        CHECK(rms(last, sequential) < 2e-3);
        options.tolerance = 0;
        CHECK(Sampler(engine, plan, options).sample(seeds, {}, &far).samples == sequential.samples);
        CHECK(Sampler(engine, plan, options).sample(seeds, {}, &cold).samples == sequential.samples);
        options.window = 7;
        options.max_rows = 14;
        CHECK(Sampler(engine, plan, options).sample(seeds, {}, &cold).samples == sequential.samples);
        options.window = options.max_rows = 0;
        const Result steps = Sampler(engine, plan, options).sample(seeds);
        CHECK(steps.trajectory.size() == seeds.size() * plan.size() * dim);
        double worst = 0;
        for (std::size_t i = 0; i < steps.trajectory.size(); ++i) {
            worst = std::max(worst, std::abs(static_cast<double>(steps.trajectory[i]) - last.trajectory[i]));
        }
        CHECK(worst < 0.02);
        const auto refused = [&](const std::vector<std::uint64_t> &of, const Result &start) {
            return thrown<InputError>([&] { sampler.sample(of, {}, &start); });
        };
        CHECK(refused({9, 1, 2, 3, 4}, cold).rfind("start: is of other seeds", 0) == 0);
        CHECK(refused({0, 1}, cold).rfind("start: got ", 0) == 0);
        far.samples[3] = NAN;
        CHECK(refused(seeds, far) == "start: holds NaN or infinity");
        CHECK(thrown<InputError>([&] {
                  Sampler(engine, plan).sample(seeds, {}, &cold);
              }).rfind("start: is of parallel sampling", 0) == 0);
    }
}

void a_run_ends_by_its_deadline() {
    const Plan plan = plans()[5];
    Mixture engine(dim);
    for (const std::size_t width : {0, 9, 39}) {
        for (const Acceptance acceptance : {Acceptance::pathwise, Acceptance::law}) {
            Options options = window(width);
            if (width == 0 && acceptance == Acceptance::law) {
                continue;
            }
            options.acceptance = acceptance;
            options.max_rows = 2 * std::max<std::size_t>(width, 1);
            const Result whole = Sampler(engine, plan, options).sample(seeds);
            CHECK(whole.complete == std::vector<unsigned char>(seeds.size(), 1));
            options.deadline = 1000;
            CHECK(Sampler(engine, plan, options).sample(seeds).samples == whole.samples);
            options.deadline = 1e-9;
            const Result early = Sampler(engine, plan, options).sample(seeds);
            CHECK(early.depth == 1 && early.complete == std::vector<unsigned char>(seeds.size(), 0));
            CHECK(std::all_of(early.samples.begin(), early.samples.end(), [](float v) { return std::isfinite(v); }));
            CHECK(early.samples[0] != 0 && early.samples[2 * dim] == 0); // the third sample was not begun
            CHECK(early.residual[0] > 1e-3 && std::isinf(early.residual[2]));
            options.keep = true;
            const Result kept = Sampler(engine, plan, options).sample(seeds);
            const std::size_t last = plan.size() - 1; // its trajectory goes on with what was known
            CHECK(std::equal(kept.samples.begin(), kept.samples.begin() + dim,
                             kept.trajectory.begin() + static_cast<long>(last * dim)));
        }
    }
    Options options = window(9);
    options.deadline = -1;
    CHECK(thrown<InputError>([&] { Sampler(engine, plan, options); }).rfind("deadline: got -1", 0) == 0);
}

void samples_in_law_have_the_law() {
    // Of two Gaussians: how many samples lie at either, and how far from its centre they are, against sequential ones.
    const Plan plan = make_plan(25, 1);
    Mixture engine(dim);
    std::vector<std::uint64_t> many(4000);
    std::iota(many.begin(), many.end(), 0);
    const auto statistics = [&](const Options &options, double &rejections, double &odds) {
        const Result result = Sampler(engine, plan, options).sample(many);
        double positive = 0, spread = 0;
        for (std::size_t i = 0; i < many.size(); ++i) {
            double dot = 0;
            for (std::size_t d = 0; d < dim; ++d) {
                dot += Mixture::center(d) * result.samples[i * dim + d];
            }
            positive += dot > 0;
            for (std::size_t d = 0; d < dim; ++d) {
                const double off = result.samples[i * dim + d] - (dot > 0 ? 1 : -1) * Mixture::center(d);
                spread += off * off / static_cast<double>(many.size() * dim);
            }
        }
        rejections =
            static_cast<double>(std::accumulate(result.rejections.begin(), result.rejections.end(), std::size_t{0}));
        odds = std::accumulate(result.rejection_odds.begin(), result.rejection_odds.end(), 0.0);
        return std::pair(positive / static_cast<double>(many.size()), spread);
    };
    double rejections = 0, odds = 0;
    const auto wanted = statistics(window(0), rejections, odds);
    CHECK(rejections == 0 && odds == 0);
    for (const double theta : {0.05, 0.5, 1.0}) {
        Options options = window(12);
        options.acceptance = Acceptance::law;
        options.theta = theta;
        const auto found = statistics(options, rejections, odds);
        CHECK(std::abs(found.first - wanted.first) < 4 * std::sqrt(0.5 / 4000));
        CHECK(std::abs(found.second / wanted.second - 1) < 4 * std::sqrt(4.0 / (4000.0 * dim)));
        CHECK(odds > 100 && std::abs(rejections - odds) < 5 * std::sqrt(odds));
    }
}

void a_host_may_take_the_steps() {
    const Plan plan = plans()[5];
    Mixture engine(dim);
    for (const std::size_t width : {0, 9}) {
        Options options = window(width);
        options.max_rows = 2 * std::max<std::size_t>(width, 1);
        options.keep = true;
        const Sampler sampler(engine, plan, options);
        const Result whole = sampler.sample(seeds);
        Stepper run = sampler.begin(seeds);
        std::size_t steps = 1;
        while (run.step()) {
            ++steps;
        }
        CHECK(!run.step());
        const Result stepped = run.finish();
        CHECK(steps == whole.depth && stepped.depth == steps);
        CHECK(stepped.samples == whole.samples && stepped.trajectory == whole.trajectory);
        CHECK(thrown<InputError>([&] { run.finish(); }).rfind("finish: there is no run", 0) == 0);

        Stepper given_up = sampler.begin(seeds); // in the first group of samples: two are begun, three are not
        given_up.step();
        CHECK(given_up.step());
        const Result early = given_up.finish();
        CHECK(early.depth == 2 && early.complete == std::vector<unsigned char>(seeds.size(), 0));
        CHECK(early.samples[0] != 0 && early.samples[2 * dim] == 0 && std::isinf(early.residual[2]));
        CHECK(sampler.begin(seeds).finish().complete[0] == 0);

        engine.poison = 100; // a step that fails ends the run
        Stepper broken = sampler.begin(seeds);
        thrown<NumericalError>([&] { broken.step(); });
        CHECK(!broken.step());
        thrown<InputError>([&] { broken.finish(); });
        engine.poison = 0;
    }
    CHECK(thrown<InputError>([&] { Sampler(engine, plan).begin({}); }).rfind("seeds: got none", 0) == 0);
}

void previews_end_in_the_samples() {
    Mixture engine(dim);
    for (const std::size_t width : {0, 9}) {
        Options options = window(width);
        options.max_rows = 2 * std::max<std::size_t>(width, 1);
        std::vector<float> first, last(seeds.size() * dim);
        options.on_sweep = [&](const Sweep &sweep) {
            CHECK(sweep.estimates.size() == seeds.size());
            CHECK(sweep.calls > 1 || (sweep.estimates[0] && sweep.estimates[1] && !sweep.estimates[2]));
            for (std::size_t i = 0; i < seeds.size(); ++i) {
                if (sweep.estimates[i]) {
                    std::copy_n(sweep.estimates[i], dim, last.begin() + static_cast<long>(i * dim));
                }
            }
            first = first.empty() ? last : first;
        };
        const Result result = Sampler(engine, make_plan(20, 1), options).sample(seeds);
        double before = 0, after = 0;
        for (std::size_t i = 0; i < last.size(); ++i) {
            before = std::max(before, std::abs(static_cast<double>(first[i]) - result.samples[i]));
            after = std::max(after, std::abs(static_cast<double>(last[i]) - result.samples[i]));
        }
        CHECK(after < 1e-2 && before > 0.1);
    }
}

void a_chunk_is_shifted() {
    Result last;
    last.seeds = {0, 1};
    last.samples = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}; // [2, 3 steps, 2]
    last.trajectory = last.samples;
    const Result next = shifted(last, {3, 2}, 2);
    CHECK(next.samples == (std::vector<float>{5, 6, 5, 6, 5, 6, 11, 12, 11, 12, 11, 12}));
    CHECK(next.trajectory == next.samples && next.seeds == last.seeds);
    CHECK(shifted(last, {3, 2}, 1).samples == (std::vector<float>{3, 4, 5, 6, 5, 6, 9, 10, 11, 12, 11, 12}));
    CHECK(shifted(last, {3, 2}, 0).samples == last.samples);
    for (const auto &shape : {std::vector<std::int64_t>{}, {3}, {1, 6}}) {
        CHECK(thrown<InputError>([&] { shifted(last, shape, 2); }).rfind("shifted: got 12 values of 2", 0) == 0);
    }
}

void progress_is_told() {
    Mixture engine(dim);
    for (const std::size_t width : {0, 6}) {
        Options options = window(width);
        std::size_t calls = 0, before = 0;
        bool rising = true;
        options.on_sweep = [&](const Sweep &sweep) {
            const std::size_t accepted = std::accumulate(sweep.accepted.begin(), sweep.accepted.end(), std::size_t{0});
            rising = rising && accepted > before && sweep.calls == ++calls;
            before = accepted;
        };
        const Result result = Sampler(engine, make_plan(20, 1), options).sample(seeds);
        CHECK(rising && calls == result.depth);
    }
}

void a_steady_sweep_allocates_nothing() {
    for (const std::size_t size : {std::size_t{6}, std::size_t{2048}}) { // the second draws its noise on a thread
        Mixture engine(size);
        for (const std::size_t width : {0, 8}) {
            Options options = window(width);
            std::vector<std::size_t> counted;
            counted.reserve(100);
            options.on_sweep = [&](const Sweep &) { counted.push_back(allocations); };
            Sampler(engine, make_plan(40, 1), options).sample({7});
            CHECK(counted.size() > 6);
            CHECK(counted[1] == counted.back());
        }
    }
}

// Says where the states of its calls lie.
class Watched : public Mixture {
  public:
    using Mixture::Mixture;
    void denoise(const Batch &batch) override {
        places.insert(batch.x);
        Mixture::denoise(batch);
    }
    std::set<const float *> places;
};

void one_sample_is_evaluated_where_it_lies() {
    for (const Plan &plan : plans()) {
        for (const Acceptance acceptance : {Acceptance::pathwise, Acceptance::law}) {
            if (acceptance == Acceptance::law && (!plan.stochastic() || plan.evaluations() + 1 < plan.size())) {
                continue;
            }
            Watched engine(dim);
            Options options = window(5);
            options.acceptance = acceptance;
            std::vector<float> previews;
            const auto of_first = [&](const std::vector<std::uint64_t> &of) {
                previews.clear();
                options.on_sweep = [&](const Sweep &sweep) {
                    if (sweep.accepted[0] < plan.size()) {
                        previews.insert(previews.end(), sweep.estimates[0], sweep.estimates[0] + dim);
                    }
                };
                Result result = Sampler(engine, plan, options).sample(of);
                result.samples.resize(dim);
                return result.samples;
            };
            const std::vector<float> copied = of_first(seeds), estimates = previews;
            CHECK(engine.places.size() < 3); // the first call is the largest
            engine.places.clear();
            CHECK(of_first({seeds[0]}) == copied && previews == estimates);
            CHECK(engine.places.size() > 5 || plan.evaluations() + 1 < plan.size()); // there a window has gaps
        }
    }
}

void noise_drawn_meanwhile_is_the_same() {
    // More values than fit into a block, and samples that wait for a lane: as one after the other.
    Mixture engine(2049);
    const Plan plan = make_plan(20, 1);
    Options options = window(6, 0);
    options.max_rows = 12;
    CHECK(Sampler(engine, plan, options).sample(seeds).samples == Sampler(engine, plan).sample(seeds).samples);
    engine.poison = 1; // and an engine that fails leaves no thread behind
    thrown<NumericalError>([&] { Sampler(engine, plan, options).sample(seeds); });
}

void wrong_values_are_named() {
    Mixture engine(dim), conditional(dim, 2);
    const Plan plan = make_plan(20, 0);
    const auto refused = [&](Mixture &e, const Options &options, const Conditions &conditions = {}) {
        return thrown<InputError>([&] { Sampler(e, plan, options).sample(seeds, conditions); });
    };
    CHECK(Sampler(engine, plan, window(99)).options().window == 19); // the plan's length
    CHECK(refused(engine, window(2, -1)).rfind("tolerance: got -1", 0) == 0);
    CHECK(refused(engine, window(2, NAN)).rfind("tolerance: got ", 0) == 0);
    Options options = window(8);
    options.max_rows = 7;
    CHECK(refused(engine, options) == "max_rows: got 7; a window of 8 needs at least 8");
    options = window(8);
    options.error_floor = 0;
    CHECK(refused(engine, options).rfind("error_floor: got 0", 0) == 0);
    options = window(8);
    options.guidance = 2;
    CHECK(refused(engine, options).rfind("guidance: this model takes no conditions", 0) == 0);
    const auto labels = [](std::vector<std::int64_t> values) { return Conditions{{"labels", std::move(values)}}; };
    CHECK(refused(engine, {}, labels({0, 0, 0, 0, 0})) == "labels: this model is unconditional and takes none");
    CHECK(refused(conditional, {}).rfind("labels: got none; this model needs one per seed", 0) == 0);
    CHECK(refused(conditional, {}, labels({0})) == "labels: got 1 values, expected 1 for each of 5 samples");
    CHECK(refused(conditional, {}, labels({0, 0, 0, 0, 3})) ==
          "labels: got 3; this model takes 0 to 2 (2 = unconditional)");
    CHECK(refused(conditional, {}, {{"labels", std::vector<float>(5)}}) == "labels: got float32, expected int64");
    CHECK(refused(conditional, {}, {{"colour", std::vector<float>(5)}}) ==
          "colour: this model takes no such condition; it takes labels");
    CHECK(thrown<InputError>([&] { Sampler(engine, plan).sample({}); }).rfind("seeds: got none", 0) == 0);
    Plan broken = plan;
    broken.state.pop_back();
    CHECK(thrown<InputError>([&] { Sampler(engine, broken); }) == "plan test: state has 39 values, expected 40");
}

void nan_ends_the_run() {
    for (const std::size_t width : {0, 6}) {
        for (const std::size_t n : {std::size_t{1}, seeds.size()}) {
            Mixture engine(dim);
            engine.poison = 1;
            const Sampler sampler(engine, make_plan(20, 0), window(width));
            const std::vector<std::uint64_t> some(seeds.begin(), seeds.begin() + static_cast<std::ptrdiff_t>(n));
            const std::string what = thrown<NumericalError>([&] { sampler.sample(some); });
            CHECK(what == "the network returned NaN or infinity at node 10 (sigma = 0.774264) of sample 0; check the "
                          "model there (ncdeploy verify), or its precision");
        }
    }
    // Coefficients that overflow must not send the window anywhere.
    Plan plan = make_plan(41, 1, true);
    for (double &a : plan.state) {
        a *= 1e60;
    }
    Mixture engine(dim);
    thrown<NumericalError>([&] { Sampler(engine, plan, window(6)).sample(seeds); });
}

// A Mixture that is wired wrongly.
class Miswired : public Mixture {
  public:
    enum class Fault { none, swapped, one_sigma, dead_input, dead_output, scaled };
    Miswired(std::size_t dim, Fault fault) : Mixture(dim), fault_(fault) {}
    void denoise(const Batch &batch) override {
        const std::size_t n = batch.rows, values = info().dim();
        std::vector<float> x(batch.x, batch.x + n * values), sigma(batch.sigma, batch.sigma + n);
        Batch inner = batch;
        inner.x = x.data(), inner.sigma = sigma.data();
        if (fault_ == Fault::one_sigma) {
            std::fill(sigma.begin(), sigma.end(), sigma[0]);
        }
        for (std::size_t i = 0; fault_ == Fault::dead_input && i < n; ++i) {
            x[i * values + 3] = 0;
        }
        Mixture::denoise(inner);
        if (fault_ == Fault::swapped) {
            std::rotate(batch.denoised, batch.denoised + values, batch.denoised + n * values);
        }
        for (std::size_t i = 0; i < n * values; ++i) {
            batch.denoised[i] *= fault_ == Fault::scaled ? 0.7F : 1.0F;
            if (fault_ == Fault::dead_output && i % values == 2) {
                batch.denoised[i] = 0.5F;
            }
        }
    }

  private:
    Fault fault_;
};

void a_miswired_engine_is_found_out() {
    using Fault = Miswired::Fault;
    const std::size_t many = 24;
    for (Plan plan : {make_plan(40, 0), make_plan(900, 1), make_plan(41, 0, true)}) {
        for (std::size_t k = 0; k < plan.size(); ++k) {
            plan.jacobian.push_back(plan.evaluated[k] ? Mixture::jacobian(plan.sigmas[k]) : 0);
        }
        for (const std::size_t most : {std::size_t{0}, std::size_t{5}}) {
            Miswired sound(many, Fault::none);
            CHECK(sound.check(plan, most).empty());
            CHECK(sound.largest <= (most ? most : 65));
            const auto finds = [&](Fault fault, const char *said) {
                return Miswired(many, fault).check(plan, most).find(said) != std::string::npos;
            };
            CHECK(finds(Fault::swapped, most ? "" : "another order"));
            CHECK(finds(Fault::one_sigma, most ? "" : "sigma is not per row"));
            CHECK(finds(Fault::dead_input, "1 of 24 values of the input make no difference"));
            CHECK(finds(Fault::dead_output, "1 of 24 values of the output are the same"));
            CHECK(finds(Fault::scaled, "scaled or wired wrongly"));
        }
    }
    Mixture broken(many);
    broken.poison = 0.5;
    CHECK(broken.check(make_plan(40, 0)).find("NaN") != std::string::npos);
}

} // namespace

int main() {
    a_miswired_engine_is_found_out();
    parallel_ends_at_the_sequential_result();
    a_sample_depends_on_its_seed_alone();
    the_jacobian_saves_sweeps();
    guidance_mixes_two_evaluations();
    conditions_belong_to_their_sample();
    a_start_saves_sweeps_and_changes_nothing();
    a_run_ends_by_its_deadline();
    samples_in_law_have_the_law();
    a_host_may_take_the_steps();
    previews_end_in_the_samples();
    a_chunk_is_shifted();
    progress_is_told();
    a_steady_sweep_allocates_nothing();
    one_sample_is_evaluated_where_it_lies();
    noise_drawn_meanwhile_is_the_same();
    wrong_values_are_named();
    nan_ends_the_run();
}
