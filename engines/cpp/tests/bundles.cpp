// Opening bundles: a good one, and each way to be a bad one.
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>

#include "check.hpp"
#include "plans.hpp"
#include "sha256.hpp"
#include "text.hpp"

using namespace ncdeploy;
namespace fs = std::filesystem;
using detail::text;

namespace {

std::string sha256(const std::string &bytes) {
    detail::Sha256 digest;
    digest.update(bytes.data(), bytes.size());
    return digest.hex();
}

void write(const fs::path &path, const std::string &bytes) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
}

const fs::path folder = fs::temp_directory_path() / ("ncdeploy-bundles-" + std::to_string(std::random_device()()));

// A protobuf field with a length.
std::string field(int number, const std::string &value) {
    return text(static_cast<char>(number << 3 | 2), static_cast<char>(value.size()), value);
}

// An ONNX file with nothing in it but a tensor whose values have something external under a key.
std::string graph(const std::string &key, const std::string &value = "weights.bin") {
    return field(7, field(5, field(13, field(1, key) + field(2, value))));
}

// What make_bundle puts together; tests change a part of it first.
struct Parts {
    std::map<std::string, std::string> files{{"model.onnx", graph("unused")},
                                             {"plans/test.ncplan", encode(make_plan(9, 1))}};
    std::string format = "ncdeploy bundle", engine = "model.onnx", shape = "[1, 2, 3]", more, listed;
    std::string plans = R"([{"name": "test", "file": "plans/test.ncplan", "window": 8, "tolerance": 0.002}])";
    std::string manifest() const {
        std::string list = listed;
        for (const auto &[name, bytes] : files) {
            list += text(list.empty() ? "" : ", ", '"', name, "\": {\"bytes\": ", bytes.size(), ", \"sha256\": \"",
                         sha256(bytes), "\"}");
        }
        return text(R"({"format": ")", format, R"(", "version": 1, "engine": ")", engine,
                    R"(", "model": {"format": 1, "sigma_min": 0.01, "sigma_max": 80, "sigma_data": 0.5, "shape": )",
                    shape, more, R"(}, "plans": )", plans, R"(, "files": {)", list,
                    R"(}, "parity": null, "versions": {}})");
    }
};

void make_bundle(const Parts &parts) {
    fs::remove_all(folder);
    for (const auto &[name, bytes] : parts.files) {
        write(folder / name, bytes);
    }
    const std::string manifest = parts.manifest();
    write(folder / "manifest.json", manifest);
    write(folder / "manifest.sha256", sha256(manifest) + "  manifest.json\n");
}

std::string refused() {
    return thrown<FileError>([] { Bundle(folder.string()); });
}

