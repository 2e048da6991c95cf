// A program of somebody else: app BUNDLE SEED prints the library's version and
// the values of one sample.
#include <ncdeploy/ncdeploy.hpp>

#include <iostream>

int main(int, char **argv) {
  ncdeploy::Bundle bundle(argv[1]);
  auto engine = ncdeploy::open_onnxruntime(bundle);
  ncdeploy::Sampler sampler(*engine, bundle.plan(), bundle.options());
  ncdeploy::Result result = sampler.sample({std::stoull(argv[2])});
  std::cout << ncdeploy::version();
  for (float value : result.samples) {
    std::cout << ' ' << value;
  }
}
