#include "json.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#if !defined(_WIN32)
#include <locale.h> // with newlocale, which <clocale> need not have
#if defined(__APPLE__)
#include <xlocale.h>
#endif
#endif

#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy::detail {
namespace {

constexpr int max_depth = 64;
constexpr std::size_t max_values = 100000; // beside numbers in lists: bounds the memory that a small file can ask for
constexpr std::int64_t max_integer = std::int64_t{1} << 53;

struct NotJson : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The number that a text from `first` to `last` is, in a form that JSON allows; NaN if no double holds it. Libraries
// but Microsoft's had no std::from_chars of double for long, and std::strtod follows the program's locale.
double real(const char *first, const char *last) {
    double value = 0;
#if defined(_WIN32)
    const bool fits = std::from_chars(first, last, value).ec == std::errc();
#else
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr);
    char *end = nullptr;
    value = strtod_l(first, &end, plain);
    const bool fits = end == last && std::isfinite(value);
#endif
    return fits ? value : std::nan("");
}

class Parser {
  public:
    explicit Parser(const std::string &bytes) : at_(bytes.data()), begin_(at_), end_(at_ + bytes.size()) {}

    Json document() {
        Json value = any(0);
        space();
        if (at_ != end_) {
            fail("something follows the value");
        }
        return value;
    }

  private:
    [[noreturn]] void fail(const std::string &what) const { throw NotJson(text(what, " at byte ", at_ - begin_)); }

    char peek() const { return at_ == end_ ? '\0' : *at_; }

    bool take(char c) {
        if (peek() != c || at_ == end_) {
            return false;
        }
        ++at_;
        return true;
    }

    void expect(char c) {
        if (!take(c)) {
            fail(std::string("expected '") + c + "'");
        }
    }

