// A host of a conditional model: chain BUNDLE SEED RAW... encodes what it has,
// samples, and prints what the decoder makes of it.
#include <ncdeploy/ncdeploy.hpp>

#include <iostream>

int main(int argc, char **argv) try {
  ncdeploy::Bundle bundle(argv[1]);
  auto encoder = ncdeploy::open_encoder(bundle),
       decoder = ncdeploy::open_decoder(bundle);
  auto engine = ncdeploy::open_onnxruntime(bundle);
  ncdeploy::Sampler sampler(*engine, bundle.plan(), bundle.options());
  std::vector<float> raw;
  for (int i = 3; i < argc; ++i) {
    raw.push_back(std::stof(argv[i]));
  }
  const std::uint64_t seed = std::stoull(argv[2]);
  ncdeploy::Result result =
      sampler.sample({seed, seed + 1}, encoder->run({{"raw.state", raw}}));
  const auto made = decoder->run({{"x", result.samples}});
  for (float value : std::get<std::vector<float>>(made.at("action"))) {
    std::cout << value << ' ';
  }
} catch (const ncdeploy::Error &e) {
  std::cout << e.what();
  return 1;
}
