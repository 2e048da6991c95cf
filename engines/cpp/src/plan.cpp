// The rules of a plan, and the plan file whose layout stands at the top of ncdeploy/formats/planfile.py:
//
//     0  "NCPLAN"   6  u16 version   8  u32 n   12  u32 reach   16  u32 m   20  u32 flags (bit 0: jacobian, bit 1: clip)
//     24 name, m bytes, zeros up to a multiple of 8
//     then little-endian f64: sigmas [n], state [n, reach], denoised [n, reach], noise [n], jacobian [n] if bit 0,
//     clip and cut [n] if bit 1, which version 2 has and version 1 has not
//     then evaluated u8 [n], zeros up to a multiple of 8; the file ends there
#include <algorithm>
#include <cmath>
#include <cstring>

#include "files.hpp"
#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::text;

constexpr std::size_t max_nodes = 1 << 16, max_reach = 64, max_name = 255, header = 24;
constexpr std::uint32_t has_jacobian = 1, has_clip = 2;

std::size_t pad8(std::size_t size) { return (size + 7) / 8 * 8; }

std::size_t file_size(std::size_t n, std::size_t reach, std::size_t name, std::uint32_t flags) {
    const std::size_t jacobian = flags & has_jacobian ? n : 0, clip = flags & has_clip ? 1 + n : 0;
    return header + pad8(name) + 8 * (n * (2 + 2 * reach) + jacobian + clip) + pad8(n);
}

// Bytes in order. Whoever takes has checked the size of the whole before.
struct Reader {
    const std::string &bytes;
    std::size_t at = 0;

    std::uint64_t number(std::size_t size) {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < size; ++i) {
            value |= std::uint64_t{static_cast<unsigned char>(bytes.at(at + i))} << (8 * i);
        }
        at += size;
        return value;
    }
    std::vector<double> numbers(std::size_t count) {
        std::vector<double> values(count);
        for (double &value : values) {
            const std::uint64_t bits = number(8);
            std::memcpy(&value, &bits, sizeof value);
        }
        return values;
    }
    std::string padded(std::size_t size) {
        const std::string part = bytes.substr(at, size), rest = bytes.substr(at + size, pad8(size) - size);
        if (rest.find_first_not_of('\0') != std::string::npos) {
            throw InputError("its padding is not zero");
        }
        at += pad8(size);
        return part;
    }
};

void check_count(const char *what, std::size_t value, std::size_t least, std::size_t most) {
    if (value < least || value > most) {
        throw InputError(text(what, ": got ", value, ", expected ", least, " to ", most));
    }
}

Plan decode_checked(Reader file, std::uint64_t version) {
    const auto n = static_cast<std::size_t>(file.number(4)), reach = static_cast<std::size_t>(file.number(4));
    const auto name = static_cast<std::size_t>(file.number(4));
    const auto flags = static_cast<std::uint32_t>(file.number(4));
    check_count("nodes", n, 2, max_nodes);
    check_count("reach", reach, 1, max_reach);
    check_count("name", name, 1, max_name);
    if (flags & ~(has_jacobian | has_clip) || (flags & has_clip ? 2U : 1U) != version) {
        throw InputError(text("unknown flags ", flags, " in version ", version));
    }
    const std::size_t size = file_size(n, reach, name, flags);
    if (file.bytes.size() != size) {
        throw InputError(text("it has ", file.bytes.size(), " bytes, expected ", size));
    }
    Plan plan;
    plan.name = file.padded(name);
    plan.reach = reach;
    plan.sigmas = file.numbers(n);
    plan.state = file.numbers(n * reach);
    plan.denoised = file.numbers(n * reach);
    plan.noise = file.numbers(n);
    plan.jacobian = file.numbers(flags & has_jacobian ? n : 0);
    if (flags & has_clip) {
        plan.clip = file.numbers(1)[0];
        plan.cut = file.numbers(n);
    }
    const std::string evaluated = file.padded(n);
    plan.evaluated.assign(evaluated.begin(), evaluated.end());
    if (std::any_of(plan.evaluated.begin(), plan.evaluated.end(), [](unsigned char e) { return e > 1; })) {
        throw InputError("evaluated holds a value that is not 0 or 1");
    }
    plan.check();
    if (flags & has_clip && plan.clip == 0) {
        throw InputError("clip is 0, expected a positive number");
    }
    return plan;
}

