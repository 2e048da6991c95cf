// manifest.json of a bundle, as specified at the top of ncdeploy/bundle.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

struct Manifest {
    struct PlanEntry {
        std::string name, file;
        std::size_t window;
        double tolerance;
    };
    struct FileEntry {
        std::uint64_t bytes;
        std::string sha256;
    };

    std::string engine;
    ModelInfo model;
    std::vector<PlanEntry> plans;
    std::map<std::string, FileEntry> files;
    std::optional<PartInfo> encoder, decoder;

    // Throws FileError, beginning with `path`, if the bytes break a rule of the format.
    static Manifest parse(const std::string &bytes, const std::string &path);
};

} // namespace ncdeploy::detail
