#include "track.hpp"

namespace ncdeploy::detail {

Terms Track::row(const Plan &plan, std::size_t k, std::size_t first) {
    Terms out;
    const auto add = [&](double coefficient, const float *values) {
        if (coefficient != 0) {
            out.terms[out.size++] = {coefficient, values + first};
        }
    };
    for (std::size_t h = 0; h < std::min(plan.reach, k); ++h) {
        add(plan.state[k * plan.reach + h], x[k - 1 - h]);
        add(plan.denoised[k * plan.reach + h], D[k - 1 - h]);
    }
    return out;
}

} // namespace ncdeploy::detail
