// The least that samples: hello BUNDLE. Prints the first value of two samples.
#include <ncdeploy/ncdeploy.hpp>

#include <cstdio>

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fputs("usage: hello BUNDLE\n", stderr);
        return 2;
    }
    try {
        const ncdeploy::Bundle bundle(argv[1]);
        const auto engine = ncdeploy::open_onnxruntime(bundle);
        const ncdeploy::Sampler sampler(*engine, bundle.plan(), bundle.options());
        const ncdeploy::Result result = sampler.sample({0, 1});
        std::printf("%zu network calls: %.4f %.4f\n", result.depth, static_cast<double>(result.samples[0]),
                    static_cast<double>(result.samples[engine->info().dim()]));
    } catch (const ncdeploy::Error &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
