// Which files beside an ONNX graph hold values of its tensors.
#pragma once

#include <set>
#include <string>

namespace ncdeploy::detail {

// Their names, as the graph gives them: relative to its folder. Throws FileError for a file that is damaged.
std::set<std::string> external_data(const std::string &path);

} // namespace ncdeploy::detail
