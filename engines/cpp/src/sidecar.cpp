#include "sidecar.hpp"

#include "ncdeploy/ncdeploy.hpp"
#include "record.hpp"

namespace ncdeploy::detail {

Sidecar Sidecar::parse(const std::string &bytes, const std::string &path) {
    const Json record = Json::parse(bytes, path);
    try {
        require_fields("it", record, {"options"},
                       {"tensorrt", "compute_capability", "device", "driver", "platform", "plan_sha256", "plan_bytes",
                        "onnx", "onnx_sha256", "model", "profiles", "layers", "device_memory", "command", "parity",
                        "latency", "runtime", "targets", "first_call"});
        const auto format = record.object.find("format");
        require(format != record.object.end() && format->second.kind == Json::Kind::number &&
                    format->second.number == 1,
                "it has another format than 1");
        const auto runtime = record.object.find("runtime");
        const bool rtx = runtime != record.object.end() && runtime->second.text == "rtx";
        require(runtime == record.object.end() || rtx || runtime->second.text == "tensorrt",
                "runtime is neither tensorrt nor rtx");
        const Json &options = record.object.at("options");
        require_fields("options", options, {"stripped", "version_compatible"},
                       {"tf32", "hardware_compatible", "refittable", "weight_streaming", "workspace", "level"});
        const auto flag = [&](const char *name) {
            const Json &value = options.object.at(name);
            require(value.kind == Json::Kind::boolean, name, " is neither true nor false");
            return value.boolean;
        };
        return {flag("stripped"), flag("version_compatible"), rtx};
    } catch (const Wrong &e) {
        throw FileError(path + ": " + e.what() + "; build the engine again");
    }
}

} // namespace ncdeploy::detail
