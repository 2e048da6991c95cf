// Acceptance in law: a sweep as the verification of drafts, as in ncdeploy/sampling/law.py, where the method stands.
//
// Every row adds noise, x_k = m_k + c_k xi_k. The states of a window are drafts, made with other means than m_k; v is what
// a draft is off, and it is accepted with probability min(1, N(xi + v) / N(xi)), else its noise is reflected, and the
// sweep ends there. Samples have the law of sequential sampling exactly, and are not those of the same seeds.
#include <array>
#include <cmath>

#include "lane.hpp"

namespace ncdeploy::detail {
namespace {

class LawLane final : public Lane {
  public:
    LawLane(const Run &run, const Window &window, std::size_t sample)
        : Lane(run, window, sample), draft_(run.dim), mean_(run.dim) {
        sums_.reserve((run.dim + piece - 1) / piece * window.span);
        draw_window();
        extend(1);
    }

    void sweep() override {
        const std::size_t known = window_.previous[stop_];
        std::size_t k = base_ + 1;
        while (!decide(k)) {
            ++k;
        }
        store(k);
        follow(k, known);
    }

  private:
    // The probability 2 Phi(|v| / 2) - 1 that a draft is rejected; norm is |v| over the noise.
    static double rejection(double norm) { return std::erf(norm / (2 * std::sqrt(2.0))); }

    // The mean diagonal of dD/dx.
    float g(std::size_t k) const {
        return run_.plan.jacobian.empty() ? 0.0F : static_cast<float>(run_.plan.jacobian[k]);
    }

    // Whether the sweep ends at node k, the first that is not decided; its state is exact then, and also otherwise.
    bool decide(std::size_t k) {
        const float *noise = draws(k, 0), *x = track_.x[k];
        const double c = run_.plan.noise[k];
        std::array<double, 2> sums{}; // v'v and v'c xi
        each_piece(run_.dim, [&](std::size_t first, std::size_t count) {
            kernels().compare(track_.row(run_.plan, k, first), count, noise + first, x + first, mean_.data() + first,
                              draft_.data() + first, sums.data());
        });
        const auto [square, along] = sums;
        const double norm = std::sqrt(square) / c, odds = rejection(norm);
        const bool tested = k < stop_ && odds <= run_.options.theta; // false for NaN, where there is no noise
        if (tested) {
            run_.result.rejection_odds[sample] += odds;
            std::array<float, 2> z{};
            normal(run_.seeds[sample], run_.plan.size() + k, 0, z.size(), 1.0, z.data());
            const double log_uniform = -(static_cast<double>(z[0]) * static_cast<double>(z[0]) +
                                         static_cast<double>(z[1]) * static_cast<double>(z[1])) /
                                       2;
            if (log_uniform <= -norm * norm / 2 - along / (c * c)) {
                return false;
            }
            ++run_.result.rejections[sample];
        }
        const float twice = tested ? static_cast<float>(2 * along / square) : 0.0F;
        const bool evaluated = k < stop_;
        float *state = track_.x[k], *D = track_.D[k];
        if (!evaluated) { // its output begins with the last one
            std::copy_n(track_.D[window_.previous[stop_]], run_.dim, D);
        }
        for (std::size_t i = 0; i < run_.dim; ++i) {
            const float exact = mean_[i] + noise[i] - twice * draft_[i];
            D[i] += g(k) * (exact - (evaluated ? state[i] : mean_[i]));
            state[i] = exact;
        }
        return true;
    }

    // The window moves to node k: outputs up to node `known` follow their states, until one of these jumps too far to
    // keep, and the others begin with the last.
    void follow(std::size_t k, std::size_t known) {
        move(k, window_.stop[k], std::max(k, known), k);
        draw_window();
        std::size_t first_new = std::max(k, std::min(known, stop_)) + 1;
        const std::size_t nodes = first_new - k - 1;
        sums_.assign((run_.dim + piece - 1) / piece * nodes, 0);
        shared_pieces([&](std::size_t at, std::size_t first, std::size_t count) {
            for (std::size_t j = k + 1; j < first_new; ++j) {
                sums_[at * nodes + j - k - 1] =
                    kernels().advance(track_.row(run_.plan, j, first), count, draws(j, first), g(j),
                                      track_.x[j] + first, track_.D[j] + first);
            }
        });
        for (std::size_t j = k + keep + 1; j < first_new; ++j) {
            double sum = 0;
            for (std::size_t i = j - k - 1; i < sums_.size(); i += nodes) {
                sum += sums_[i];
            }
            if (std::sqrt(sum) * window_.scale[j] > jump) {
                stop_ = first_new = j; // which ends the loop
            }
        }
        std::copy_n(track_.D[first_new - 1], run_.dim, frozen_.begin());
        extend(first_new);
    }

    // Drafts and outputs of the nodes from `first` on, which are new.
    void extend(std::size_t first) {
        roll(first, first - 1, [&](std::size_t k) { return k < stop_ ? g(k) : 0.0F; });
    }

    std::vector<double> sums_; // of the pieces of the values, for every node
    std::vector<float> draft_, mean_; // of the node in question: what its draft is off, and its mean
};

} // namespace

std::unique_ptr<Lane> law_lane(const Run &run, const Window &window, std::size_t sample) {
    return std::make_unique<LawLane>(run, window, sample);
}

} // namespace ncdeploy::detail
