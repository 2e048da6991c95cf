// Reading files, never more than was agreed.
#pragma once

#include <cstdint>
#include <string>

namespace ncdeploy::detail {

// The bytes of a regular file of at most `most` bytes. Throws FileError.
std::string read_file(const std::string &path, std::uint64_t most);

// SHA-256 of the bytes of a file, read piece by piece. Throws FileError.
std::string digest_of(const std::string &path);

} // namespace ncdeploy::detail
