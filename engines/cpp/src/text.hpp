// One-line messages from parts. No streams: those write numbers as the program's locale would have it.
#pragma once

#include <cstdio>
#include <string>
#include <type_traits>

namespace ncdeploy::detail {

inline void append(std::string &out, const std::string &part) { out += part; }
inline void append(std::string &out, const char *part) { out += part; }
inline void append(std::string &out, char part) { out += part; }
inline void append(std::string &out, double part) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", part);
    out += digits;
}
template <class Integer, class = std::enable_if_t<std::is_integral_v<Integer>>>
void append(std::string &out, Integer part) {
    out += std::to_string(part);
}

template <class... Parts> std::string text(const Parts &...parts) {
    std::string out;
    (append(out, parts), ...);
    return out;
}

} // namespace ncdeploy::detail
