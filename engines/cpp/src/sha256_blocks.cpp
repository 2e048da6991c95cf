#include "sha256_blocks.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#define NCDEPLOY_SHA_X86
#include <immintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#define NCDEPLOY_TARGET
#else
#include <cpuid.h>
#define NCDEPLOY_TARGET __attribute__((target("sha,sse4.1,ssse3")))
#endif
#elif defined(__aarch64__) && (defined(__linux__) || defined(__APPLE__))
#define NCDEPLOY_SHA_ARM
#include <arm_neon.h>
#if defined(__clang__)
#define NCDEPLOY_TARGET __attribute__((target("sha2")))
#else
#define NCDEPLOY_TARGET __attribute__((target("+crypto")))
#endif
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace ncdeploy::detail {
namespace {

using State = std::array<std::uint32_t, 8>;
constexpr const std::uint32_t *k = sha256_constants.data();

std::uint32_t rotate(std::uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

// Word i of the message as it goes on in a ring of 16; i is a constant where it is called.
inline std::uint32_t extend(std::uint32_t *w, unsigned i) {
    const std::uint32_t a = w[(i + 1) % 16], b = w[(i + 14) % 16];
    const std::uint32_t s0 = rotate(a, 7) ^ rotate(a, 18) ^ a >> 3, s1 = rotate(b, 17) ^ rotate(b, 19) ^ b >> 10;
    return w[i % 16] += s0 + w[(i + 9) % 16] + s1;
}

// One round; the names of the eight words turn from one to the next, so that none is moved.
inline void round(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t &d, std::uint32_t e, std::uint32_t f,
                  std::uint32_t g, std::uint32_t &h, std::uint32_t kw) {
    h += (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + kw;
    d += h;
    h += (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));
}

} // namespace

void sha256_portable(State &state, const unsigned char *bytes, std::size_t count) {
    for (; count; --count, bytes += 64) {
        std::uint32_t w[16];
        for (unsigned i = 0; i < 16; ++i) {
            w[i] = std::uint32_t{bytes[4 * i]} << 24 | std::uint32_t{bytes[4 * i + 1]} << 16 |
                   std::uint32_t{bytes[4 * i + 2]} << 8 | bytes[4 * i + 3];
        }
        std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        std::uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        const auto sixteen = [&](const std::uint32_t *constants, auto word) {
            round(a, b, c, d, e, f, g, h, constants[0] + word(0));
            round(h, a, b, c, d, e, f, g, constants[1] + word(1));
            round(g, h, a, b, c, d, e, f, constants[2] + word(2));
            round(f, g, h, a, b, c, d, e, constants[3] + word(3));
            round(e, f, g, h, a, b, c, d, constants[4] + word(4));
            round(d, e, f, g, h, a, b, c, constants[5] + word(5));
            round(c, d, e, f, g, h, a, b, constants[6] + word(6));
            round(b, c, d, e, f, g, h, a, constants[7] + word(7));
            round(a, b, c, d, e, f, g, h, constants[8] + word(8));
            round(h, a, b, c, d, e, f, g, constants[9] + word(9));
            round(g, h, a, b, c, d, e, f, constants[10] + word(10));
            round(f, g, h, a, b, c, d, e, constants[11] + word(11));
            round(e, f, g, h, a, b, c, d, constants[12] + word(12));
            round(d, e, f, g, h, a, b, c, constants[13] + word(13));
            round(c, d, e, f, g, h, a, b, constants[14] + word(14));
            round(b, c, d, e, f, g, h, a, constants[15] + word(15));
        };
        sixteen(k, [&](unsigned i) { return w[i]; });
        for (unsigned i = 16; i < 64; i += 16) {
            sixteen(k + i, [&](unsigned j) { return extend(w, j); });
        }
        const State mixed{a, b, c, d, e, f, g, h};
        for (std::size_t i = 0; i < 8; ++i) {
            state[i] += mixed[i];
        }
    }
}

#if defined(NCDEPLOY_SHA_X86)

namespace {

// Four rounds an iteration. The instructions hold the state as ABEF and CDGH; m[i % 4] are words 4i .. 4i + 3.
NCDEPLOY_TARGET void sha256_x86(State &state, const unsigned char *bytes, std::size_t count) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i *>(state.data()));
    __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i *>(state.data() + 4));
    low = _mm_shuffle_epi32(low, 0xB1), high = _mm_shuffle_epi32(high, 0x1B);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xF0);
    for (; count; --count, bytes += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i m[4];
        for (int i = 0; i < 16; ++i) {
            __m128i &now = m[i % 4];
            if (i < 4) {
                now = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(bytes + 16 * i)), swap);
            } else {
                const __m128i last = m[(i + 3) % 4], before = m[(i + 2) % 4];
                now = _mm_sha256msg1_epu32(now, m[(i + 1) % 4]);
                now = _mm_add_epi32(now, _mm_alignr_epi8(last, before, 4));
                now = _mm_sha256msg2_epu32(now, last);
            }
            const __m128i kw = _mm_add_epi32(now, _mm_loadu_si128(reinterpret_cast<const __m128i *>(k + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, kw);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(kw, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before), cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    low = _mm_shuffle_epi32(abef, 0x1B), high = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(state.data()), _mm_blend_epi16(low, high, 0xF0));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(state.data() + 4), _mm_alignr_epi8(high, low, 8));
}

