// Philox4x32-10 (Salmon et al. 2011) and Box-Muller:
//
//     key     = (low word of the seed, high word of the seed)
//     counter = (block, node, 0, 0);  value i of a draw is lane i % 4 of block i / 4
//     lanes   = r0, r1, r2, r3  ->  sqrt(-2 ln u(r0)) (cos, sin)(2 pi u(r1)), the same with r2, r3
//     u(r)    = (r + 0.5) / 2^32
//
// Computed for many blocks at a time, in loops without branches that compilers turn into vector instructions. On x86
// nothing is contracted into fused operations, so that every such processor draws the same bits.
#include "noise.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "ncdeploy/ncdeploy.hpp"

#if defined(__GNUC__)
#define NCDEPLOY_INLINE inline __attribute__((always_inline))
#else
#define NCDEPLOY_INLINE inline
#endif

namespace ncdeploy::detail {
namespace {

constexpr std::size_t lanes = 16; // blocks at a time
using Words = std::array<std::uint32_t, lanes>;
using Reals = std::array<double, lanes>;

struct Draw {
    std::array<Words, 4> words;
    std::array<Reals, 4> xi;
};

NCDEPLOY_INLINE void philox(std::array<Words, 4> &c, std::uint32_t k0, std::uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        for (std::size_t i = 0; i < lanes; ++i) {
            const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0][i], p1 = std::uint64_t{0xCD9E8D57} * c[2][i];
            c[0][i] = static_cast<std::uint32_t>(p1 >> 32) ^ c[1][i] ^ k0;
            c[1][i] = static_cast<std::uint32_t>(p1);
            c[2][i] = static_cast<std::uint32_t>(p0 >> 32) ^ c[3][i] ^ k1;
            c[3][i] = static_cast<std::uint32_t>(p0);
        }
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
}

NCDEPLOY_INLINE double real(std::int32_t word) { return static_cast<double>(word); }

NCDEPLOY_INLINE double from_bits(std::uint64_t bits) {
    double value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// ln x for 2^-33 <= x < 1: x = 2^e m with m in sqrt(1/2) .. sqrt(2), and ln m = 2 artanh s with s = (m - 1) / (m + 1).
NCDEPLOY_INLINE double log_of(double x) {
    constexpr std::uint64_t half_root = 0x3FE6A09E667F3BCD, one = 0x3FF0000000000000, fraction = 0x000FFFFFFFFFFFFF;
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    bits += one - half_root;
    const double e = from_bits(bits >> 52 | 0x4330000000000000) - (0x1p52 + 1023); // in the last bits of 2^52
    const double m = from_bits((bits & fraction) + half_root), s = (m - 1) / (m + 1), z = s * s;
    double series = 1.0 / 19;
    for (int n = 17; n > 0; n -= 2) {
        series = series * z + 1.0 / n;
    }
    return e * 0.6931471805599453 + 2 * s * series;
}

// 1 + z / (a (a - 1)) (1 + z / ((a + 2) (a + 1)) (1 + ...)), `terms` deep, with z = -x^2: sin x / x for a = 3, cos x
// for a = 2.
template <int a, int terms> NCDEPLOY_INLINE double series(double z) {
    double sum = 1;
    for (int n = a + 2 * (terms - 1); n >= a; n -= 2) {
        sum = 1 + z * (1.0 / (n * (n - 1))) * sum;
    }
    return sum;
}

// Two values from two words: the radius from one, the angle from the other.
NCDEPLOY_INLINE void box_muller(const Words &radii, const Words &angles, Reals &cosines, Reals &sines) {
    constexpr double two_pi = 6.283185307179586;
    for (std::size_t i = 0; i < lanes; ++i) {
        const double u = (real(static_cast<std::int32_t>(radii[i] ^ 0x80000000U)) + 0x1p31 + 0.5) * 0x1p-32;
        const double radius = std::sqrt(-2.0 * log_of(u));
        // The angle is that of quadrant q and a rest in -pi/4 .. pi/4, whose series end where double does.
        const std::uint32_t q = (angles[i] + 0x20000000U) >> 30;
        const double x = two_pi * 0x1p-32 * (real(static_cast<std::int32_t>(angles[i] - (q << 30))) + 0.5), z = x * x;
        const double s = x * series<3, 9>(-z), c = series<2, 9>(-z);
        const double odd = real(static_cast<std::int32_t>(q & 1)), even = 1 - odd;
        cosines[i] = radius * real(1 - static_cast<std::int32_t>((q + 1) & 2)) * (even * c + odd * s);
        sines[i] = radius * real(1 - static_cast<std::int32_t>(q & 2)) * (even * s + odd * c);
    }
}

NCDEPLOY_INLINE void fill(Draw &draw, std::uint64_t seed, std::uint32_t node, std::uint32_t block) {
    for (std::size_t i = 0; i < lanes; ++i) {
        draw.words[0][i] = block + static_cast<std::uint32_t>(i);
    }
    draw.words[1].fill(node);
    draw.words[2].fill(0);
    draw.words[3].fill(0);
    philox(draw.words, static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
    box_muller(draw.words[0], draw.words[1], draw.xi[0], draw.xi[1]);
    box_muller(draw.words[2], draw.words[3], draw.xi[2], draw.xi[3]);
}

using Fill = void (*)(Draw &, std::uint64_t, std::uint32_t, std::uint32_t);

void fill_plain(Draw &draw, std::uint64_t seed, std::uint32_t node, std::uint32_t block) {
    fill(draw, seed, node, block);
}

#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx2"))) void fill_avx2(Draw &draw, std::uint64_t seed, std::uint32_t node,
                                               std::uint32_t block) {
    fill(draw, seed, node, block);
}
Fill fastest() { return __builtin_cpu_supports("avx2") ? fill_avx2 : fill_plain; }
#else
Fill fastest() { return fill_plain; }
#endif

} // namespace

void normal(std::uint64_t seed, std::size_t node, std::size_t dim, double scale, float *out) {
    static const Fill filled = fastest();
    Draw draw;
    for (std::size_t first = 0; first < dim; first += 4 * lanes) {
        filled(draw, seed, static_cast<std::uint32_t>(node), static_cast<std::uint32_t>(first / 4));
        const std::size_t count = std::min(dim - first, 4 * lanes);
        for (std::size_t i = 0; i < count; ++i) {
            out[first + i] = static_cast<float>(scale * draw.xi[i % 4][i / 4]);
        }
    }
}

} // namespace ncdeploy::detail

std::vector<float> ncdeploy::normal(std::uint64_t seed, std::size_t node, std::size_t dim) {
    std::vector<float> out(dim);
    detail::normal(seed, node, dim, 1.0, out.data());
    return out;
}
