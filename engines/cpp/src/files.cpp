#include "files.hpp"

#include <filesystem>
#include <fstream>
#include <streambuf>
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

std::string Source::read(const std::string &name, std::uint64_t most) const {
    const std::uint64_t found = size(name);
    if (found > most) {
        throw FileError(text(path(name), ": has ", found, " bytes, expected at most ", most));
    }
    std::string bytes(static_cast<std::size_t>(found), '\0');
    const std::unique_ptr<std::istream> file = open(name);
    file->read(bytes.data(), static_cast<std::streamsize>(found));
    if (static_cast<std::uint64_t>(file->gcount()) != found) {
        throw FileError(path(name) + ": is cut short; copy it again");
    }
    return bytes;
}

std::string Source::digest(const std::string &name) const {
    const std::unique_ptr<std::istream> file = open(name);
    std::vector<char> block(std::size_t{1} << 18);
    Sha256 digest;
    while (file->read(block.data(), static_cast<std::streamsize>(block.size())), file->gcount() > 0) {
        digest.update(block.data(), static_cast<std::size_t>(file->gcount()));
    }
    return digest.hex();
}

namespace {

const char *const again = "; copy the bundle again, or make it again with ncdeploy bundle";

class Folder final : public Source {
  public:
    explicit Folder(const std::string &folder) : folder_(folder) {}

    std::string path(const std::string &name) const override { return folder_ + "/" + name; }

    std::uint64_t size(const std::string &name) const override {
        fs::path at = folder_;
        std::error_code error;
        fs::file_status status;
        for (const fs::path &part : fs::path(name)) {
            at /= part;
            status = fs::symlink_status(at, error);
            if (status.type() == fs::file_type::not_found || status.type() == fs::file_type::none) {
                throw FileError(text(path(name), ": is missing (", error.message(), ")", again));
            }
            if (status.type() == fs::file_type::symlink) {
                throw FileError(at.string() + ": is a link, and a bundle has none" + again);
            }
        }
        if (status.type() != fs::file_type::regular) {
            throw FileError(at.string() + ": is not a regular file" + again);
        }
        const std::uintmax_t size = fs::file_size(at, error);
        if (error) {
            throw FileError(text(at.string(), ": cannot be read (", error.message(), ")", again));
        }
        return size;
    }

    std::unique_ptr<std::istream> open(const std::string &name) const override {
        return std::make_unique<std::ifstream>(detail::open(path(name)));
    }

  private:
    std::string folder_;
};

// Reads what lies in memory; a stream asks for its bytes once, and for places in them.
class View final : public std::streambuf {
  public:
    explicit View(std::string_view bytes) {
        char *first = const_cast<char *>(bytes.data()); // the interface has no const form; nothing writes
        setg(first, first, first + bytes.size());
    }

  protected:
    pos_type seekoff(off_type off, std::ios::seekdir from, std::ios::openmode) override {
        const off_type base = from == std::ios::beg ? 0 : from == std::ios::cur ? gptr() - eback() : egptr() - eback();
        if (base + off < 0 || base + off > egptr() - eback()) {
            return off_type{-1};
        }
        setg(eback(), eback() + base + off, egptr());
        return base + off;
    }
    pos_type seekpos(pos_type at, std::ios::openmode which) override { return seekoff(at, std::ios::beg, which); }
};

class ViewStream final : public std::istream {
  public:
    explicit ViewStream(std::string_view bytes) : std::istream(nullptr), view_(bytes) { rdbuf(&view_); }

  private:
    View view_;
};

class Memory final : public Source {
  public:
    explicit Memory(const Files &files) : files_(files) {}

    std::string path(const std::string &name) const override { return "memory/" + name; }
    std::uint64_t size(const std::string &name) const override { return bytes(name).size(); }
    std::unique_ptr<std::istream> open(const std::string &name) const override {
        return std::make_unique<ViewStream>(bytes(name));
    }

  private:
    std::string_view bytes(const std::string &name) const {
        const auto found = files_.find(name);
        if (found == files_.end()) {
            throw FileError(path(name) + ": is missing; give every file of the bundle");
        }
        return found->second;
    }

    Files files_;
};

} // namespace

std::unique_ptr<Source> folder_source(const std::string &folder) { return std::make_unique<Folder>(folder); }

std::unique_ptr<Source> memory_source(const Files &files) { return std::make_unique<Memory>(files); }

} // namespace ncdeploy::detail