bool has_instructions() {
    unsigned leaf1 = 0, leaf7 = 0; // ecx of 1: SSSE3 is bit 9, SSE4.1 bit 19; ebx of 7: SHA is bit 29
#if defined(_MSC_VER)
    int words[4];
    __cpuid(words, 0);
    if (words[0] < 7) {
        return false;
    }
    __cpuid(words, 1);
    leaf1 = static_cast<unsigned>(words[2]);
    __cpuidex(words, 7, 0);
    leaf7 = static_cast<unsigned>(words[1]);
#else
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &leaf1, &d) || !__get_cpuid_count(7, 0, &a, &leaf7, &c, &d)) {
        return false;
    }
#endif
    return (leaf1 >> 9 & 1) && (leaf1 >> 19 & 1) && (leaf7 >> 29 & 1);
}

} // namespace

Sha256Blocks sha256_fastest() {
    static const bool has = has_instructions();
    return has ? sha256_x86 : sha256_portable;
}

#elif defined(NCDEPLOY_SHA_ARM)

namespace {

NCDEPLOY_TARGET void sha256_arm(State &state, const unsigned char *bytes, std::size_t count) {
    uint32x4_t abcd = vld1q_u32(state.data()), efgh = vld1q_u32(state.data() + 4);
    for (; count; --count, bytes += 64) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t m[4];
        for (int i = 0; i < 16; ++i) { // four rounds; m[i % 4] are words 4i .. 4i + 3
            uint32x4_t &now = m[i % 4];
            if (i < 4) {
                now = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(bytes + 16 * i)));
            } else {
                now = vsha256su1q_u32(vsha256su0q_u32(now, m[(i + 1) % 4]), m[(i + 2) % 4], m[(i + 3) % 4]);
            }
            const uint32x4_t kw = vaddq_u32(now, vld1q_u32(k + 4 * i)), before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, kw);
            efgh = vsha256h2q_u32(efgh, before, kw);
        }
        abcd = vaddq_u32(abcd, abcd_before), efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state.data(), abcd), vst1q_u32(state.data() + 4, efgh);
}

bool has_instructions() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0;
#else
    return true;
#endif
}

} // namespace

Sha256Blocks sha256_fastest() {
    static const bool has = has_instructions();
    return has ? sha256_arm : sha256_portable;
}

#else

Sha256Blocks sha256_fastest() { return sha256_portable; }

#endif

} // namespace ncdeploy::detail
