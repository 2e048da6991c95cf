// The pieces below the drivers: noise, digests, JSON, plan files.
#include <cmath>

#include "check.hpp"
#include "json.hpp"
#include "noise.hpp"
#include "plans.hpp"
#include "sha256.hpp"
#include "sha256_blocks.hpp"

using namespace ncdeploy;
using detail::Json;

namespace {

// Random123's known answers: counter 0 and key 0 give these words, and all ones give those.
void noise_is_philox() {
    const auto gauss = [](std::uint32_t a, std::uint32_t b, bool second) {
        const double radius = std::sqrt(-2 * std::log((a + 0.5) / 4294967296.0));
        const double angle = 2 * M_PI * (b + 0.5) / 4294967296.0;
        return static_cast<float>(radius * (second ? std::sin(angle) : std::cos(angle)));
    };
    const std::vector<float> xi = normal(0, 0, 7);
    CHECK(xi.size() == 7);
    CHECK(xi[0] == gauss(0x6627e8d5, 0xe169c58d, false));
    CHECK(xi[1] == gauss(0x6627e8d5, 0xe169c58d, true));
    CHECK(xi[2] == gauss(0xbc57ac4c, 0x9b00dbd8, false));
    CHECK(xi[3] == gauss(0xbc57ac4c, 0x9b00dbd8, true));
    CHECK(normal(0, 1, 7) != xi);
    const std::vector<float> whole = normal(0, 0, 300); // in parts, the same
    std::vector<float> part(133);
    detail::normal(0, 0, 100, part.size(), 2, part.data());
    for (std::size_t i = 0; i < part.size(); ++i) {
        CHECK(part[i] == 2 * whole[100 + i]);
    }
    CHECK(normal(std::uint64_t{1} << 40, 0, 7) != xi);
}

std::string digest(const std::string &text, std::size_t piece) {
    detail::Sha256 sha;
    for (std::size_t i = 0; i < text.size(); i += piece) {
        sha.update(text.data() + i, std::min(piece, text.size() - i));
    }
    return sha.hex();
}

void digests_are_those_of_the_standard() {
    CHECK(digest("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(digest("abc", 1) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const std::string million(1000000, 'a');
    CHECK(digest(million, 77) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    // By instructions of the processor or without, the same.
    std::array<std::uint32_t, 8> plain{1, 2, 3, 4, 5, 6, 7, 8}, fast = plain;
    detail::sha256_portable(plain, reinterpret_cast<const unsigned char *>(million.data()), 15);
    detail::sha256_fastest()(fast, reinterpret_cast<const unsigned char *>(million.data()), 15);
    CHECK(plain == fast);
    for (std::size_t size = 50; size < 70; ++size) { // around the end of a block
        const std::string text(size, 'x');
        CHECK(digest(text, 7) == digest(text, 64));
    }
}

void json_means_one_thing() {
    const Json v =
        Json::parse(R"( {"a": [1, -2.5e1], "b": {"c": "\u00e9\ud83d\ude00\n"}, "d": [true, null, 3], "e": 7} )", "f");
    CHECK(v.object.at("a").numbers == (std::vector<double>{1, -25}));
    CHECK(!v.object.at("a").integer && v.object.at("e").integer);
    CHECK(v.object.at("b").object.at("c").text == "\xc3\xa9\xf0\x9f\x98\x80\n");
    CHECK(v.object.at("d").list.size() == 3 && v.object.at("d").list[2].number == 3);
    for (const char *bad : {"",
                            "[]",
                            "3",
                            "{",
                            "{\"a\":}",
                            "{\"a\":1,}",
                            "{\"a\":1}x",
                            "{\"a\":1,\"a\":2}",
                            "{\"a\":NaN}",
                            "{\"a\":Infinity}",
                            "{\"a\":1e999}",
                            "{\"a\":01}",
                            "{\"a\":.5}",
                            "{\"a\":1.}",
                            "{\"a\":+1}",
                            "{\"a\":1e}",
                            "{\"a\":9007199254740993}",
                            "{\"a\":-9007199254740993}",
                            "{\"a\":-9223372036854775808}",
                            "{\"a\":9223372036854775808}",
                            "{\"a\":\"\x01\"}",
                            "{\"a\":\"\\x\"}",
                            "{\"a\":\"\\ud800\"}",
                            "{\"a\":\"\\udc00\"}",
                            "{\"a\":\"\xc0\x80\"}",
                            "{\"a\":\"\xed\xa0\x80\"}",
                            "{\"a\":\"\xff\"}",
                            "{\"a\":\"\xf4\x90\x80\x80\"}",
                            "{\"a\":tru}",
                            "{a:1}",
                            "{\"a\":[1,]}",
                            "{\"a\":\"\\u12\"}",
                            "{\"a\":\"",
                            "{\"a\":\"\\",
                            "\xef\xbb\xbf{}"}) {
        CHECK(thrown<FileError>([&] { Json::parse(bad, "f"); }).rfind("f: is not valid JSON (", 0) == 0);
    }
    const std::string deep(100000, '[');
    CHECK(thrown<FileError>([&] { Json::parse("{\"a\":" + deep, "f"); }).find("too deeply") != std::string::npos);
    std::string list = "{\"a\":[[]";
    for (int i = 0; i < 200000; ++i) {
        list += ",[]";
    }
    CHECK(thrown<FileError>([&] { Json::parse(list + "]}", "f"); }).find("too many values") != std::string::npos);
}

void plan_files_hold_a_plan_or_are_refused() {
    Plan plan = make_plan(9, 1, true);
    CHECK(Plan::decode(encode(plan)).jacobian.empty());
    for (std::size_t k = 0; k < plan.size(); ++k) {
        plan.jacobian.push_back(plan.evaluated[k] ? 0.5 : 0);
    }
    const std::string bytes = encode(plan);
    const Plan back = Plan::decode(bytes, "p");
    CHECK(back.name == plan.name && back.reach == 2 && back.evaluated == plan.evaluated &&
          back.jacobian == plan.jacobian);
    CHECK(back.sigmas == plan.sigmas && back.state == plan.state && back.denoised == plan.denoised &&
          back.noise == plan.noise);
    CHECK(back.evaluations() == 4 && back.stochastic());

    for (std::size_t size = 0; size < bytes.size(); ++size) {
        thrown<FileError>([&] { Plan::decode(bytes.substr(0, size), "p"); });
    }
    thrown<FileError>([&] { Plan::decode(bytes + '\0', "p"); });
    for (std::size_t at = 0; at < 32; ++at) { // header and name's padding: nothing there may be different but the name
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ 0x80);
        thrown<FileError>([&] { Plan::decode(damaged, "p"); });
    }
    const auto refused = [&](auto change) {
        Plan bad = plan;
        change(bad);
        return thrown<FileError>([&] { Plan::decode(encode(bad), "p"); });
    };
    CHECK(refused([](Plan &p) { p.sigmas[3] = NAN; }) ==
          "p: is a damaged plan (plan test: sigmas holds NaN or infinity); copy or make it again");
    refused([](Plan &p) { p.evaluated[0] = 0; });
    refused([](Plan &p) { p.evaluated[8] = 1; });
    refused([](Plan &p) { p.evaluated[2] = 2; });
    refused([](Plan &p) { p.noise[0] = 0; });
    refused([](Plan &p) { p.sigmas[2] = -1; });
    refused([](Plan &p) { p.state[1] = 1; });    // row 0 has nothing before it
    refused([](Plan &p) { p.denoised[3] = 1; }); // row 1 reaches back by one at most
    refused([](Plan &p) { p.denoised[4] = 1; }); // node 1 is not evaluated
    refused([](Plan &p) { p.jacobian[0] = 1.5; });
    refused([](Plan &p) { p.jacobian[1] = 0.5; });
    for (const double clip : std::initializer_list<double>{-1, NAN, INFINITY}) {
        refused([clip](Plan &p) {
            p.clip = clip;
            p.cut.assign(p.size(), 1);
        });
    }
    refused([](Plan &p) { p.clip = 1; });
    refused([](Plan &p) { p.cut.assign(p.size(), 1); });
    plan.clip = 0.5;
    plan.cut.assign(plan.size(), 3);
    CHECK(Plan::decode(encode(plan)).clip == plan.clip && Plan::decode(encode(plan)).cut == plan.cut);
    std::string older = encode(plan);
    older[6] = 1;
    CHECK(thrown<FileError>([&] { Plan::decode(older, "p"); }).find("unknown flags 3 in version 1") !=
          std::string::npos);
    refused([](Plan &p) { p.name = "\xc3\xa9"; });
    refused([](Plan &p) { p.name = ""; });
}

} // namespace

int main() {
    noise_is_philox();
    digests_are_those_of_the_standard();
    json_means_one_thing();
    plan_files_hold_a_plan_or_are_refused();
}