    void space() {
        while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') {
            ++at_;
        }
    }

    Json any(int depth) {
        if (depth > max_depth || ++values_ > max_values) {
            fail(depth > max_depth ? "it is nested too deeply" : "it holds too many values");
        }
        space();
        Json value;
        switch (peek()) {
        case '{':
            return object(depth);
        case '[':
            return list(depth);
        case '"':
            value.kind = Json::Kind::text;
            value.text = quoted();
            return value;
        case 't':
        case 'f':
            value.kind = Json::Kind::boolean;
            value.boolean = peek() == 't';
            word(value.boolean ? "true" : "false");
            return value;
        case 'n':
            word("null");
            return value;
        default:
            value.kind = Json::Kind::number;
            value.number = number(value.integer);
            return value;
        }
    }

    Json object(int depth) {
        Json value;
        value.kind = Json::Kind::object;
        expect('{');
        space();
        if (take('}')) {
            return value;
        }
        do {
            space();
            const std::string key = quoted();
            space();
            expect(':');
            if (!value.object.emplace(key, any(depth + 1)).second) {
                fail("a key is there twice");
            }
            space();
        } while (take(','));
        expect('}');
        return value;
    }

    Json list(int depth) {
        Json value;
        value.kind = Json::Kind::numbers;
        value.integer = true;
        expect('[');
        space();
        if (take(']')) {
            return value;
        }
        do {
            space();
            const bool numeric = peek() == '-' || (peek() >= '0' && peek() <= '9');
            if (numeric && value.kind == Json::Kind::numbers) {
                bool integer = false;
                value.numbers.push_back(number(integer));
                value.integer = value.integer && integer;
            } else {
                generalise(value);
                value.list.push_back(any(depth + 1));
            }
            space();
        } while (take(','));
        expect(']');
        return value;
    }

    void generalise(Json &value) {
        if (value.kind == Json::Kind::list) {
            return;
        }
        value.kind = Json::Kind::list;
        if ((values_ += value.numbers.size()) > max_values) {
            fail("it holds too many values");
        }
        for (const double number : value.numbers) {
            Json item;
            item.kind = Json::Kind::number;
            item.number = number;
            value.list.push_back(item);
        }
        value.numbers.clear();
    }

    void word(const char *expected) {
        for (const char *c = expected; *c; ++c) {
            expect(*c);
        }
    }

    void digits() {
        if (!(peek() >= '0' && peek() <= '9')) {
            fail("expected a value");
        }
        while (peek() >= '0' && peek() <= '9') {
            ++at_;
        }
    }

    double number(bool &integer) {
        const char *start = at_;
        take('-');
        if (!take('0')) {
            digits();
        }
        integer = peek() != '.' && peek() != 'e' && peek() != 'E';
        if (take('.')) {
            digits();
        }
        if (take('e') || take('E')) {
            if (!take('+')) {
                take('-');
            }
            digits();
        }
        std::int64_t whole = 0;
        if (integer && (at_ - start > 17 || std::from_chars(start, at_, whole).ec != std::errc() ||
                        whole > max_integer || whole < -max_integer)) {
            fail("a number is out of range");
        }
        const double value = integer ? static_cast<double>(whole) : real(start, at_);
        if (std::isnan(value)) {
            fail("a number is out of range");
        }
        return value;
    }

    std::string quoted() {
        expect('"');
        std::string out;
        while (!take('"')) {
            if (at_ == end_ || static_cast<unsigned char>(*at_) < 0x20) {
                fail("a text does not end, or holds a control character");
            }
            if (take('\\')) {
                escape(out);
            } else {
                character(out);
            }
        }
        return out;
    }

    void escape(std::string &out) {
        static const std::string from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
        if (take('u')) {
            std::uint32_t code = hex4();
            if (code >= 0xD800 && code < 0xDC00) {
                expect('\\');
                expect('u');
                const std::uint32_t low = hex4();
                if (low < 0xDC00 || low > 0xDFFF) {
                    fail("half a surrogate pair");
                }
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            } else if (code >= 0xDC00 && code <= 0xDFFF) {
                fail("half a surrogate pair");
            }
            encode(code, out);
            return;
        }
        const std::size_t which = at_ == end_ ? std::string::npos : from.find(*at_);
        if (which == std::string::npos) {
            fail("unknown escape");
        }
        ++at_;
        out += to[which];
    }

    std::uint32_t hex4() {
        std::uint32_t code = 0;
        if (end_ - at_ < 4 || std::from_chars(at_, at_ + 4, code, 16).ptr != at_ + 4) {
            fail("expected four hex digits");
        }
        at_ += 4;
        return code;
    }

    static void encode(std::uint32_t code, std::string &out) {
        const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
        if (code < 0x80) {
            out += static_cast<char>(code);
        } else if (code < 0x800) {
            out += static_cast<char>(0xC0 | code >> 6), tail(0);
        } else if (code < 0x10000) {
            out += static_cast<char>(0xE0 | code >> 12), tail(6), tail(0);
        } else {
            out += static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0);
        }
    }

    // One character of UTF-8: the shortest form, no surrogates, at most U+10FFFF.
    void character(std::string &out) {
        const auto first = static_cast<unsigned char>(*at_);
        const int more = first < 0x80 ? 0 : first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2 : 3;
        if (first >= 0x80 && (first < 0xC2 || first > 0xF4)) {
            fail("not UTF-8");
        }
        std::uint32_t code = more == 0 ? first : first & (0x3F >> more);
        for (int i = 1; i <= more; ++i) {
            if (end_ - at_ <= i || (static_cast<unsigned char>(at_[i]) & 0xC0) != 0x80) {
                fail("not UTF-8");
            }
            code = code << 6 | (static_cast<unsigned char>(at_[i]) & 0x3F);
        }
        if ((more == 2 && code < 0x800) || (more == 3 && code < 0x10000) || code > 0x10FFFF ||
            (code >= 0xD800 && code <= 0xDFFF)) {
            fail("not UTF-8");
        }
        out.append(at_, static_cast<std::size_t>(more) + 1);
        at_ += more + 1;
    }

    const char *at_, *begin_, *end_;
    std::size_t values_ = 0;
};

} // namespace

Json Json::parse(const std::string &bytes, const std::string &path) {
    try {
        Json value = Parser(bytes).document();
        if (value.kind != Kind::object) {
            throw NotJson("it holds no object");
        }
        return value;
    } catch (const NotJson &e) {
        throw FileError(path + ": is not valid JSON (" + e.what() + "); copy or make it again");
    }
}

} // namespace ncdeploy::detail
