// model.plan.json, what lies beside a TensorRT engine; its fields stand at the top of ncdeploy/formats/sidecar.py.
#pragma once

#include <string>

namespace ncdeploy::detail {

struct Sidecar {
    bool stripped;           // the engine has no weights of its own
    bool version_compatible; // it may bring code of its own
    bool rtx;                // it is of TensorRT for RTX

    // Throws FileError, beginning with `path`, if the bytes do not say these.
    static Sidecar parse(const std::string &bytes, const std::string &path);
};

} // namespace ncdeploy::detail
