// Reading files, never more than was agreed: of a folder, or of a program's memory.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <string>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

// The bytes of a regular file of at most `most` bytes. Throws FileError.
std::string read_file(const std::string &path, std::uint64_t most);

// The files of a bundle by their names in it. All throw FileError.
class Source {
  public:
    virtual ~Source() = default;

    virtual std::string path(const std::string &name) const = 0; // for messages, and for who opens it by itself
    virtual std::uint64_t size(const std::string &name) const = 0;
    virtual std::unique_ptr<std::istream> open(const std::string &name) const = 0;

    std::string read(const std::string &name, std::uint64_t most) const;
    std::string digest(const std::string &name) const; // SHA-256, read piece by piece
};

// Of a folder, in which every part of a name must be a folder or a file, and no link.
std::unique_ptr<Source> folder_source(const std::string &folder);

// Of memory, which must last as long.
std::unique_ptr<Source> memory_source(const Files &files);

} // namespace ncdeploy::detail
