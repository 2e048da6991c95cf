// Records in JSON, read so that they age well: unknown fields are left out, unless the record says that it needs them.
#pragma once

#include <set>
#include <stdexcept>
#include <string>

#include "json.hpp"
#include "text.hpp"

namespace ncdeploy::detail {

// A record breaks a rule of its format; the reader adds whose record it is.
struct Wrong : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class... Parts> void require(bool holds, const Parts &...what) {
    if (!holds) {
        throw Wrong(text(what...));
    }
}

// A text of a file in a message: printable, and not without end.
std::string quoted(const std::string &text);

// Throws Wrong unless `record` is an object with all of `needed`, whose list `requires`, if it has one, names none but
// these and `optional` ones.
void require_fields(const std::string &what, const Json &record, const std::set<std::string> &needed,
                    const std::set<std::string> &optional = {});

} // namespace ncdeploy::detail
