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
          in_place_(run.in_place()), track_((in_place_ ? 2 : 1) * window.slots(), run.dim),
          noise_(stochastic_ ? noise_slots() : 1, run.dim), frozen_(run.dim) {
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
        normal(run.seeds[sample], 0, 0, run.dim, run.plan.noise[0], track_.x[0]);
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

    // Parts of noise that are there, from the first node of the window on; as many as can be when all of it is.
    std::size_t spare() const {
        return drawn_ < drawable() * parts_ ? drawn_ - base_ * parts_ : std::numeric_limits<std::size_t>::max();
    }

    // Draws one more part of the noise of this window or the next one; false when all of it is there. Touches nothing
    // that the evaluation of the window reads.
    bool draw() {
        if (drawn_ >= drawable() * parts_) {
            return false;
        }
        draw_part(drawn_++);
        return true;
    }

    const std::size_t sample;

  protected:
    // The noise of values first, first + 1, ... at a node.
    const float *draws(std::size_t k, std::size_t first) { return stochastic_ ? noise_[k] + first : noise_[0]; }

    void draw_window() {
        const std::size_t end = std::min(stop_, drawable()) * parts_;
        if (drawn_ < end) {
            share(run_.helper, end - drawn_, [&](std::size_t i) { draw_part(drawn_ + i); });
            drawn_ = end;
        }
    }

    // The window begins at node k and ends before `stop`. In place, it goes back to the front of its memory where that
    // ends, once in a window's length of nodes: then of the nodes up to `last` stays what rows use, the states, and the
    // outputs before the window and from node `used` on.
    void move(std::size_t k, std::size_t stop, std::size_t last, std::size_t used) {
        base_ = k;
        stop_ = stop;
        drawn_ = std::max(drawn_, base_ * parts_);
        if (in_place_ && !track_.x.straight(stop_)) {
            const std::size_t first = base_ + 1 - std::min(run_.plan.reach, base_ + 1);
            shared_pieces([&](std::size_t, std::size_t at, std::size_t count) {
                for (std::size_t j = first; j <= last; ++j) {
                    track_.x.move(j, j - first, at, count);
                    if (j < base_ || j >= used) {
                        track_.D.move(j, j - first, at, count);
                    }
                }
            });
            track_.x.set_origin(first);
            track_.D.set_origin(first);
        }
    }

    // work(piece, first, count) for every piece of the values, some of them on the helper's thread.
    template <class Work> void shared_pieces(const Work &work) {
        share(run_.helper, (run_.dim + piece - 1) / piece,
              [&](std::size_t i) { work(i, i * piece, std::min(piece, run_.dim - i * piece)); });
    }

    // Nodes `first` to stop_, which are new: their states from their rows, and the outputs that they begin with.
    // That is the frozen one, of the node before; along a trajectory it moves as that does, otherwise by g(k) times
    // the noise of the nodes between. It is kept where something reads it before the network writes there: as estimate
    // of the sample, and by rows that reach further back.
    template <class Jacobians> void roll(std::size_t first, std::size_t known, const Jacobians &g) {
        const std::size_t kept = trajectory_ || run_.plan.reach > 1 ? 0 : window_.previous[stop_];
        shared_pieces([&](std::size_t, std::size_t at, std::size_t count) {
            float *frozen = frozen_.data() + at;
            for (std::size_t k = std::max(first, base_); k <= stop_; ++k) {
                if (k > base_) {
                    const float *noise = draws(k, at);
                    kernels().state(track_.row(run_.plan, k, at, trajectory_ ? nullptr : frozen), count, noise,
                                    track_.x[k] + at);
                    kernels().drift(count, trajectory_ ? 0.0F : g(k), noise, frozen);
                }
                if (k <= base_ || k >= kept) {
                    std::copy_n(frozen, count, track_.D[k] + at);
                }
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

    std::size_t base_ = 0, stop_;
    const bool stochastic_;
    const Run &run_;
    const Window &window_;
    const bool in_place_; // the window's rows lie one behind the other, and the network gets them where they are
    Track track_;
    Ring noise_;
    std::vector<float> frozen_; // the output that nodes new to the window begin with
    double left_ = std::numeric_limits<double>::infinity();

  private:
    // Parts are small, so that the helper is soon done with the one that it is at: parts_ of them are a node's noise,
    // and that of node 1 is the first.
    void draw_part(std::size_t part) {
        constexpr std::size_t most = 4 * piece;
        const std::size_t k = part / parts_ + 1, first = part % parts_ * most;
        normal(run_.seeds[sample], k, first, std::min(most, run_.dim - first), run_.plan.noise[k], noise_[k] + first);
    }

    const std::size_t parts_ = (run_.dim + 4 * piece - 1) / (4 * piece);
    std::size_t drawn_ = 0;             // parts of noise that are there
    const float *trajectory_ = nullptr; // [nodes, dim], of the sample in the run to start from
    std::size_t noise_slots() const { return 2 * window_.span; }

    // The last node whose noise has a place.
    std::size_t drawable() const { return stochastic_ ? std::min(window_.last, base_ + noise_slots()) : 0; }
};

// A lane that accepts nodes in law, see law.cpp.
std::unique_ptr<Lane> law_lane(const Run &run, const Window &window, std::size_t sample);

} // namespace ncdeploy::detail
