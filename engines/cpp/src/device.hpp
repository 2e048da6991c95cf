// Devices by name.
#pragma once

#include <optional>
#include <string>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

// The index of a CUDA device, "cuda" or "cuda:N"; none for "cpu". Throws InputError for another name.
inline std::optional<int> cuda_index(const std::string &device) {
    if (device == "cpu") {
        return std::nullopt;
    }
    const std::string index = device == "cuda" ? "0" : device.rfind("cuda:", 0) == 0 ? device.substr(5) : "";
    if (index.empty() || index.size() > 3 || index.find_first_not_of("0123456789") != std::string::npos) {
        throw InputError("device: got '" + device + "', expected cpu, cuda or cuda:N");
    }
    return std::stoi(index);
}

} // namespace ncdeploy::detail
