#include "files.hpp"

#include <filesystem>
#include <fstream>
#include <vector>

#include "ncdeploy/ncdeploy.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace ncdeploy::detail {
namespace {

namespace fs = std::filesystem;

std::uint64_t regular_size(const std::string &path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (error || status.type() != fs::file_type::regular) {
        const std::string reason = status.type() == fs::file_type::not_found ? "No such file or directory"
                                   : error                                   ? error.message()
                                                                             : "it is not a regular file";
        throw FileError(path + ": cannot be read: " + reason);
    }
    const std::uintmax_t size = fs::file_size(path, error);
    if (error) {
        throw FileError(path + ": cannot be read: " + error.message());
    }
    return size;
}

std::ifstream open(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw FileError(path + ": cannot be read; check its permissions");
    }
    return file;
}

} // namespace

std::string read_file(const std::string &path, std::uint64_t most) {
    const std::uint64_t size = regular_size(path);
    if (size > most) {
        throw FileError(text(path, ": has ", size, " bytes, expected at most ", most));
    }
    std::ifstream file = open(path);
    std::string bytes(static_cast<std::size_t>(size), '\0');
    file.read(bytes.data(), static_cast<std::streamsize>(size));
    if (static_cast<std::uint64_t>(file.gcount()) != size) {
        throw FileError(path + ": is cut short; copy it again");
    }
    return bytes;
}

std::string digest_of(const std::string &path) {
    std::ifstream file = open(path);
    std::vector<char> block(std::size_t{1} << 18);
    Sha256 digest;
    while (file.read(block.data(), static_cast<std::streamsize>(block.size())), file.gcount() > 0) {
        digest.update(block.data(), static_cast<std::size_t>(file.gcount()));
    }
    return digest.hex();
}

} // namespace ncdeploy::detail