bool holds(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

Parts with_more(const char *more) {
    Parts parts;
    parts.more = more;
    return parts;
}

std::string refused_with(const std::function<void(Parts &)> &change) {
    Parts parts;
    change(parts);
    make_bundle(parts);
    return refused();
}

void a_good_one_opens() {
    make_bundle({});
    const Bundle bundle(folder.string() + "/");
    CHECK(bundle.info().dim() == 6 && bundle.info().sigma_data == 0.5);
    CHECK(bundle.plans() == std::vector<std::string>{"test"});
    CHECK(bundle.plan().size() == 9 && bundle.plan("test").reach == 2);
    CHECK(bundle.options().window == 8 && bundle.options().tolerance == 0.002);
    CHECK(bundle.engine() == (folder / "model.onnx").string());
    CHECK(thrown<InputError>([&] { (void)bundle.plan("other"); }) ==
          folder.string() + ": has no plan 'other'; it has test");
    thrown<InputError>([&] { (void)bundle.file("../secret"); });
}

// A bundle with an encoder, whose record is as given.
Parts with_encoder(const std::string &record) {
    Parts parts;
    parts.files["encoder.onnx"] = graph("unused");
    parts.plans += text(", \"encoder\": ", record);
    return parts;
}

void an_encoder_is_described() {
    const std::string good =
        R"({"file": "encoder.onnx", "inputs": [{"name": "a.b", "dtype": "float32", "shape": [2, 3]}],
        "outputs": [{"name": "goal", "dtype": "int64", "shape": []}]})";
    make_bundle(with_encoder(good));
    const Bundle bundle(folder.string());
    CHECK(bundle.encoder() && !bundle.decoder());
    CHECK(bundle.encoder()->inputs[0].name == "a.b" && bundle.encoder()->inputs[0].dim() == 6);
    CHECK(bundle.encoder()->outputs[0].dtype == DType::int64);
    make_bundle(with_encoder("null"));
    CHECK(!Bundle(folder.string()).encoder());
    for (const auto &[from, to] : std::map<std::string, std::string>{{"encoder.onnx", "decoder.onnx"},
                                                                     {"a.b", ".b"},
                                                                     {"a.b", "a b"},
                                                                     {"int64", "int32"},
                                                                     {"[2, 3]", "[2, 0]"},
                                                                     {"\"outputs\"", "\"other\""}}) {
        std::string bad = good;
        make_bundle(with_encoder(bad.replace(bad.find(from), from.size(), to)));
        CHECK(holds(refused(), "encoder"));
    }
    Parts missing = with_encoder(good);
    missing.files.erase("encoder.onnx");
    make_bundle(missing);
    CHECK(holds(refused(), "files: encoder.onnx is not among them"));
}

void damage_is_found() {
    CHECK(holds(thrown<FileError>([] { Bundle("/nonexistent"); }), "there is no such folder"));
    make_bundle({});
    write(folder / "model.onnx", graph("unuzed"));
    CHECK(holds(refused(), "SHA-256 differs"));
    write(folder / "model.onnx", "short");
    CHECK(holds(refused(), "has 5 bytes, the manifest says 27"));
    fs::remove(folder / "model.onnx");
    CHECK(holds(refused(), "is missing"));
    fs::create_directory(folder / "model.onnx");
    CHECK(holds(refused(), "is not a regular file"));
    make_bundle({});
    std::string manifest = Parts().manifest();
    manifest[manifest.find("0.002") + 4] = '9';
    write(folder / "manifest.json", manifest);
    CHECK(holds(refused(), "does not have the digest"));
    fs::remove(folder / "manifest.sha256");
    CHECK(holds(refused(), "is missing"));
    fs::remove(folder / "manifest.json");
    CHECK(holds(refused(), "has no manifest.json"));
}

void links_are_refused() {
    make_bundle({});
    fs::rename(folder / "model.onnx", folder.string() + "-real");
    fs::create_symlink(folder.string() + "-real", folder / "model.onnx");
    CHECK(holds(refused(), "is a link"));
    fs::remove(folder.string() + "-real");
    make_bundle({});
    fs::rename(folder / "plans", folder / "elsewhere");
    fs::create_directory_symlink("elsewhere", folder / "plans");
    CHECK(holds(refused(), "plans: is a link"));
}

void names_stay_inside() {
    for (const char *name : {"../escape", "/etc/passwd", "a/../b", "./a", "a//b", "a/", ".hidden", "-a", "a b",
                             "a\\\\b", "manifest.json", "manifest.sha256", "", "a\\u0000b"}) {
        const auto list = [&](Parts &p) {
            p.listed = text('"', name, "\": {\"bytes\": 0, \"sha256\": \"", std::string(64, '0'), "\"}");
        };
        CHECK(holds(refused_with(list), "is no name inside the bundle"));
    }
    CHECK(holds(refused_with([](Parts &p) { p.files["tool.sh"] = ""; }), "tool.sh is no graph, its weights"));
    const auto plan_in = [](const char *file) {
        return [file](Parts &p) {
            p.plans.replace(p.plans.find("plans/test"), std::string("plans/test.ncplan").size(), file);
        };
    };
    CHECK(holds(refused_with(plan_in("plans/../test.ncplan")), "a plan's file"));
    CHECK(holds(refused_with(plan_in("model.onnx")), "a plan's file"));
    CHECK(holds(refused_with(plan_in("plans/none.ncplan")), "is not among them"));
}

