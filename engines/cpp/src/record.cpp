#include "record.hpp"

namespace ncdeploy::detail {

std::string quoted(const std::string &text) {
    std::string shown = "'";
    for (const char c : text.substr(0, 60)) {
        shown += c >= 0x20 && c <= 0x7e ? c : '?';
    }
    return shown + "'";
}

void require_fields(const std::string &what, const Json &record, const std::set<std::string> &needed,
                    const std::set<std::string> &optional) {
    constexpr std::size_t most = 100;
    require(record.kind == Json::Kind::object, what, " is no object");
    if (const auto found = record.object.find("requires"); found != record.object.end()) {
        const Json &names = found->second; // an empty list is one of numbers
        require((names.kind == Json::Kind::list && names.list.size() <= most) ||
                    (names.kind == Json::Kind::numbers && names.numbers.empty()),
                what, ": requires is no list of names");
        for (const Json &name : names.list) {
            require(name.kind == Json::Kind::text, what, ": requires is no list of names");
            require(needed.count(name.text) || optional.count(name.text), what, " needs the field ", quoted(name.text),
                    ", which this version does not know; update ncdeploy");
        }
    }
    for (const std::string &key : needed) {
        require(record.object.count(key), what, " lacks ", key);
    }
}

} // namespace ncdeploy::detail
