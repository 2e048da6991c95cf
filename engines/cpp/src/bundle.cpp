// Opening a bundle: every listed file is inside it, is no link, and has the size and digest that the manifest says.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "external_data.hpp"
#include "files.hpp"
#include "manifest.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "record.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

namespace fs = std::filesystem;
using detail::text;

constexpr std::uint64_t max_manifest = std::uint64_t{64} << 20;
const char *const again = "; copy the bundle again, or make it again with ncdeploy bundle";

// The size of a file in the bundle, every part of whose name is a folder or a file there, and no link.
std::uint64_t checked_size(const std::string &folder, const std::string &name) {
    fs::path at = folder;
    std::error_code error;
    fs::file_status status;
    for (const fs::path &part : fs::path(name)) {
        at /= part;
        status = fs::symlink_status(at, error);
        if (status.type() == fs::file_type::not_found || status.type() == fs::file_type::none) {
            throw FileError(text(folder, "/", name, ": is missing (", error.message(), ")", again));
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

std::string read(const std::string &folder, const std::string &name, std::uint64_t most) {
    checked_size(folder, name);
    return detail::read_file(folder + "/" + name, most);
}

std::string sha256(const std::string &bytes) {
    detail::Sha256 digest;
    digest.update(bytes.data(), bytes.size());
    return digest.hex();
}

void check_file(const std::string &folder, const std::string &name, const detail::Manifest::FileEntry &entry) {
    const std::string path = folder + "/" + name;
    if (const std::uint64_t size = checked_size(folder, name); size != entry.bytes) {
        throw FileError(text(path, ": has ", size, " bytes, the manifest says ", entry.bytes, again));
    }
    if (detail::digest_of(path) != entry.sha256) {
        throw FileError(path + ": has changed since the bundle was made (SHA-256 differs)" + again);
    }
}

// Values that a graph keeps in other files must have been checked as the graph was.
void check_external(const std::string &folder, const std::string &graph, const detail::Manifest &manifest) {
    const std::string base = graph.substr(0, graph.rfind('/') + 1);
    std::ifstream file(folder + "/" + graph, std::ios::binary);
    for (const std::string &location : detail::external_data(file, folder + "/" + graph)) {
        if (!manifest.files.count(base + location)) {
            throw FileError(folder + "/" + graph + ": has values in " + detail::quoted(location) +
                            ", which the manifest lacks" + again);
        }
    }
}

bool is_graph(const std::string &name) { return name.size() > 5 && name.compare(name.size() - 5, 5, ".onnx") == 0; }

} // namespace

Bundle::Bundle(const std::string &folder) : folder_(folder) {
    while (folder_.size() > 1 && folder_.back() == '/') {
        folder_.pop_back();
    }
    const std::string path = folder_ + "/manifest.json";
    std::error_code error;
    if (!fs::is_directory(folder_, error)) {
        throw FileError(folder_ + ": there is no such folder; expected a bundle (ncdeploy bundle)");
    }
    if (!fs::is_regular_file(path, error)) {
        throw FileError(folder_ + ": has no manifest.json; expected a bundle (ncdeploy bundle)");
    }
    const std::string bytes = read(folder_, "manifest.json", max_manifest);
    if (read(folder_, "manifest.sha256", 100) != sha256(bytes) + "  manifest.json\n") {
        throw FileError(path + ": does not have the digest that manifest.sha256 says" + again);
    }
    const detail::Manifest manifest = detail::Manifest::parse(bytes, path);
    engine_ = manifest.engine;
    info_ = manifest.model;
    encoder_ = manifest.encoder;
    decoder_ = manifest.decoder;
    for (const auto &[name, entry] : manifest.files) {
        check_file(folder_, name, entry);
        if (is_graph(name)) {
            check_external(folder_, name, manifest);
        }
        files_.push_back(name);
    }
    for (const auto &entry : manifest.plans) {
        Entry found{Plan::read(folder_ + "/" + entry.file), {}};
        if (found.plan.name != entry.name) {
            throw FileError(text(folder_, "/", entry.file, ": holds the plan '", found.plan.name,
                                 "', the manifest says '", entry.name, "'", again));
        }
        if (entry.window > found.plan.evaluations()) {
            throw FileError(text(path, ": ", entry.name, " has window ", entry.window, ", expected at most ",
                                 found.plan.evaluations(), again));
        }
        found.options.window = entry.window;
        found.options.tolerance = entry.tolerance;
        plans_.push_back(std::move(found));
    }
}

std::vector<std::string> Bundle::plans() const {
    std::vector<std::string> names;
    for (const Entry &entry : plans_) {
        names.push_back(entry.plan.name);
    }
    return names;
}

const Bundle::Entry &Bundle::entry(const std::string &name) const {
    std::string known;
    for (const Entry &entry : plans_) {
        if (name.empty() || entry.plan.name == name) {
            return entry;
        }
        known += (known.empty() ? "" : ", ") + entry.plan.name;
    }
    throw InputError(folder_ + ": has no plan '" + name + "'; it has " + known);
}

const Plan &Bundle::plan(const std::string &name) const { return entry(name).plan; }

Options Bundle::options(const std::string &name) const { return entry(name).options; }

std::string Bundle::file(const std::string &name) const {
    if (std::find(files_.begin(), files_.end(), name) == files_.end()) {
        throw InputError(folder_ + ": has no file '" + name + "'; see its manifest.json");
    }
    return folder_ + "/" + name;
}

} // namespace ncdeploy