void every_field_is_checked() {
    const auto plan_says = [](const char *from, const char *to) {
        return [=](Parts &p) { p.plans.replace(p.plans.find(from), std::string(from).size(), to); };
    };
    CHECK(holds(refused_with([](Parts &p) { p.format = "other"; }), "is not the manifest of a bundle"));
    CHECK(holds(refused_with([](Parts &p) { p.engine = "model.exe"; }), "engine is neither"));
    CHECK(holds(refused_with([](Parts &p) { p.shape = "[]"; }), "shape is no list of sizes"));
    CHECK(holds(refused_with([](Parts &p) { p.shape = "[1.0]"; }), "shape is no list of sizes"));
    CHECK(holds(refused_with([](Parts &p) { p.shape = "[65536, 65536, 65536]"; }), "shape holds too many values"));
    CHECK(holds(refused_with([](Parts &p) { p.shape = "[0]"; }), "shape holds too many values"));
    CHECK(holds(refused_with([](Parts &p) { p.more = ", \"mean\": [1]"; }), "mean: expected 6 numbers"));
    CHECK(holds(refused_with([](Parts &p) { p.more = ", \"num_classes\": -1"; }), "num_classes"));
    CHECK(holds(refused_with([](Parts &p) { p.more = ", \"guidance\": true"; }),
                "guidance needs an unconditional class"));
    CHECK(holds(refused_with([](Parts &p) { p.more = ", \"precision\": \"int4\""; }), "precision"));
    make_bundle(with_more(R"(, "colour": 1, "requires": ["mean"])"));
    CHECK(Bundle(folder.string()).info().dim() == 6);
    CHECK(holds(refused_with([](Parts &p) { p.more = R"(, "colour": 1, "requires": ["colour"])"; }),
                "model needs the field 'colour', which this version does not know; update ncdeploy"));
    CHECK(holds(refused_with([](Parts &p) { p.more = R"(, "requires": "mean")"; }), "requires is no list"));
    CHECK(holds(refused_with([](Parts &p) { p.more = R"(, "requires": [1])"; }), "requires is no list"));
    make_bundle(with_more(R"(, "conditions": [{"name": "goal", "dtype": "float32", "shape": [2], "null": [0, 1.5]},
                                              {"name": "task", "dtype": "int64", "shape": [], "null": null}])"));
    const std::vector<Condition> conditions = Bundle(folder.string()).info().conditions;
    CHECK(conditions.size() == 2 && conditions[0].dim() == 2 && conditions[0].null == (std::vector<double>{0, 1.5}));
    CHECK(conditions[1].name == "task" && conditions[1].dtype == DType::int64 && conditions[1].null.empty());
    for (const char *bad :
         {R"({"name": "x", "dtype": "float32", "shape": []})", R"({"name": "a", "dtype": "float16", "shape": []})",
          R"({"name": "1a", "dtype": "int64", "shape": []})", R"({"name": "a", "dtype": "float32", "shape": [0]})",
          R"({"name": "a", "dtype": "float32"})", R"({"name": "a", "dtype": "int64", "shape": [2], "null": [1]})",
          R"({"name": "a", "dtype": "int64", "shape": [], "null": 0.5})",
          R"({"name": "a", "dtype": "int64", "shape": []}, {"name": "a", "dtype": "int64", "shape": []})"}) {
        CHECK(holds(refused_with([&](Parts &p) { p.more = text(", \"conditions\": [", bad, "]"); }), "condition"));
    }
    CHECK(holds(refused_with(plan_says("test", "other")), "holds the plan 'test', the manifest says 'other'"));
    CHECK(holds(refused_with(plan_says("8", "9")), "has window 9, expected at most 8"));
    CHECK(holds(refused_with(plan_says("8", "1e3")), "window is no positive integer"));
    CHECK(holds(refused_with(plan_says("0.002", "-1")), "tolerance"));
    CHECK(holds(refused_with([](Parts &p) { p.plans = "[]"; }), "plans is no list"));
    CHECK(holds(refused_with(
                    [](Parts &p) { p.plans = "[" + p.plans.substr(1, p.plans.size() - 2) + ", " + p.plans.substr(1); }),
                "two have the same name"));
    CHECK(holds(refused_with([](Parts &p) { p.files["plans/test.ncplan"][2] = 'x'; }), "is not a plan"));
}

