// One sample at work in a window of a plan's nodes: what every way of accepting nodes shares.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "drivers.hpp"
#include "noise.hpp"
#include "track.hpp"
#include "window.hpp"

namespace ncdeploy::detail {

// Nodes up to `base` are accepted; base .. stop - 1 are the window.
class Lane {
  public:
    Lane(const Run &run, const Window &window, std::size_t sample)
        : sample(sample), stop_(window.stop[0]), stochastic_(run.plan.stochastic()), run_(run), window_(window),
          track_(window.slots(), run.dim), noise_(stochastic_ ? noise_slots() : 1, run.dim), frozen_(run.dim) {
        if (run.start) {
            const bool whole = !run.start->trajectory.empty();
            const float *first = whole ? run.start->trajectory.data() + sample * run.plan.size() * run.dim
                                       : run.start->samples.data() + sample * run.dim;
            std::copy_n(first, run.dim, frozen_.begin());
            trajectory_ = whole ? first : nullptr;
        } else {
            std::copy(run.mean.begin(), run.mean.end(), frozen_.begin());
        }
        std::copy(frozen_.begin(), frozen_.end(), track_.D[0]);
        normal(run.seeds[sample], 0, run.dim, run.plan.noise[0], track_.x[0]);
    }
    Lane(const Lane &) = delete;
    Lane &operator=(const Lane &) = delete;
    virtual ~Lane() = default;

    // After D was evaluated: new states, and the window moves on. Puts its figures into the run's result.
    virtual void sweep() = 0;

    // For a run that ends early: D at the last node of the window, and how far off the nodes left in it were.
    const float *estimate() { return track_.D[window_.previous[stop_]]; }
    double left() const { return left_; }

    bool done() const { return base_ == window_.last; }
    std::size_t accepted() const { return done() ? base_ + 1 : base_; }
    const float *state() { return track_.x[base_]; }

    void submit(Evaluator &evaluator) {
        for (std::size_t k = base_; k < stop_; ++k) {
            if (run_.plan.evaluated[k]) {
                evaluator.add(track_.x[k], k, sample, track_.D[k]);
            }
        }
    }

    // Nodes from the first of the window on whose noise is there; as many as can be when all of it is.
    std::size_t spare() const { return drawn_ < drawable() ? drawn_ - base_ : std::numeric_limits<std::size_t>::max(); }

    // Draws the noise of one more node, of this window or the next one; false when all of it is there. Touches nothing
    // that the evaluation of the window reads.
    bool draw() {
        if (drawn_ >= drawable()) {
            return false;
        }
        ++drawn_;
        normal(run_.seeds[sample], drawn_, run_.dim, run_.plan.noise[drawn_], noise_[drawn_]);
        return true;
    }

    const std::size_t sample;

  protected:
    // The noise of values first, first + 1, ... at a node.
    const float *draws(std::size_t k, std::size_t first) { return stochastic_ ? noise_[k] + first : noise_[0]; }

    void draw_window() {
        while (drawn_ < stop_ && draw()) {
        }
    }

    // Node k, which is new: its state from its row, and the output that it begins with. That is the frozen one, of node
    // `known`; along a trajectory it moves as that does, otherwise by g times the noise of the nodes between.
    void roll(std::size_t k, std::size_t known, float g) {
        if (k > base_) {
            track_.step(run_.plan, k, [&](std::size_t at, const double *row, std::size_t count) {
                const float *noise = draws(k, at);
                float *x = track_.x[k] + at, *D = frozen_.data() + at;
                for (std::size_t i = 0; i < count; ++i) {
                    x[i] = static_cast<float>(row[i] + static_cast<double>(noise[i]));
                    D[i] += trajectory_ ? 0.0F : g * noise[i];
                }
            });
        }
        float *D = track_.D[k];
        std::copy(frozen_.begin(), frozen_.end(), D);
        for (std::size_t i = 0; trajectory_ && i < run_.dim; ++i) {
            D[i] += trajectory_[k * run_.dim + i] - trajectory_[known * run_.dim + i];
        }
    }

    // The nodes before `accepted` are final.
    void store(std::size_t accepted) {
        for (std::size_t k = base_; run_.options.keep && k < accepted; ++k) {
            std::copy_n(track_.D[k], run_.dim,
                        run_.result.trajectory.data() + (sample * run_.plan.size() + k) * run_.dim);
        }
    }

    std::size_t base_ = 0, stop_, drawn_ = 0; // drawn_: noise is there up to this node
    const bool stochastic_;
    const Run &run_;
    const Window &window_;
    Track track_;
    Ring noise_;
    std::vector<float> frozen_; // the output that nodes new to the window begin with
    double left_ = std::numeric_limits<double>::infinity();

  private:
    const float *trajectory_ = nullptr; // [nodes, dim], of the sample in the run to start from
    std::size_t noise_slots() const { return 2 * window_.span; }

    // The last node whose noise has a place.
    std::size_t drawable() const { return stochastic_ ? std::min(window_.last, base_ + noise_slots()) : 0; }
};

// A lane that accepts nodes in law, see law.cpp.
std::unique_ptr<Lane> law_lane(const Run &run, const Window &window, std::size_t sample);

} // namespace ncdeploy::detail
