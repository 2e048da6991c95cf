// Opening a bundle: every listed file is inside it, is no link, and has the size and digest that the manifest says.
#include <algorithm>
#include <filesystem>
#include <limits>

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
constexpr std::uint64_t max_plan = std::uint64_t{128} << 20; // the longest has less
const char *const again = "; copy the bundle again, or make it again with ncdeploy bundle";

std::string sha256(const std::string &bytes) {
    detail::Sha256 digest;
    digest.update(bytes.data(), bytes.size());
    return digest.hex();
}

void check_file(const detail::Source &source, const std::string &name, const detail::Manifest::FileEntry &entry) {
    const std::string path = source.path(name);
    if (const std::uint64_t size = source.size(name); size != entry.bytes) {
        throw FileError(text(path, ": has ", size, " bytes, the manifest says ", entry.bytes, again));
    }
    if (source.digest(name) != entry.sha256) {
        throw FileError(path + ": has changed since the bundle was made (SHA-256 differs)" + again);
    }
}

// Values that a graph keeps in other files must have been checked as the graph was.
void check_external(const detail::Source &source, const std::string &graph, const detail::Manifest &manifest) {
    const std::string base = graph.substr(0, graph.rfind('/') + 1), path = source.path(graph);
    for (const std::string &location : detail::external_data(*source.open(graph), path)) {
        if (!manifest.files.count(base + location)) {
            throw FileError(path + ": has values in " + detail::quoted(location) + ", which the manifest lacks" +
                            again);
        }
    }
}

bool is_graph(const std::string &name) { return name.size() > 5 && name.compare(name.size() - 5, 5, ".onnx") == 0; }

} // namespace

Bundle::Bundle(const std::string &folder) : folder_(folder) {
    while (folder_.size() > 1 && folder_.back() == '/') {
        folder_.pop_back();
    }
    std::error_code error;
    if (!fs::is_directory(folder_, error)) {
        throw FileError(folder_ + ": there is no such folder; expected a bundle (ncdeploy bundle)");
    }
    if (!fs::is_regular_file(folder_ + "/manifest.json", error)) {
        throw FileError(folder_ + ": has no manifest.json; expected a bundle (ncdeploy bundle)");
    }
    open(*detail::folder_source(folder_));
}

Bundle::Bundle(const Files &files) : folder_("memory"), memory_(files) { open(*detail::memory_source(files)); }

void Bundle::open(const detail::Source &source) {
    const std::string path = source.path("manifest.json");
    const std::string bytes = source.read("manifest.json", max_manifest);
    if (source.read("manifest.sha256", 100) != sha256(bytes) + "  manifest.json\n") {
        throw FileError(path + ": does not have the digest that manifest.sha256 says" + again);
    }
    const detail::Manifest manifest = detail::Manifest::parse(bytes, path);
    engine_ = manifest.engine;
    info_ = manifest.model;
    encoder_ = manifest.encoder;
    decoder_ = manifest.decoder;
    for (const auto &[name, entry] : manifest.files) {
        check_file(source, name, entry);
        if (is_graph(name)) {
            check_external(source, name, manifest);
        }
        files_.push_back(name);
    }
    for (const auto &entry : manifest.plans) {
        Entry found{Plan::decode(source.read(entry.file, max_plan), source.path(entry.file)), {}};
        if (found.plan.name != entry.name) {
            throw FileError(text(source.path(entry.file), ": holds the plan '", found.plan.name,
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

void Bundle::check_name(const std::string &name) const {
    if (std::find(files_.begin(), files_.end(), name) == files_.end()) {
        throw InputError(folder_ + ": has no file '" + name + "'; see its manifest.json");
    }
}

std::string Bundle::file(const std::string &name) const {
    check_name(name);
    return folder_ + "/" + name;
}

std::string_view Bundle::memory(const std::string &name) const {
    check_name(name);
    return memory_.empty() ? std::string_view() : memory_.at(name);
}

std::string Bundle::read(const std::string &name) const {
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return memory_.empty() ? detail::read_file(file(name), most) : std::string(memory(name));
}

} // namespace ncdeploy