void values_outside_the_graph_are_in_the_manifest() {
    const auto where = [](const std::string &bytes) { return [bytes](Parts &p) { p.files["model.onnx"] = bytes; }; };
    CHECK(holds(refused_with(where(graph("location"))), "has values in 'weights.bin', which the manifest lacks"));
    const std::string outside = graph("location", "../w");
    CHECK(holds(refused_with(where(outside)), "has values in '../w', which the manifest lacks"));
    // In the body of a loop: graph.node.attribute.g.initializer.
    const std::string deep = graph("location").substr(2);
    CHECK(holds(refused_with(where(field(7, field(1, field(5, field(6, deep)))))), "has values in 'weights.bin'"));
    CHECK(holds(refused_with(where(outside.substr(0, outside.size() - 1))), "is a damaged ONNX file"));
    CHECK(holds(refused_with(where(std::string(20, '\xff'))), "is a damaged ONNX file"));
    Parts whole;
    whole.files["model.onnx"] = graph("location");
    whole.files["weights.bin"] = "values";
    make_bundle(whole);
    CHECK(Bundle(folder.string()).file("weights.bin") == (folder / "weights.bin").string());
    write(folder / "weights.bin", "valuez");
    CHECK(holds(refused(), "SHA-256 differs"));
}

// Every file of the folder, as a program holds them.
std::map<std::string, std::string> in_memory() {
    std::map<std::string, std::string> all;
    for (const auto &entry : fs::recursive_directory_iterator(folder)) {
        if (entry.is_regular_file()) {
            std::ifstream file(entry.path(), std::ios::binary);
            all[fs::relative(entry.path(), folder).generic_string()] = {std::istreambuf_iterator<char>(file), {}};
        }
    }
    return all;
}

void a_bundle_may_lie_in_memory() {
    Parts parts;
    parts.files["model.onnx"] = graph("location");
    parts.files["weights.bin"] = "values";
    make_bundle(parts);
    const auto held = in_memory();
    const Files files(held.begin(), held.end());
    const Bundle bundle(files);
    CHECK(bundle.plan().size() == 9 && bundle.options().window == 8 && bundle.info().dim() == 6);
    CHECK(bundle.engine() == "memory/model.onnx" && bundle.memory("weights.bin") == "values");
    CHECK(bundle.read("weights.bin") == "values" && Bundle(folder.string()).read("weights.bin") == "values");
    CHECK(Bundle(folder.string()).memory("weights.bin").empty());
    thrown<InputError>([&] { (void)bundle.memory("other"); });
    for (const auto &[name, bytes] : held) { // any one of them missing, cut short or changed
        Files changed = files;
        changed.erase(name);
        CHECK(thrown<FileError>([&] { Bundle{changed}; }) ==
              "memory/" + name + ": is missing; give every file of the bundle");
        changed[name] = std::string_view(bytes).substr(1);
        thrown<FileError>([&] { Bundle{changed}; });
        std::string other = bytes;
        ++other[other.size() / 2];
        changed[name] = other;
        thrown<FileError>([&] { Bundle{changed}; });
    }
    CHECK(thrown<FileError>([] { Bundle{Files()}; }).rfind("memory/manifest.json: is missing", 0) == 0);
}

} // namespace

int main() {
    a_good_one_opens();
    an_encoder_is_described();
    damage_is_found();
    links_are_refused();
    names_stay_inside();
    every_field_is_checked();
    values_outside_the_graph_are_in_the_manifest();
    a_bundle_may_lie_in_memory();
    fs::remove_all(folder);
}
