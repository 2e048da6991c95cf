// Plain loops that compilers turn into vector instructions; sums may be reordered (CMakeLists.txt). On x86 nothing is
// contracted into fused operations, so that processors with and without AVX2 agree in all but the order of sums.
#include "kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#if defined(__GNUC__)
#define NCDEPLOY_INLINE inline __attribute__((always_inline))
#define NCDEPLOY_RESTRICT __restrict__
#else
#define NCDEPLOY_INLINE inline
#define NCDEPLOY_RESTRICT __restrict
#endif

namespace ncdeploy::detail {
namespace {

// The values of a row: of two terms, as those of most plans are, or of any number.
struct Two {
    const Term &a, &b;

    NCDEPLOY_INLINE double operator()(std::size_t i) const {
        return a.coefficient * static_cast<double>(a.values[i]) + b.coefficient * static_cast<double>(b.values[i]);
    }
};

struct Any {
    NCDEPLOY_INLINE Any(const Terms &row, std::size_t count) {
        for (std::size_t j = 0; j < row.size; ++j) {
            const double coefficient = row.terms[j].coefficient;
            const float *values = row.terms[j].values;
            const float limit = row.terms[j].limit;
            for (std::size_t i = 0; i < count; ++i) {
                const float value = limit > 0 ? std::min(std::max(values[i], -limit), limit) : values[i];
                sums[i] = (j ? sums[i] : 0) + coefficient * static_cast<double>(value);
            }
        }
        for (std::size_t i = 0; row.size == 0 && i < count; ++i) {
            sums[i] = 0;
        }
    }
    NCDEPLOY_INLINE double operator()(std::size_t i) const { return sums[i]; }

    std::array<double, piece> sums;
};

// The sum is of one piece, so that float does.
template <class Row>
NCDEPLOY_INLINE double advance(const Row &row, std::size_t count, const float *NCDEPLOY_RESTRICT noise, float g,
                               float *NCDEPLOY_RESTRICT x, float *NCDEPLOY_RESTRICT D) {
    float square = 0;
    int bad = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto x_new = static_cast<float>(row(i) + static_cast<double>(noise[i]));
        const float change = x_new - x[i];
        x[i] = x_new;
        bad |= std::abs(D[i]) <= std::numeric_limits<float>::max() ? 0 : 1;
        D[i] += g * change;
        square += change * change;
    }
    return bad ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(square);
}

template <class Row>
NCDEPLOY_INLINE void state(const Row &row, std::size_t count, const float *NCDEPLOY_RESTRICT noise,
                           float *NCDEPLOY_RESTRICT x) {
    for (std::size_t i = 0; i < count; ++i) {
        x[i] = static_cast<float>(row(i) + static_cast<double>(noise[i]));
    }
}

NCDEPLOY_INLINE void drift(std::size_t count, float g, const float *NCDEPLOY_RESTRICT noise,
                           float *NCDEPLOY_RESTRICT D) {
    for (std::size_t i = 0; i < count; ++i) {
        D[i] += g * noise[i];
    }
}

template <class Row>
NCDEPLOY_INLINE void compare(const Row &row, std::size_t count, const float *NCDEPLOY_RESTRICT noise,
                             const float *NCDEPLOY_RESTRICT x, float *NCDEPLOY_RESTRICT mean,
                             float *NCDEPLOY_RESTRICT draft, double *out) {
    double square = 0, along = 0;
    for (std::size_t i = 0; i < count; ++i) {
        mean[i] = static_cast<float>(row(i));
        draft[i] = x[i] - noise[i] - mean[i];
        square += static_cast<double>(draft[i]) * static_cast<double>(draft[i]);
        along += static_cast<double>(draft[i]) * static_cast<double>(noise[i]);
    }
    out[0] += square;
    out[1] += along;
}

NCDEPLOY_INLINE void secant(std::size_t count, const float *NCDEPLOY_RESTRICT x, const float *NCDEPLOY_RESTRICT D,
                            float *NCDEPLOY_RESTRICT x_old, float *NCDEPLOY_RESTRICT D_old, double *out) {
    double square = 0, product = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double dx = static_cast<double>(x[i]) - static_cast<double>(x_old[i]);
        square += dx * dx;
        product += dx * (static_cast<double>(D[i]) - static_cast<double>(D_old[i]));
        x_old[i] = x[i];
        D_old[i] = D[i];
    }
    out[0] += square;
    out[1] += product;
}

NCDEPLOY_INLINE bool finite(std::size_t count, const float *values) {
    int bad = 0;
    for (std::size_t i = 0; i < count; ++i) {
        bad |= std::abs(values[i]) <= std::numeric_limits<float>::max() ? 0 : 1;
    }
    return bad == 0;
}

} // namespace

bool two(const Terms &row) { return row.size == 2 && row.terms[0].limit == 0 && row.terms[1].limit == 0; }

// The loops, for processors that have what `target` says.
#define NCDEPLOY_KERNELS(name, target)                                                                                 \
    namespace name {                                                                                                   \
    target double advance(const Terms &row, std::size_t count, const float *noise, float g, float *x, float *D) {      \
        return two(row) ? detail::advance(Two{row.terms[0], row.terms[1]}, count, noise, g, x, D)                      \
                        : detail::advance(Any(row, count), count, noise, g, x, D);                                     \
    }                                                                                                                  \
    target void state(const Terms &row, std::size_t count, const float *noise, float *x) {                             \
        two(row) ? detail::state(Two{row.terms[0], row.terms[1]}, count, noise, x)                                     \
                 : detail::state(Any(row, count), count, noise, x);                                                    \
    }                                                                                                                  \
    target void drift(std::size_t count, float g, const float *noise, float *D) {                                      \
        detail::drift(count, g, noise, D);                                                                             \
    }                                                                                                                  \
    target void compare(const Terms &row, std::size_t count, const float *noise, const float *x, float *mean,          \
                        float *draft, double *sums) {                                                                  \
        two(row) ? detail::compare(Two{row.terms[0], row.terms[1]}, count, noise, x, mean, draft, sums)                \
                 : detail::compare(Any(row, count), count, noise, x, mean, draft, sums);                               \
    }                                                                                                                  \
    target void secant(std::size_t count, const float *x, const float *D, float *x_old, float *D_old, double *sums) {  \
        detail::secant(count, x, D, x_old, D_old, sums);                                                               \
    }                                                                                                                  \
    target bool finite(std::size_t count, const float *values) { return detail::finite(count, values); }               \
    constexpr Kernels all{advance, state, drift, compare, secant, finite};                                             \
    }

namespace {

NCDEPLOY_KERNELS(plain, )
#if defined(__GNUC__) && defined(__x86_64__)
NCDEPLOY_KERNELS(avx2, __attribute__((target("avx2"))))
const Kernels &fastest() { return __builtin_cpu_supports("avx2") ? avx2::all : plain::all; }
#else
const Kernels &fastest() { return plain::all; }
#endif

} // namespace

const Kernels &kernels() {
    static const Kernels &chosen = fastest();
    return chosen;
}

} // namespace ncdeploy::detail
