#include "track.hpp"

namespace ncdeploy::detail {

Terms Track::row(const Plan &plan, std::size_t k, std::size_t first) {
    Terms out;
    const auto add = [&](double coefficient, const float *values, double limit = 0) {
        if (coefficient != 0) {
            out.terms[out.size++] = {coefficient, values + first, static_cast<float>(limit)};
        }
    };
    const double cut = plan.cut.empty() ? 0 : plan.cut[k];
    for (std::size_t h = 0; h < std::min(plan.reach, k); ++h) {
        add(plan.state[k * plan.reach + h], x[k - 1 - h]);
        const double b = plan.denoised[k * plan.reach + h];
        add(b * (1 - cut), D[k - 1 - h]);
        add(b * cut, D[k - 1 - h], plan.clip);
    }
    return out;
}

} // namespace ncdeploy::detail
