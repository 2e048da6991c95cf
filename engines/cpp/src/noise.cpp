// Philox4x32-10 (Salmon et al. 2011) and Box-Muller:
//
//     key     = (low word of the seed, high word of the seed)
//     counter = (block, node, 0, 0);  value i of a draw is lane i % 4 of block i / 4
//     lanes   = r0, r1, r2, r3  ->  sqrt(-2 ln u(r0)) (cos, sin)(2 pi u(r1)), the same with r2, r3
//     u(r)    = (r + 0.5) / 2^32
#include "noise.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {
namespace {

using Words = std::array<std::uint32_t, 4>;

Words philox(Words c, std::uint32_t k0, std::uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0], p1 = std::uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

double uniform(std::uint32_t word) { return (word + 0.5) * 0x1p-32; }

} // namespace

void normal(std::uint64_t seed, std::size_t node, std::size_t dim, double scale, float *out) {
    constexpr double two_pi = 6.283185307179586;
    const auto low = static_cast<std::uint32_t>(seed), high = static_cast<std::uint32_t>(seed >> 32);
    for (std::size_t first = 0; first < dim; first += 4) {
        const Words r =
            philox({static_cast<std::uint32_t>(first / 4), static_cast<std::uint32_t>(node), 0, 0}, low, high);
        std::array<double, 4> xi{};
        for (std::size_t pair = 0; pair < 4; pair += 2) {
            const double radius = std::sqrt(-2.0 * std::log(uniform(r[pair]))), angle = two_pi * uniform(r[pair + 1]);
            xi[pair] = radius * std::cos(angle);
            xi[pair + 1] = radius * std::sin(angle);
        }
        for (std::size_t i = first; i < std::min(first + 4, dim); ++i) {
            out[i] = static_cast<float>(scale * xi[i - first]);
        }
    }
}

} // namespace ncdeploy::detail

std::vector<float> ncdeploy::normal(std::uint64_t seed, std::size_t node, std::size_t dim) {
    std::vector<float> out(dim);
    detail::normal(seed, node, dim, 1.0, out.data());
    return out;
}
