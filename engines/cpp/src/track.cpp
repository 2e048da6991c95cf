#include "track.hpp"

#include <algorithm>

namespace ncdeploy::detail {

void Track::step(const Plan &plan, std::size_t k) {
    std::fill(row.begin(), row.end(), 0.0);
    const auto add = [&](double coefficient, const float *values) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            row[i] += coefficient * static_cast<double>(values[i]);
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
