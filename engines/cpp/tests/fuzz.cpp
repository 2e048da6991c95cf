// Any bytes at all for each reader: it reads them or throws an Error. fuzz COUNT: so many damaged inputs of each.
//
// With libFuzzer: clang++ -std=c++17 -fsanitize=fuzzer,address,undefined -DNCDEPLOY_LIBFUZZER -DNCDEPLOY_VERSION='""',
// of this file and src/*.cpp but for the backends.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <sstream>

#include "external_data.hpp"
#include "manifest.hpp"
#include "plans.hpp"
#include "sidecar.hpp"

using namespace ncdeploy;

namespace {

constexpr std::size_t readers = 4;

// Whether the reader took them.
bool read(std::size_t reader, const std::string &bytes) {
    try {
        if (reader == 0) {
            Plan::decode(bytes, "plan");
        } else if (reader == 1) {
            detail::Manifest::parse(bytes, "manifest");
        } else if (reader == 2) {
            detail::Sidecar::parse(bytes, "sidecar");
        } else {
            std::istringstream file(bytes);
            detail::external_data(file, "graph");
        }
        return true;
    } catch (const Error &) {
        return false;
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    if (size) {
        read(data[0] % readers, {data + 1, data + size});
    }
    return 0;
}

#ifndef NCDEPLOY_LIBFUZZER

namespace {

const std::string whole[readers] = {
    encode(make_plan(9, 1, true)),
    R"({"format": "ncdeploy bundle", "version": 1, "engine": "model.onnx", "parity": null, "versions": {"a": "1"},
        "model": {"format": 1, "sigma_min": 0.01, "sigma_max": 80, "sigma_data": 0.5, "shape": [1, 2],
                  "mean": [0, 1e-3],
                  "error_curve": {"sigmas": [0.1, 1], "mse": [0.01, 0.5]}, "requires": ["mean"],
                  "conditions": [{"name": "goal", "dtype": "float32", "shape": [2], "null": [0, -1.5]}]},
        "plans": [{"name": "p", "file": "plans/p.ncplan", "window": 8, "tolerance": 0.002}],
        "files": {"model.onnx": {"bytes": 3, "sha256": ")" +
        std::string(64, '0') + R"("}, "plans/p.ncplan": {"bytes": 9, "sha256": ")" + std::string(64, 'f') + R"("}}})",
    R"({"format": 1, "options": {"stripped": false, "version_compatible": true, "level": 3}, "profiles": [[1, 2, 3]]})",
    "\x08\x07\x3a\x1b\x2a\x19\x6a\x17\x0a\x08location\x12\x0bweights.bin",
};

// One to three bits flipped, a piece cut out or put elsewhere, or bytes replaced by ones with a meaning.
std::string damaged(std::string bytes, std::mt19937_64 &random) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % (n + 1)); };
    for (std::size_t changes = 1 + below(2); changes; --changes) {
        const std::size_t at = below(bytes.size() - 1), size = below(std::min<std::size_t>(bytes.size() - at, 20));
        const std::string piece = bytes.substr(at, size);
        switch (random() % 4) {
        case 0:
            bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
            break;
        case 1:
            bytes.erase(at, size);
            break;
        case 2:
            bytes.insert(below(bytes.size()), piece);
            break;
        default:
            static const char odd[] = "\0\xff\x7f\x80-0.e[]{}\",:\\9";
            bytes[at] = odd[below(sizeof odd - 2)];
        }
        if (bytes.empty()) {
            return bytes;
        }
    }
    return bytes;
}

} // namespace

int main(int argc, char **argv) {
    const unsigned long count = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2000;
    for (std::size_t reader = 0; reader < readers; ++reader) {
        std::mt19937_64 random(reader);
        unsigned long taken = 0;
        if (!read(reader, whole[reader])) {
            std::cerr << "reader " << reader << " refuses what is whole" << std::endl;
            return 1;
        }
        for (unsigned long i = 0; i < count; ++i) {
            taken += read(reader, damaged(whole[reader], random));
        }
        std::cout << "reader " << reader << ": " << count << " inputs, " << count - taken << " refused" << std::endl;
        if (taken == count) {
            return 1;
        }
    }
}

#endif
