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

constexpr double jump = 0.3;     // a node that moved by more than this part of its noise level is not worth keeping
constexpr std::size_t keep = 16; // but this many nodes behind the accepted ones always are

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
        draw_node(++drawn_);
        return true;
    }

    const std::size_t sample;

  protected:
    // The noise of values first, first + 1, ... at a node.
    const float *draws(std::size_t k, std::size_t first) { return stochastic_ ? noise_[k] + first : noise_[0]; }

    void draw_window() {
        const std::size_t last = std::min(stop_, drawable());
        if (drawn_ < last) {
            share(run_.helper, last - drawn_, [&](std::size_t i) { draw_node(drawn_ + 1 + i); });
            drawn_ = last;
        }
    }

    // work(piece, first, count) for every piece of the values, some of them on the helper's thread.
    template <class Work> void shared_pieces(const Work &work) {
        share(run_.helper, (run_.dim + piece - 1) / piece,
              [&](std::size_t i) { work(i, i * piece, std::min(piece, run_.dim - i * piece)); });
    }

    // Nodes `first` to stop_, which are new: their states from their rows, and the outputs that they begin with.
    // That is the frozen one, of the node before; along a trajectory it moves as that does, otherwise by g(k) times
    // the noise of the nodes between.
    template <class Jacobians> void roll(std::size_t first, std::size_t known, const Jacobians &g) {
        shared_pieces([&](std::size_t, std::size_t at, std::size_t count) {
            float *frozen = frozen_.data() + at;
            for (std::size_t k = std::max(first, base_); k <= stop_; ++k) {
                if (k > base_) {
                    const float *noise = draws(k, at);
                    const float follow = trajectory_ ? 0.0F : g(k);
                    kernels().state(track_.row(run_.plan, k, at), count, noise, track_.x[k] + at);
                    for (std::size_t i = 0; i < count; ++i) {
                        frozen[i] += follow * noise[i];
                    }
                }
                std::copy_n(frozen, count, track_.D[k] + at);
                for (std::size_t i = at; trajectory_ && i < at + count; ++i) {
                    track_.D[k][i] += trajectory_[k * run_.dim + i] - trajectory_[known * run_.dim + i];
                }
            }
        });
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
    void draw_node(std::size_t k) { normal(run_.seeds[sample], k, run_.dim, run_.plan.noise[k], noise_[k]); }

    const float *trajectory_ = nullptr; // [nodes, dim], of the sample in the run to start from
    std::size_t noise_slots() const { return 2 * window_.span; }

    // The last node whose noise has a place.
    std::size_t drawable() const { return stochastic_ ? std::min(window_.last, base_ + noise_slots()) : 0; }
};

// A lane that accepts nodes in law, see law.cpp.
std::unique_ptr<Lane> law_lane(const Run &run, const Window &window, std::size_t sample);

} // namespace ncdeploy::detail
