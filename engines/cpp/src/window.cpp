#include "window.hpp"

#include <algorithm>
#include <cmath>

namespace ncdeploy::detail {

Window::Window(const Plan &plan, std::size_t width, double floor, std::size_t dim)
    : last(plan.size() - 1), reach(plan.reach), stop(plan.size()), next(plan.size()), previous(plan.size()),
      scale(plan.size()) {
    std::vector<std::size_t> nodes; // the evaluated ones
    for (std::size_t k = 0; k < plan.size(); ++k) {
        if (plan.evaluated[k]) {
            nodes.push_back(k);
        }
    }
    const auto node = [&](std::size_t rank) { return rank < nodes.size() ? nodes[rank] : last; };
    std::size_t rank = 0; // evaluated nodes before k
    for (std::size_t k = 0; k < plan.size(); ++k) {
        next[k] = node(rank);
        stop[k] = node(rank + width);
        previous[k] = nodes[std::max<std::size_t>(rank, 1) - 1];
        scale[k] = 1 / (std::hypot(plan.sigmas[k], floor) * std::sqrt(static_cast<double>(dim)));
        if (plan.evaluated[k]) {
            span = std::max(span, stop[k] - k);
            ++rank;
        }
    }
}

} // namespace ncdeploy::detail
