#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace ncdeploy::detail {

// SHA-256 (FIPS 180-4) of bytes that arrive in pieces.
class Sha256 {
  public:
    void update(const char *bytes, std::size_t size);
    std::string hex(); // ends the digest: 64 lower-case digits

  private:
    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<unsigned char, 64> rest_{};
    std::uint64_t size_ = 0;
};

} // namespace ncdeploy::detail
