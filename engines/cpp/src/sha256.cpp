#include "sha256.hpp"

#include <algorithm>
#include <cstring>

#include "sha256_blocks.hpp"

namespace ncdeploy::detail {

void Sha256::update(const char *text, std::size_t size) {
    static const Sha256Blocks blocks = sha256_fastest();
    const auto *bytes = reinterpret_cast<const unsigned char *>(text);
    while (size) {
        const std::size_t filled = size_ % 64;
        std::size_t part = std::min(size, 64 - filled);
        if (part == 64) {
            part = size / 64 * 64;
            blocks(state_, bytes, part / 64);
        } else {
            std::memcpy(rest_.data() + filled, bytes, part);
            if (filled + part == 64) {
                blocks(state_, rest_.data(), 1);
            }
        }
        bytes += part, size -= part, size_ += part;
    }
}

std::string Sha256::hex() {
    const std::uint64_t bits = size_ * 8;
    const std::array<char, 64> padding{static_cast<char>(0x80)};
    update(padding.data(), 1 + (64 + 55 - size_ % 64) % 64);
    for (int shift = 56; shift >= 0; shift -= 8) {
        const char byte = static_cast<char>(bits >> shift);
        update(&byte, 1);
    }
    std::string digits;
    for (const std::uint32_t word : state_) {
        for (int shift = 28; shift >= 0; shift -= 4) {
            digits += "0123456789abcdef"[word >> shift & 15];
        }
    }
    return digits;
}

} // namespace ncdeploy::detail
