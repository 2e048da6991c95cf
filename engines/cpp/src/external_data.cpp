// An ONNX file is one protobuf message, and messages lie in messages, each a list of (field number, wire type, value).
// Those below are the ones of onnx/onnx.proto in which tensors may lie; all else is skipped, the weights too.
#include "external_data.hpp"

#include <cstdint>
#include <map>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {
namespace {

enum class Message { model, training, graph, function, node, attribute, sparse, tensor, external };

// Field number -> the message in it.
const std::map<std::uint64_t, Message> &inside(Message message) {
    static const std::map<Message, std::map<std::uint64_t, Message>> all{
        {Message::model, {{7, Message::graph}, {20, Message::training}, {25, Message::function}}},
        {Message::training, {{1, Message::graph}, {2, Message::graph}}},
        {Message::graph, {{1, Message::node}, {5, Message::tensor}, {15, Message::sparse}}},
        {Message::function, {{7, Message::node}, {11, Message::attribute}}},
        {Message::node, {{5, Message::attribute}}},
        {Message::attribute,
         {{5, Message::tensor},
          {6, Message::graph},
          {10, Message::tensor},
          {11, Message::graph},
          {22, Message::sparse},
          {23, Message::sparse}}},
        {Message::sparse, {{1, Message::tensor}, {2, Message::tensor}}},
        {Message::tensor, {{13, Message::external}}},
        {Message::external, {}}};
    return all.at(message);
}

constexpr int max_depth = 200;
constexpr std::uint64_t max_text = 4096;

class Walker {
  public:
    Walker(std::istream &file, const std::string &path) : path_(path), file_(file) {
        file_.seekg(0, std::ios::end);
        const auto size = static_cast<std::int64_t>(file_.tellg());
        if (!file_ || size < 0) {
            throw FileError(path + ": cannot be read; check its permissions");
        }
        file_.seekg(0);
        size_ = static_cast<std::uint64_t>(size);
    }

    std::set<std::string> locations() {
        walk(Message::model, size_, 0);
        return std::move(found_);
    }

  private:
    [[noreturn]] void damaged() const { throw FileError(path_ + ": is a damaged ONNX file; copy or export it again"); }

    void walk(Message message, std::uint64_t end, int depth) {
        std::string key, value; // of an entry of external_data
        while (at_ < end) {
            const std::uint64_t head = varint(end), number = head >> 3, wire = head & 7;
            if (wire == 0) {
                varint(end);
                continue;
            }
            const std::uint64_t size = wire == 2 ? varint(end) : wire == 1 ? 8 : wire == 5 ? 4 : end;
            if (number == 0 || size > end - at_ || depth > max_depth) {
                damaged();
            }
            const auto next = inside(message).find(number);
            if (wire == 2 && next != inside(message).end()) {
                walk(next->second, at_ + size, depth + 1);
            } else if (message == Message::external && (number == 1 || number == 2) && size <= max_text) {
                read(number == 1 ? key : value, size);
            } else {
                skip(size);
            }
        }
        if (message == Message::external && key == "location") {
            found_.insert(value);
        }
    }

    // Most fields are short and in the stream's buffer, which a seek would throw away.
    void skip(std::uint64_t size) {
        at_ += size;
        if (size <= max_text) {
            file_.ignore(static_cast<std::streamsize>(size));
        } else {
            file_.seekg(static_cast<std::streamoff>(at_));
        }
    }

    void read(std::string &text, std::uint64_t size) {
        text.resize(static_cast<std::size_t>(size));
        if (!file_.read(text.data(), static_cast<std::streamsize>(size))) {
            damaged();
        }
        at_ += size;
    }

    std::uint64_t varint(std::uint64_t end) {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 70 && at_ < end; shift += 7, ++at_) {
            const int byte = file_.get();
            if (byte < 0) {
                break;
            }
            value |= shift < 64 ? static_cast<std::uint64_t>(byte & 0x7f) << shift : 0;
            if (byte < 0x80) {
                ++at_;
                return value;
            }
        }
        damaged();
    }

    const std::string &path_;
    std::istream &file_;
    std::uint64_t at_ = 0, size_ = 0;
    std::set<std::string> found_;
};

} // namespace

std::set<std::string> external_data(std::istream &file, const std::string &path) {
    return Walker(file, path).locations();
}

} // namespace ncdeploy::detail
