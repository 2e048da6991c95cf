#include "jacobian.hpp"

#include <algorithm>

namespace ncdeploy::detail {

Jacobian::Jacobian(const Plan &plan, std::size_t slots, std::size_t dim)
    : known_(plan.jacobian), slots_(known_.empty() ? slots : 0), dim_(dim), x_(slots_, dim), D_(slots_, dim),
      g_(slots_), seen_(slots_) {}

double Jacobian::at(std::size_t node) const { return known_.empty() ? g_[node % slots_] : known_[node]; }

void Jacobian::update(std::size_t node, const float *x, const float *D) {
    if (!known_.empty()) {
        return;
    }
    float *x_old = x_[node], *D_old = D_[node];
    double norm = 0, product = 0;
    for (std::size_t i = 0; i < dim_; ++i) {
        const double dx = static_cast<double>(x[i]) - static_cast<double>(x_old[i]);
        norm += dx * dx;
        product += dx * (static_cast<double>(D[i]) - static_cast<double>(D_old[i]));
    }
    double &g = g_[node % slots_];
    if (seen_[node % slots_] && norm > 0) {
        g = (g + std::clamp(product / norm, 0.0, 1.0)) / 2;
    }
    seen_[node % slots_] = true;
    std::copy_n(x, dim_, x_old);
    std::copy_n(D, dim_, D_old);
}

void Jacobian::reset(std::size_t node, double g) {
    if (known_.empty()) {
        g_[node % slots_] = g;
        seen_[node % slots_] = false;
    }
}

} // namespace ncdeploy::detail