bool printable(const std::string &name) {
    return std::all_of(name.begin(), name.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

} // namespace

std::size_t Plan::evaluations() const {
    return static_cast<std::size_t>(std::count(evaluated.begin(), evaluated.end(), 1));
}

bool Plan::stochastic() const {
    return std::any_of(noise.begin() + 1, noise.end(), [](double c) { return c != 0; });
}

void Plan::check() const {
    if (!printable(name)) {
        throw InputError("plan: a name is printable ASCII");
    }
    const auto fail = [this](const auto &...what) { throw InputError(text("plan ", name, ": ", what...)); };
    const std::size_t n = size();
    const auto column = [&](const char *field, const std::vector<double> &values, std::size_t wanted) {
        if (values.size() != wanted) {
            fail(field, " has ", values.size(), " values, expected ", wanted);
        }
        if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
            fail(field, " holds NaN or infinity");
        }
    };
    if (n < 2) {
        fail(n, " nodes; a plan needs a start and a sample");
    }
    check_count("nodes", n, 2, max_nodes);
    check_count("reach", reach, 1, max_reach);
    column("sigmas", sigmas, n);
    column("state", state, n * reach);
    column("denoised", denoised, n * reach);
    column("noise", noise, n);
    column("jacobian", jacobian, jacobian.empty() ? 0 : n);
    if (!(clip >= 0 && std::isfinite(clip))) {
        fail("clip is ", clip, ", expected a positive number, or 0 for none");
    }
    column("cut", cut, clip > 0 ? n : 0);
    if (evaluated.size() != n) {
        fail("evaluated has ", evaluated.size(), " values, expected ", n);
    }
    if (!evaluated.front() || evaluated.back()) {
        fail("the first node must be evaluated and the last must not");
    }
    if (noise[0] <= 0) {
        fail("the first node is pure noise, its coefficient must be > 0");
    }
    for (std::size_t k = 0; k < n; ++k) {
        if (evaluated[k] && sigmas[k] <= 0) {
            fail("every evaluated node needs sigma > 0");
        }
        for (std::size_t h = 0; h < reach; ++h) {
            const bool uses_state = state[k * reach + h] != 0, uses_output = denoised[k * reach + h] != 0;
            if (h >= k && (uses_state || uses_output)) {
                fail("a row refers to a node before the first");
            }
            if (uses_output && !evaluated[k - 1 - h]) {
                fail("a row uses the denoiser at a node that is not evaluated");
            }
        }
        if (!jacobian.empty() && !(jacobian[k] >= 0 && jacobian[k] <= (evaluated[k] ? 1.0 : 0.0))) {
            fail("jacobian must lie in 0 .. 1, and be 0 at nodes that are not evaluated");
        }
    }
}

Plan Plan::decode(const std::string &bytes, const std::string &path) {
    if (bytes.compare(0, 6, "NCPLAN") != 0) {
        throw FileError(path + ": is not a plan; expected a file of ncdeploy bundle, *.ncplan");
    }
    if (bytes.size() < header) {
        throw FileError(path + ": is cut short; copy or make it again");
    }
    Reader file{bytes, 6};
    const auto version = file.number(2);
    if (version != 1 && version != 2) {
        throw FileError(text(path, ": is a plan of version ", version, ", this one reads 1 and 2; update ncdeploy"));
    }
    try {
        return decode_checked(file, version);
    } catch (const InputError &e) {
        throw FileError(text(path, ": is a damaged plan (", e.what(), "); copy or make it again"));
    }
}

Plan Plan::read(const std::string &path) {
    return decode(detail::read_file(path, file_size(max_nodes, max_reach, max_name, has_jacobian | has_clip)), path);
}

} // namespace ncdeploy
