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

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__GNUC__)
#define NCDEPLOY_INLINE inline __attribute__((always_inline))
#else
#define NCDEPLOY_INLINE inline
#endif

namespace ncdeploy::detail {
namespace {

constexpr std::size_t lanes = 16; // blocks at a time
using Words = std::array<std::array<std::uint32_t, lanes>, 4>;

struct Key {
    std::uint32_t low, high;

    NCDEPLOY_INLINE void next() { low += 0x9E3779B9, high += 0xBB67AE85; }
};

constexpr std::uint32_t multiplier_0 = 0xD2511F53, multiplier_2 = 0xCD9E8D57;

NCDEPLOY_INLINE void philox(Words &c, Key key, std::uint32_t node, std::uint32_t block) {
    for (std::size_t i = 0; i < lanes; ++i) {
        c[0][i] = block + static_cast<std::uint32_t>(i);
    }
    c[1].fill(node), c[2].fill(0), c[3].fill(0);
    for (int round = 0; round < 10; ++round, key.next()) {
        for (std::size_t i = 0; i < lanes; ++i) {
            const std::uint64_t p0 = std::uint64_t{multiplier_0} * c[0][i], p1 = std::uint64_t{multiplier_2} * c[2][i];
            c[0][i] = static_cast<std::uint32_t>(p1 >> 32) ^ c[1][i] ^ key.low;
            c[1][i] = static_cast<std::uint32_t>(p1);
            c[2][i] = static_cast<std::uint32_t>(p0 >> 32) ^ c[3][i] ^ key.high;
            c[3][i] = static_cast<std::uint32_t>(p0);
        }
    }
}

NCDEPLOY_INLINE double real(std::uint32_t word) { // exact, by the instruction for signed ones
    return static_cast<double>(static_cast<std::int32_t>(word));
}

NCDEPLOY_INLINE double from_bits(std::uint64_t bits) {
    double value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

NCDEPLOY_INLINE std::uint64_t bits_of(double value) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// c[0] + c[1] z + c[2] z^2 + ...
template <std::size_t terms> NCDEPLOY_INLINE double polynomial(const double (&c)[terms], double z) {
    double sum = c[terms - 1];
    for (std::size_t n = terms - 1; n-- > 0;) {
        sum = sum * z + c[n];
    }
    return sum;
}

// Interpolated at Chebyshev's nodes, to 2e-11: a draw is rounded to float, to 6e-8.
constexpr double arctanh[] = {1.0000000000041818, 0.33333332623455403, 0.20000192395057395, // (artanh s) / s in s^2
                              0.14267521781566181, 0.11808252159859436};                    // for |s| <= 0.1716
constexpr double sine[] = {0.99999999998291911,     -0.16666666616815567,  0.0083333309742075826, // (sin x) / x and
                           -0.00019840861179319552, 2.752526981229885e-06, -2.3889217773452806e-08};
constexpr double cosine[] = {0.99999999999924793,    -0.49999999997012751,  0.04166666647285179, // cos x in x^2
                             -0.0013888884170789055, 2.4801039928008272e-05, // for |x| <= pi/2
                             -2.7524670425081666e-07, 1.9907506103760227e-09};

// ln x for 2^-33 <= x < 1: x = 2^e m with m in sqrt(1/2) .. sqrt(2), and ln m = 2 artanh s with s = (m - 1) / (m + 1).
NCDEPLOY_INLINE double log_of(double x) {
    constexpr std::uint64_t half_root = 0x3FE6A09E667F3BCD, one = 0x3FF0000000000000, fraction = 0x000FFFFFFFFFFFFF;
    const std::uint64_t bits = bits_of(x) + (one - half_root);
    const double e = from_bits(bits >> 52 | 0x4330000000000000) - (0x1p52 + 1023); // in the last bits of 2^52
    const double m = from_bits((bits & fraction) + half_root), s = (m - 1) / (m + 1);
    return e * 0.6931471805599453 + 2 * s * polynomial(arctanh, s * s);
}

// Two values from two words: the radius from one, the angle from the other. To out[4 i] and out[4 i + 1].
NCDEPLOY_INLINE void box_muller(const std::array<std::uint32_t, lanes> &radii,
                                const std::array<std::uint32_t, lanes> &angles, double scale, float *out) {
    constexpr double pi = 3.141592653589793;
    for (std::size_t i = 0; i < lanes; ++i) {
        const double u = (real(radii[i] ^ 0x80000000U) + (0x1p31 + 0.5)) * 0x1p-32;
        // The angle is pi times 0, 1 or 2 and a rest in -pi/2 .. pi/2; an odd one turns the signs.
        const std::uint32_t odd = (angles[i] + 0x40000000U) >> 31;
        const double x = pi * 0x1p-31 * (real(angles[i] - (odd << 31)) + 0.5), z = x * x;
        const double radius = scale * std::sqrt(-2.0 * log_of(u));
        const double turned = from_bits(bits_of(radius) ^ std::uint64_t{odd} << 63);
        out[4 * i] = static_cast<float>(turned * polynomial(cosine, z));
        out[4 * i + 1] = static_cast<float>(turned * (x * polynomial(sine, z)));
    }
}

// 4 * lanes values from `block` on.
NCDEPLOY_INLINE void finish(const Words &words, double scale, float *out) {
    box_muller(words[0], words[1], scale, out);
    box_muller(words[2], words[3], scale, out + 2);
}

using Fill = void (*)(Key, std::uint32_t node, std::uint32_t block, double scale, float *out);

void fill_plain(Key key, std::uint32_t node, std::uint32_t block, double scale, float *out) {
    Words words;
    philox(words, key, node, block);
    finish(words, scale, out);
}

#if defined(__GNUC__) && defined(__x86_64__)

// Compilers multiply 32 bits to 64 by way of shuffles; here the words stay in the lower halves of 64 bits, where the
// instruction wants them, those of even and of odd blocks apart.
__attribute__((target("avx2"))) NCDEPLOY_INLINE void philox_avx2(Words &out, Key first, std::uint32_t node,
                                                                 std::uint32_t block) {
    const __m256i multiply_0 = _mm256_set1_epi64x(multiplier_0), multiply_2 = _mm256_set1_epi64x(multiplier_2);
    for (std::size_t i = 0; i < lanes; i += 8) {
        const __m256i even = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(block + i)),
                                              _mm256_setr_epi32(0, 0, 2, 0, 4, 0, 6, 0));
        __m256i c[4][2] = {{even, _mm256_add_epi32(even, _mm256_set1_epi32(1))}};
        c[1][0] = c[1][1] = _mm256_set1_epi32(static_cast<int>(node));
        c[2][0] = c[2][1] = c[3][0] = c[3][1] = _mm256_setzero_si256();
        Key key = first;
        for (int round = 0; round < 10; ++round, key.next()) {
            const __m256i low = _mm256_set1_epi32(static_cast<int>(key.low));
            const __m256i high = _mm256_set1_epi32(static_cast<int>(key.high));
            for (int part = 0; part < 2; ++part) { // what the upper halves hold does not matter
                const __m256i p0 = _mm256_mul_epu32(c[0][part], multiply_0);
                const __m256i p1 = _mm256_mul_epu32(c[2][part], multiply_2);
                c[0][part] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c[1][part]), low);
                c[1][part] = p1;
                c[2][part] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c[3][part]), high);
                c[3][part] = p0;
            }
        }
        for (std::size_t word = 0; word < 4; ++word) {
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(out[word].data() + i),
                                _mm256_blend_epi32(c[word][0], _mm256_slli_epi64(c[word][1], 32), 0xAA));
        }
    }
}

__attribute__((target("avx2"))) void fill_avx2(Key key, std::uint32_t node, std::uint32_t block, double scale,
                                               float *out) {
    Words words;
    philox_avx2(words, key, node, block);
    finish(words, scale, out);
}

Fill fastest() { return __builtin_cpu_supports("avx2") ? fill_avx2 : fill_plain; }
#else
Fill fastest() { return fill_plain; }
#endif

} // namespace

void normal(std::uint64_t seed, std::size_t node, std::size_t first, std::size_t count, double scale, float *out) {
    static const Fill fill = fastest();
    const Key key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    constexpr std::size_t step = 4 * lanes;
    for (std::size_t i = 0; i < count; i += step) {
        std::array<float, step> last;
        float *to = count - i < step ? last.data() : out + i;
        fill(key, static_cast<std::uint32_t>(node), static_cast<std::uint32_t>((first + i) / 4), scale, to);
        if (to == last.data()) {
            std::copy_n(to, count - i, out + i);
        }
    }
}

} // namespace ncdeploy::detail

std::vector<float> ncdeploy::normal(std::uint64_t seed, std::size_t node, std::size_t dim) {
    std::vector<float> out(dim);
    detail::normal(seed, node, 0, dim, 1.0, out.data());
    return out;
}
