#include "track.hpp"

namespace ncdeploy::detail {

void Track::sum(const Plan &plan, std::size_t k, std::size_t first, std::size_t count) {
    std::fill_n(row_.begin(), count, 0.0);
    const auto add = [&](double coefficient, const float *values) {
        for (std::size_t i = 0; i < count; ++i) {
            row_[i] += coefficient * static_cast<double>(values[first + i]);
        }
    };
    for (std::size_t h = 0; h < std::min(plan.reach, k); ++h) {
        if (const double a = plan.state[k * plan.reach + h]; a != 0) {
            add(a, x[k - 1 - h]);
        }
        if (const double b = plan.denoised[k * plan.reach + h]; b != 0) {
            add(b, D[k - 1 - h]);
        }
    }
}

} // namespace ncdeploy::detail
