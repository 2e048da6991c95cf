// Reads what others have damaged and says, in one line each, what it means or why it is refused.
//
// Standard input is a sequence of: one letter, the size as four bytes (little-endian), that many bytes.
//     p  the bytes of a plan file   m  those of a manifest   s  those of model.plan.json   b  the path of a bundle
#include <cstdint>
#include <iostream>

#include "manifest.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "sha256.hpp"
#include "sidecar.hpp"
#include "text.hpp"

using namespace ncdeploy;
using detail::text;

namespace {

std::string describe(const Plan &plan) {
    detail::Sha256 digest;
    for (const auto *column : {&plan.sigmas, &plan.state, &plan.denoised, &plan.noise, &plan.jacobian}) {
        digest.update(reinterpret_cast<const char *>(column->data()), column->size() * sizeof(double));
    }
    digest.update(reinterpret_cast<const char *>(plan.evaluated.data()), plan.evaluated.size());
    if (plan.clip > 0) {
        digest.update(reinterpret_cast<const char *>(&plan.clip), sizeof plan.clip);
        digest.update(reinterpret_cast<const char *>(plan.cut.data()), plan.cut.size() * sizeof(double));
    }
    return text(plan.name, " ", plan.size(), " ", plan.reach, " ", digest.hex());
}

std::string describe(const detail::Manifest &manifest) {
    const ModelInfo &info = manifest.model;
    std::string out =
        text(manifest.engine, " ", info.num_classes, info.unconditional, info.guidance, " ", info.precision);
    std::vector<double> numbers{info.sigma_min, info.sigma_max, info.sigma_data, info.offset, info.scale};
    numbers.insert(numbers.end(), info.shape.begin(), info.shape.end());
    numbers.insert(numbers.end(), info.mean.begin(), info.mean.end());
    for (const auto &condition : info.conditions) {
        out += text(" ", condition.name, " ", condition.dtype == DType::int64 ? "int64" : "float32");
        numbers.insert(numbers.end(), condition.shape.begin(), condition.shape.end());
        numbers.insert(numbers.end(), condition.null.begin(), condition.null.end());
    }
    for (const auto &plan : manifest.plans) {
        out += text(" ", plan.name, " ", plan.file, " ", plan.window);
        numbers.push_back(plan.tolerance);
    }
    for (const auto &[name, entry] : manifest.files) {
        out += text(" ", name, " ", entry.bytes, " ", entry.sha256);
    }
    detail::Sha256 digest;
    digest.update(reinterpret_cast<const char *>(numbers.data()), numbers.size() * sizeof(double));
    return out + " " + digest.hex();
}

std::string probe(char kind, const std::string &bytes) {
    try {
        if (kind == 'p') {
            return describe(Plan::decode(bytes, "plan"));
        }
        if (kind == 'm') {
            return describe(detail::Manifest::parse(bytes, "manifest"));
        }
        if (kind == 's') {
            const auto sidecar = detail::Sidecar::parse(bytes, "sidecar");
            return text("stripped ", sidecar.stripped, ", version_compatible ", sidecar.version_compatible,
                        sidecar.rtx ? ", rtx" : "");
        }
        const Bundle bundle(bytes);
        return text("whole: ", bundle.plans().size(), " plans");
    } catch (const Error &e) {
        return std::string("refused: ") + e.what();
    }
}

} // namespace

int main() {
    char head[5];
    while (std::cin.read(head, sizeof head)) {
        std::uint32_t size = 0;
        for (int i = 0; i < 4; ++i) {
            size |= std::uint32_t{static_cast<unsigned char>(head[1 + i])} << (8 * i);
        }
        std::string bytes(size, '\0');
        if (!std::cin.read(bytes.data(), static_cast<std::streamsize>(size))) {
            return 1;
        }
        std::string line = probe(head[0], bytes);
        for (char &c : line) {
            c = c == '\n' ? ' ' : c;
        }
        std::cout << line << std::endl;
    }
}
