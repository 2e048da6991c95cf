// Forward substitution through a plan: one network call after another.
#include <algorithm>
#include <limits>

#include "drivers.hpp"
#include "noise.hpp"
#include "track.hpp"

namespace ncdeploy::detail {
namespace {

class Sequential final : public Driver {
  public:
    explicit Sequential(const Run &run)
        : run_(run), noise_(run.dim), accepted_(run.seeds.size(), 0), estimates_(run.seeds.size(), nullptr) {
        for (std::size_t k = 0; k < run.plan.size(); ++k) {
            last_call_ = run.plan.evaluated[k] ? k : last_call_;
        }
        begin();
    }

    bool step() override {
        while (!run_.plan.evaluated[k_]) {
            node();
        }
        node();
        const std::size_t k = k_ - 1, rows = run_.evaluator.run();
        for (std::size_t i = first_; i < last(); ++i) {
            float *D = tracks_[i - first_].D[k];
            accepted_[i] = k_;
            estimates_[i] = D;
            if (run_.options.keep) {
                std::copy_n(D, run_.dim, run_.result.trajectory.data() + (i * run_.plan.size() + k) * run_.dim);
            }
        }
        if (run_.options.on_sweep) {
            run_.options.on_sweep({run_.evaluator.calls, rows, run_.plan.size(), accepted_, estimates_});
        }
        if (k == last_call_) {
            end();
        }
        return first_ < run_.seeds.size();
    }

    void leave() override {
        for (std::size_t i = first_; i < run_.seeds.size(); ++i) {
            const bool begun = i < last() && k_ > 0;
            run_.leave(i, begun ? k_ : 0, begun ? estimates_[i] : nullptr, std::numeric_limits<double>::infinity());
        }
    }

  private:
    std::size_t last() const { return std::min(first_ + run_.lanes, run_.seeds.size()); }

    // The group of samples from first_ on.
    void begin() {
        tracks_.assign(last() - first_, Track(run_.plan.reach + 1, run_.dim));
        k_ = 0;
    }

    // Node k_ of the group: its states, which go to the network if they shall.
    void node() {
        const Plan &plan = run_.plan;
        for (std::size_t i = first_; i < last(); ++i) {
            Track &track = tracks_[i - first_];
            std::fill(noise_.begin(), noise_.end(), 0.0F);
            if (plan.noise[k_] != 0) {
                normal(run_.seeds[i], k_, 0, run_.dim, plan.noise[k_], noise_.data());
            }
            float *x = track.x[k_];
            each_piece(run_.dim, [&](std::size_t first, std::size_t count) {
                kernels().state(track.row(plan, k_, first), count, noise_.data() + first, x + first);
            });
            if (plan.evaluated[k_]) {
                run_.evaluator.add(x, k_, i, track.D[k_]);
            }
        }
        ++k_;
    }

    // The group comes to its end, and the next one begins.
    void end() {
        while (k_ < run_.plan.size()) {
            node();
        }
        for (std::size_t i = first_; i < last(); ++i) {
            float *sample = run_.result.samples.data() + i * run_.dim;
            std::copy_n(tracks_[i - first_].x[run_.plan.size() - 1], run_.dim, sample);
            accepted_[i] = run_.plan.size();
            estimates_[i] = sample;
            run_.result.sweeps[i] = run_.plan.evaluations();
        }
        first_ = last();
        if (first_ < run_.seeds.size()) {
            begin();
        }
    }

    const Run run_;
    std::size_t first_ = 0, k_ = 0, last_call_ = 0; // of the group: its first sample; the next node; the last evaluated
    std::vector<Track> tracks_;
    std::vector<float> noise_;
    std::vector<std::size_t> accepted_;
    std::vector<const float *> estimates_;
};

} // namespace

std::unique_ptr<Driver> sequential_driver(const Run &run) { return std::make_unique<Sequential>(run); }

} // namespace ncdeploy::detail
