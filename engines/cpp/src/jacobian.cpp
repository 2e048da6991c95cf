#include "jacobian.hpp"

#include <algorithm>

namespace ncdeploy::detail {

Jacobian::Jacobian(const Plan &plan, std::size_t slots, std::size_t dim)
    : known_(plan.jacobian), slots_(known_.empty() ? slots : 0), x_(slots_, dim), D_(slots_, dim), g_(slots_),
      seen_(slots_) {}

double Jacobian::at(std::size_t node) const { return known_.empty() ? g_[node % slots_] : known_[node]; }

void Jacobian::take(std::size_t node, std::size_t first, std::size_t count, const float *x, const float *D,
                    double *sums) {
    kernels().secant(count, x + first, D + first, x_[node] + first, D_[node] + first, sums);
}

void Jacobian::update(std::size_t node, const double *sums) {
    double &g = g_[node % slots_];
    if (seen_[node % slots_] && sums[0] > 0) {
        g = (g + std::clamp(sums[1] / sums[0], 0.0, 1.0)) / 2;
    }
    seen_[node % slots_] = true;
}

void Jacobian::reset(std::size_t node, double g) {
    if (known_.empty()) {
        g_[node % slots_] = g;
        seen_[node % slots_] = false;
    }
}

} // namespace ncdeploy::detail
