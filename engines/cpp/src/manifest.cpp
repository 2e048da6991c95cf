#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "json.hpp"
#include "record.hpp"
#include "text.hpp"

namespace ncdeploy::detail {
namespace {

using Kind = Json::Kind;

constexpr double max_bytes = 1099511627776.0, max_values = 268435456.0; // 2^40, 2^28
constexpr std::size_t max_files = 1000;

bool is_integer(const Json &v, double least, double most) {
    return v.kind == Kind::number && v.integer && v.number >= least && v.number <= most;
}

bool is_one_of(char c, const char *more) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || std::strchr(more, c);
}

// Parts of letters, digits, "_", "." and "-", parted by "/", none of which begins with "." or "-".
bool is_name(const std::string &name) {
    bool start = true;
    for (const char c : name) {
        if (c == '\0' || (start ? !is_one_of(c, "_") : !is_one_of(c, "_.-/"))) {
            return false;
        }
        start = c == '/';
    }
    return !start && name.size() <= 255;
}

bool ends_with(const std::string &name, const std::string &end) {
    return name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

bool is_plan_file(const std::string &name) {
    const std::string folder = "plans/", suffix = ".ncplan";
    return is_name(name) && name.size() > folder.size() + suffix.size() &&
           name.compare(0, folder.size(), folder) == 0 && name.find('/', folder.size()) == std::string::npos &&
           ends_with(name, suffix);
}

// Whether a bundle holds files of such a name.
bool is_known(const std::string &name) {
    const bool top = name.find('/') == std::string::npos;
    const bool graph = ends_with(name, ".onnx") || ends_with(name, ".data") || ends_with(name, ".bin");
    return is_plan_file(name) ||
           (top && (graph || name == "README.md" || name == "model.plan" || name == "model.plan.json"));
}

bool is_digest(const std::string &text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool is_texts(const Json &v) {
    return v.kind == Kind::object && std::all_of(v.object.begin(), v.object.end(),
                                                 [](const auto &member) { return member.second.kind == Kind::text; });
}

void require_curve(const Json &v) {
    if (v.kind == Kind::null) {
        return;
    }
    require_fields("model: error_curve", v, {"sigmas", "mse"});
    const Json &sigmas = v.object.at("sigmas"), &mse = v.object.at("mse");
    const auto positive = [](double x) { return x > 0; };
    const bool holds = sigmas.kind == Kind::numbers && mse.kind == Kind::numbers &&
                       sigmas.numbers.size() == mse.numbers.size() && sigmas.numbers.size() >= 2 &&
                       std::all_of(sigmas.numbers.begin(), sigmas.numbers.end(), positive) &&
                       std::all_of(mse.numbers.begin(), mse.numbers.end(), positive) &&
                       std::is_sorted(sigmas.numbers.begin(), sigmas.numbers.end(), std::less_equal<>());
    require(holds, "model: error_curve: expected two equal lists of >= 2 positive values, sigmas increasing");
}

void require_default_plan(const Json &v) {
    require(v.kind == Kind::object, "model: default_plan is no object");
    for (const auto &[key, value] : v.object) {
        require(value.kind != Kind::list && value.kind != Kind::object,
                "model: default_plan holds something else than texts, numbers and lists of numbers");
    }
}

std::vector<std::int64_t> shape(const std::string &what, const Json &v) {
    double values = 1;
    std::vector<std::int64_t> sizes;
    require(v.kind == Kind::numbers && v.integer && v.numbers.size() <= 8, what, " is no list of sizes");
    for (const double size : v.numbers) {
        require(size >= 1 && (values *= size) <= max_values, what, " holds too many values, or none");
        sizes.push_back(static_cast<std::int64_t>(size));
    }
    return sizes;
}

// Name, dtype and shape of what a graph takes or gives for a sample; `more`: what a name may hold beside letters and
// digits.
Condition value(const std::string &what, const Json &record, const char *more, std::size_t longest) {
    require_fields(what, record, {"name", "dtype", "shape"}, {"null"});
    const Json &name = record.object.at("name"), &dtype = record.object.at("dtype");
    const bool is_plain = std::all_of(name.text.begin(), name.text.end(), [&](char c) { return is_one_of(c, more); });
    require(is_plain && !name.text.empty() && name.text.size() <= longest &&
                !(name.text[0] >= '0' && name.text[0] <= '9') && name.text[0] != '.',
            what, ": its name is none of letters, digits and ", more);
    require(dtype.text == "float32" || dtype.text == "int64", what, " ", quoted(name.text),
            ": dtype is neither float32 nor int64");
    Condition out;
    out.name = name.text;
    out.dtype = dtype.text == "int64" ? DType::int64 : DType::float32;
    out.shape = shape(what + ": shape", record.object.at("shape"));
    return out;
}

Condition condition(const Json &record) {
    Condition out = value("a condition", record, "_", 60);
    static const std::set<std::string> taken{"x", "sigma", "labels", "guidance", "sample", "denoised", "noise"};
    require(!taken.count(out.name), "a condition's name is taken: ", out.name);
    const auto found = record.object.find("null");
    if (found == record.object.end() || found->second.kind == Kind::null) {
        return out;
    }
    const Json &null = found->second;
    out.null = null.kind == Kind::number ? std::vector{null.number} : null.numbers;
    const bool whole = std::all_of(out.null.begin(), out.null.end(),
                                   [](double v) { return std::fmod(v, 1) == 0 && std::abs(v) <= 0x1p53; });
    require((null.kind == Kind::number || (null.kind == Kind::numbers && null.numbers.size() == out.dim())) &&
                (out.dtype == DType::float32 || whole),
            "condition ", quoted(out.name), ": null is neither null, a number nor a value for each place");
    return out;
}

std::vector<Condition> conditions(const Json &v) {
    std::vector<Condition> all;
    std::set<std::string> names;
    require(v.kind == Kind::list || (v.kind == Kind::numbers && v.numbers.empty()), "model: conditions is no list");
    require(v.list.size() <= 64, "model: conditions are too many");
    for (const Json &entry : v.list) {
        all.push_back(condition(entry));
        require(names.insert(all.back().name).second, "model: two conditions have the same name");
    }
    return all;
}

std::vector<Condition> values(const std::string &what, const Json &v) {
    std::vector<Condition> all;
    require(v.kind == Kind::list && v.list.size() <= 64, what, " is no list of values");
    for (const Json &entry : v.list) {
        all.push_back(value(what, entry, "_.", 100));
    }
    return all;
}

ModelInfo model(const Json &record) {
    require_fields("model", record, {"shape", "sigma_min", "sigma_max", "sigma_data"},
                   {"num_classes", "unconditional", "guidance", "offset", "scale", "data", "default_plan", "mean",
                    "error_curve", "weights_digest", "precision", "versions", "conditions"});
    const auto field = [&](const char *name) {
        const auto found = record.object.find(name);
        return found == record.object.end() ? nullptr : &found->second;
    };
    const auto number = [&](const char *name, double otherwise) {
        const Json *v = field(name);
        require(!v || v->kind == Kind::number, "model: ", name, " is no number");
        return v ? v->number : otherwise;
    };
    const auto flag = [&](const char *name, bool otherwise) {
        const Json *v = field(name);
        require(!v || v->kind == Kind::boolean, "model: ", name, " is neither true nor false");
        return v ? v->boolean : otherwise;
    };
    require(field("format") && is_integer(*field("format"), 1, 1), "model has another format than 1; update ncdeploy");
    ModelInfo info;
    info.shape = shape("model: shape", *field("shape"));
    require(!info.shape.empty(), "model: shape is no list of sizes");
    info.sigma_min = number("sigma_min", 0);
    info.sigma_max = number("sigma_max", 0);
    info.sigma_data = number("sigma_data", 0);
    require(0 < info.sigma_min && info.sigma_min < info.sigma_max, "model: sigma range: expected 0 < min < max");
    require(info.sigma_data > 0, "model: sigma_data: expected a positive number");
    if (const Json *v = field("num_classes")) {
        require(is_integer(*v, 0, max_values), "model: num_classes is no number of classes");
        info.num_classes = static_cast<std::int64_t>(v->number);
    }
    info.unconditional = flag("unconditional", true);
    info.guidance = flag("guidance", false);
    info.offset = number("offset", 0);
    info.scale = number("scale", 1);
    require(info.scale != 0, "model: scale is 0");
    if (const Json *v = field("mean"); v && v->kind != Kind::null) {
        require(v->kind == Kind::numbers && v->numbers.size() == info.dim(), "model: mean: expected ", info.dim(),
                " numbers");
        info.mean = v->numbers;
    }
    if (const Json *v = field("error_curve")) {
        require_curve(*v);
    }
    if (const Json *v = field("default_plan")) {
        require_default_plan(*v);
    }
    for (const char *name : {"data", "weights_digest"}) {
        require(!field(name) || field(name)->kind == Kind::text, "model: ", name, " is no text");
    }
    if (const Json *v = field("precision")) {
        const bool is_known = v->text == "fp32" || v->text == "tf32" || v->text == "fp16" || v->text == "bf16";
        require(is_known, "model: precision: expected fp32, tf32, fp16 or bf16");
        info.precision = v->text;
    }
    if (const Json *v = field("conditions")) {
        info.conditions = conditions(*v);
    }
    require(!info.guidance || info.guidable(),
            "model: guidance needs an unconditional class, or a condition with a null value");
    require(!field("versions") || is_texts(*field("versions")), "model: versions is no object of texts");
    return info;
}

Manifest::FileEntry file_entry(const std::string &name, const Json &entry) {
    require(is_name(name) && name != "manifest.json" && name != "manifest.sha256",
            "files: one is no name inside the bundle, such as plans/ddim-100.ncplan");
    require(is_known(name), name, " is no graph, its weights, engine, plan or README.md, which is all a bundle holds");
    require_fields(name, entry, {"bytes", "sha256"});
    const Json &bytes = entry.object.at("bytes"), &sha256 = entry.object.at("sha256");
    require(is_integer(bytes, 0, max_bytes), name, ": bytes is no size");
    require(sha256.kind == Kind::text && is_digest(sha256.text), name, ": sha256 is not 64 hex digits");
    return {static_cast<std::uint64_t>(bytes.number), sha256.text};
}

Manifest::PlanEntry plan_entry(const Json &entry) {
    require_fields("a plan", entry, {"name", "file", "window", "tolerance"});
    const Json &name = entry.object.at("name"), &file = entry.object.at("file");
    const Json &window = entry.object.at("window"), &tolerance = entry.object.at("tolerance");
    require(name.kind == Kind::text && !name.text.empty(), "a plan's name is no text");
    require(file.kind == Kind::text && is_plan_file(file.text), "a plan's file is not plans/NAME.ncplan");
    require(is_integer(window, 1, 0x1p53), "a plan's window is no positive integer");
    require(tolerance.kind == Kind::number && tolerance.number >= 0, "a plan's tolerance is no number, 0 or more");
    return {name.text, file.text, static_cast<std::size_t>(window.number), tolerance.number};
}

std::optional<PartInfo> part(const std::string &role, const Json &record, const Manifest &manifest) {
    const auto found = record.object.find(role);
    if (found == record.object.end() || found->second.kind == Kind::null) {
        return {};
    }
    require_fields(role, found->second, {"file", "inputs", "outputs"});
    PartInfo out;
    out.file = found->second.object.at("file").text;
    require(out.file == role + ".onnx", role, ": file is not ", role, ".onnx");
    require(manifest.files.count(out.file), "files: ", out.file, " is not among them");
    out.inputs = values(role + ": inputs", found->second.object.at("inputs"));
    out.outputs = values(role + ": outputs", found->second.object.at("outputs"));
    return out;
}

Manifest manifest(const Json &record) {
    require_fields("the manifest", record, {"engine", "model", "plans", "files", "parity", "versions"},
                   {"encoder", "decoder"});
    const auto &field = record.object;
    Manifest out;
    out.engine = field.at("engine").text;
    require(out.engine == "model.onnx" || out.engine == "model.plan", "engine is neither model.onnx nor model.plan");
    const Json &parity = field.at("parity");
    require(parity.kind == Kind::null || parity.kind == Kind::object, "parity is neither an object nor null");
    require(is_texts(field.at("versions")), "versions is no object of texts");
    out.model = model(field.at("model"));

    const Json &files = field.at("files");
    require(files.kind == Kind::object && files.object.size() <= max_files, "files is no object of files");
    for (const auto &[name, entry] : files.object) {
        out.files.emplace(name, file_entry(name, entry));
    }
    require(out.files.count(out.engine), "files: ", out.engine, " is not among them");
    require(out.engine == "model.onnx" || out.files.count("model.plan.json"),
            "files: model.plan.json is not among them");

    const Json &plans = field.at("plans");
    require(plans.kind == Kind::list && plans.list.size() <= max_files, "plans is no list of plans");
    std::set<std::string> names, paths;
    for (const Json &entry : plans.list) {
        const Manifest::PlanEntry plan = plan_entry(entry);
        require(names.insert(plan.name).second, "plans: two have the same name");
        require(paths.insert(plan.file).second, "plans: two have the same file");
        require(out.files.count(plan.file), "files: ", plan.file, " is not among them");
        out.plans.push_back(plan);
    }
    out.encoder = part("encoder", record, out);
    out.decoder = part("decoder", record, out);
    return out;
}

} // namespace

Manifest Manifest::parse(const std::string &bytes, const std::string &path) {
    const Json record = Json::parse(bytes, path);
    const auto format = record.object.find("format"), version = record.object.find("version");
    if (format == record.object.end() || format->second.text != "ncdeploy bundle") {
        throw FileError(path + ": is not the manifest of a bundle; expected one that ncdeploy bundle made");
    }
    if (version == record.object.end() || !is_integer(version->second, 1, 1)) {
        throw FileError(path + ": has another version, this one reads 1; update ncdeploy");
    }
    try {
        return manifest(record);
    } catch (const Wrong &e) {
        throw FileError(path + ": " + e.what() + "; copy the bundle again, or make it again with ncdeploy bundle");
    }
}

} // namespace ncdeploy::detail
