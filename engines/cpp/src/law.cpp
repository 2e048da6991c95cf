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
        double square = 0, along = 0; // v'v and v'c xi
        track_.step(run_.plan, k, [&](std::size_t first, const double *row, std::size_t count) {
            for (std::size_t i = first; i < first + count; ++i) {
                mean_[i] = static_cast<float>(row[i - first]);
                draft_[i] = x[i] - noise[i] - mean_[i];
                square += static_cast<double>(draft_[i]) * static_cast<double>(draft_[i]);
                along += static_cast<double>(draft_[i]) * static_cast<double>(noise[i]);
            }
        });
        const double norm = std::sqrt(square) / c, odds = rejection(norm);
        const bool tested = k < stop_ && odds <= run_.options.theta; // false for NaN, where there is no noise
        if (tested) {
            run_.result.rejection_odds[sample] += odds;
            std::array<float, 2> z{};
            normal(run_.seeds[sample], run_.plan.size() + k, z.size(), 1.0, z.data());
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

    // The window moves to node k: outputs up to node `known` follow their states, and the others begin with the last.
    void follow(std::size_t k, std::size_t known) {
        base_ = k;
        drawn_ = std::max(drawn_, base_);
        stop_ = window_.stop[base_];
        draw_window();
        for (++k; k <= std::min(known, stop_); ++k) {
            track_.step(run_.plan, k, [&](std::size_t first, const double *row, std::size_t count) {
                const float *noise = draws(k, first);
                float *x = track_.x[k] + first, *D = track_.D[k] + first;
                for (std::size_t i = 0; i < count; ++i) {
                    const auto x_new = static_cast<float>(row[i] + static_cast<double>(noise[i]));
                    D[i] += g(k) * (x_new - x[i]);
                    x[i] = x_new;
                }
            });
        }
        std::copy_n(track_.D[k - 1], run_.dim, frozen_.begin());
        extend(k);
    }

    // Drafts and outputs of the nodes from `first` on, which are new.
    void extend(std::size_t first) {
        for (std::size_t k = first; k <= stop_; ++k) {
            roll(k, first - 1, k < stop_ ? g(k) : 0.0F);
        }
    }

    std::vector<float> draft_, mean_; // of the node in question: what its draft is off, and its mean
};

} // namespace

std::unique_ptr<Lane> law_lane(const Run &run, const Window &window, std::size_t sample) {
    return std::make_unique<LawLane>(run, window, sample);
}

} // namespace ncdeploy::detail
