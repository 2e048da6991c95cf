// The parallel driver: a fixed-point iteration over a sliding window of a plan's nodes.
//
// One sweep evaluates D at every node of every sample's window in one network call, then runs through the plan's rows
// for new states. The linear part of the rows is exact, and D follows the states by the scalar Jacobian g, the mean
// diagonal of dD/dx: once the new state of a node is known, its output becomes D + g (x_new - x_old), and the rows
// behind it use that. (This is the triangular system of ncdeploy/sampling/parallel.py, solved forward in double instead
// of with the inverse: the same solution, in reach instead of window steps for each node.) Nodes that stand still are
// accepted from the front, at least one a sweep, because the first node of a window is exact. Nodes at the far end that
// still jump by a good part of their noise level are dropped and start anew later.
//
// A node new to a window has no output yet. Along the trajectory of an ODE plan D hardly changes, so it starts from the
// last D before it; in an SDE plan D is a martingale driven by the injected noise, so it also moves by g times that
// noise. The first window of all starts from the data mean.
#include <array>
#include <cmath>
#include <list>
#include <optional>

#include "helper.hpp"
#include "jacobian.hpp"
#include "lane.hpp"

namespace ncdeploy::detail {
namespace {

constexpr std::size_t worth_a_thread = 2048; // values of a sample from which on a second thread helps

class PathwiseLane final : public Lane {
  public:
    PathwiseLane(const Run &run, const Window &window, std::size_t sample)
        : Lane(run, window, sample), jacobian_(run.plan, window.slots(), run.dim),
          pieces_((run.dim + piece - 1) / piece) {
        sums_.reserve(2 * pieces_ * window.span);
        changes_.reserve(window.span);
        extend(0, 0.0F);
    }

    void sweep() override {
        if (jacobian_.estimated()) {
            estimate_jacobian();
        }
        advance();
        std::size_t accepted = stop_, steady = window_.last;
        double worst = 0;
        left_ = 0;
        for (std::size_t k = base_ + 1; k < stop_; ++k) {
            if (!run_.plan.evaluated[k]) {
                continue;
            }
            const double residual = std::sqrt(changes_[k - base_]) * window_.scale[k]; // over the noise level
            left_ = accepted != stop_ || !(residual <= run_.options.tolerance) ? std::max(left_, residual) : left_;
            if (accepted == stop_ && !(residual <= run_.options.tolerance)) {
                accepted = k;
            } else if (accepted == stop_) {
                worst = std::max(worst, residual);
            }
            if (!(residual <= jump) && k > accepted + keep) {
                steady = k;
                break; // what lies behind starts anew
            }
        }
        store(accepted);
        slide(accepted, steady);
        double &residual = run_.result.residual[sample];
        residual = std::max(residual, worst);
    }

  private:
    // New states, and outputs that follow them; changes_ are the sums of the squared changes, of node base_ on.
    void advance() {
        const std::size_t nodes = stop_ - base_;
        sums_.assign(pieces_ * nodes, 0);
        shared_pieces([&](std::size_t at, std::size_t first, std::size_t count) {
            double *sums = &sums_[at * nodes];
            sums[0] = kernels().finite(count, track_.D[base_] + first) ? 0.0 : NAN;
            for (std::size_t k = base_ + 1; k < stop_; ++k) {
                const auto g = static_cast<float>(run_.plan.evaluated[k] ? jacobian_.at(k) : 0.0);
                sums[k - base_] = kernels().advance(track_.row(run_.plan, k, first), count, draws(k, first), g,
                                                    track_.x[k] + first, track_.D[k] + first);
            }
            kernels().state(track_.row(run_.plan, stop_, first), count, draws(stop_, first), track_.x[stop_] + first);
        });
        changes_.assign(nodes, 0);
        for (std::size_t i = 0; i < sums_.size(); ++i) {
            changes_[i % nodes] += sums_[i];
        }
        for (std::size_t k = base_; k < stop_; ++k) {
            if (run_.plan.evaluated[k] && !std::isfinite(changes_[k - base_])) {
                run_.evaluator.check(sample, k, track_.D[k]);
            }
        }
    }

