#include "track.hpp"

namespace ncdeploy::detail {

Terms Track::row(const Plan &plan, std::size_t k, std::size_t first, const float *newest) {
    Terms out;
    const auto add = [&](double coefficient, const float *values, double limit = 0) {
        if (coefficient != 0) {
            out.terms[out.size++] = {coefficient, values, static_cast<float>(limit)};
        }
    };
    const double cut = plan.cut.empty() ? 0 : plan.cut[k];
    for (std::size_t h = 0; h < std::min(plan.reach, k); ++h) {
        add(plan.state[k * plan.reach + h], x[k - 1 - h] + first);
        const double b = plan.denoised[k * plan.reach + h];
        const float *output = h == 0 && newest ? newest : D[k - 1 - h] + first;
        add(b * (1 - cut), output);
        add(b * cut, output, plan.clip);
    }
    return out;
}

} // namespace ncdeploy::detail
