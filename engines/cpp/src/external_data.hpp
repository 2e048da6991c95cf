// Which files beside an ONNX graph hold values of its tensors.
#pragma once

#include <istream>
#include <set>
#include <string>

namespace ncdeploy::detail {

// Their names, as the graph in `file` gives them: relative to its folder. Throws FileError, beginning with `path`, for
// a file that is damaged.
std::set<std::string> external_data(std::istream &file, const std::string &path);

} // namespace ncdeploy::detail
