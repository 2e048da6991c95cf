// JSON (RFC 8259) that means one thing: no key twice, no NaN or infinity, no integer that a double would round.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace ncdeploy::detail {

struct Json {
    enum class Kind { null, boolean, number, text, numbers, list, object };

    Kind kind = Kind::null;
    bool boolean = false;
    bool integer = false; // a number, or all numbers of a list, were written without fraction and exponent
    double number = 0;
    std::string text;
    std::vector<double> numbers; // a list of nothing but numbers, the empty one too
    std::vector<Json> list;      // any other list
    std::map<std::string, Json> object;

    // The object in a text. Throws FileError, beginning with `path`, unless it is strict JSON.
    static Json parse(const std::string &bytes, const std::string &path);
};

} // namespace ncdeploy::detail