    void estimate_jacobian() {
        const std::size_t nodes = stop_ - base_;
        sums_.assign(2 * pieces_ * nodes, 0);
        shared_pieces([&](std::size_t at, std::size_t first, std::size_t count) {
            for (std::size_t k = base_; k < stop_; ++k) {
                if (run_.plan.evaluated[k]) {
                    jacobian_.take(k, first, count, track_.x[k], track_.D[k], &sums_[2 * (at * nodes + k - base_)]);
                }
            }
        });
        for (std::size_t k = base_; k < stop_; ++k) {
            std::array<double, 2> sums{};
            for (std::size_t at = 0; at < pieces_; ++at) {
                sums[0] += sums_[2 * (at * nodes + k - base_)];
                sums[1] += sums_[2 * (at * nodes + k - base_) + 1];
            }
            if (run_.plan.evaluated[k]) {
                jacobian_.update(k, sums.data());
            }
        }
    }

    void slide(std::size_t accepted, std::size_t steady) {
        const std::size_t known = window_.previous[std::min(steady, stop_)]; // the last node whose output stays
        const float g = static_cast<float>(jacobian_.at(known));
        std::copy_n(track_.D[known], run_.dim, frozen_.begin());
        const std::size_t stop = std::min(window_.stop[accepted], window_.next[steady]);
        const std::size_t used = known + 1 - std::min(run_.plan.reach, known + 1);
        move(accepted, stop, std::min(stop_, stop), used);
        if (window_.previous[stop_] > known) {
            extend(known + 1, g);
        }
    }

    // Outputs and states of the nodes from `first` on, which are new: the frozen output, rolled out through the rows.
    void extend(std::size_t first, float g_known) {
        draw_window();
        for (std::size_t k = std::max(first, base_); k <= stop_; ++k) {
            jacobian_.reset(k, g_known);
        }
        roll(first, std::max<std::size_t>(first, 1) - 1,
             [&](std::size_t k) { return static_cast<float>(jacobian_.at(k)); });
    }

    Jacobian jacobian_;
    const std::size_t pieces_;
    std::vector<double> sums_, changes_; // for every node, of the pieces and of all values
};

class Parallel final : public Driver {
  public:
    explicit Parallel(const Run &run)
        : run_(run), window_(run.plan, run.options.window, run.options.error_floor, run.dim),
          accepted_(run.seeds.size(), 0), estimates_(run.seeds.size(), nullptr) {
        if (run_.dim >= worth_a_thread) {
            helper_.emplace([this] {
                return std::min_element(lanes_.begin(), lanes_.end(),
                                        [](const auto &a, const auto &b) { return a->spare() < b->spare(); })
                    ->get()
                    ->draw();
            });
            run_.helper = &*helper_;
        }
    }

    bool step() override {
        for (; lanes_.size() < run_.lanes && waiting_ < run_.seeds.size(); ++waiting_) {
            lanes_.push_back(run_.options.acceptance == Acceptance::law
                                 ? law_lane(run_, window_, waiting_)
                                 : std::make_unique<PathwiseLane>(run_, window_, waiting_));
        }
        for (const auto &lane : lanes_) {
            lane->submit(run_.evaluator);
        }
        const bool in_law = run_.options.acceptance == Acceptance::law; // others check outputs as they use them
        const std::size_t rows = run_.evaluator.run(run_.helper, in_law);
        for (const auto &lane : lanes_) {
            const std::size_t i = lane->sample;
            lane->sweep();
            ++run_.result.sweeps[i];
            accepted_[i] = lane->accepted();
            estimates_[i] = lane->estimate();
            if (lane->done()) {
                float *sample = run_.result.samples.data() + i * run_.dim;
                std::copy_n(lane->state(), run_.dim, sample);
                estimates_[i] = sample;
            }
        }
        lanes_.remove_if([](const auto &lane) { return lane->done(); });
        if (run_.options.on_sweep) {
            run_.options.on_sweep({run_.evaluator.calls, rows, run_.plan.size(), accepted_, estimates_});
        }
        return !lanes_.empty() || waiting_ < run_.seeds.size();
    }

    void leave() override {
        for (const auto &lane : lanes_) {
            run_.leave(lane->sample, lane->accepted(), lane->estimate(), lane->left());
        }
        for (std::size_t i = waiting_; i < run_.seeds.size(); ++i) {
            run_.leave(i, 0, nullptr, std::numeric_limits<double>::infinity());
        }
    }

  private:
    Run run_;
    const Window window_;
    std::vector<std::size_t> accepted_;
    std::vector<const float *> estimates_;
    std::list<std::unique_ptr<Lane>> lanes_;
    std::size_t waiting_ = 0;      // the next sample without a lane
    std::optional<Helper> helper_; // the last, so that it ends before what it works on
};

} // namespace

std::unique_ptr<Driver> parallel_driver(const Run &run) { return std::make_unique<Parallel>(run); }

} // namespace ncdeploy::detail
