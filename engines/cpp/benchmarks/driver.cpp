// What the driver costs beside the network: driver PLAN.ncplan C H W MS [WINDOW]. The engine does next to nothing and
// takes MS milliseconds a call; one sample, five runs. Processor time is told as well, for machines that are shared.
#include <ncdeploy/ncdeploy.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;

double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// D of data without spread about zero but for 0.5: x / (1 + 4 sigma^2).
class Stub final : public ncdeploy::Engine {
  public:
    Stub(std::vector<std::int64_t> shape, double seconds) : seconds_(seconds) {
        info_.shape = std::move(shape);
        info_.sigma_min = 0.002;
        info_.sigma_max = 80;
        info_.sigma_data = 0.5;
    }
    const ncdeploy::ModelInfo &info() const override { return info_; }
    std::string name() const override { return "stub"; }
    void denoise(const ncdeploy::Batch &batch) override {
        const auto start = Clock::now();
        const std::size_t dim = info_.dim();
        for (std::size_t i = 0; i < batch.rows * dim; ++i) {
            const float sigma = batch.sigma[i / dim];
            batch.denoised[i] = batch.x[i] / (1 + 4 * sigma * sigma);
        }
        std::this_thread::sleep_until(start + std::chrono::duration<double>(seconds_));
    }

  private:
    ncdeploy::ModelInfo info_;
    double seconds_;
};

} // namespace

int main(int argc, char **argv) {
    if (argc < 6) {
        std::fputs("usage: driver PLAN.ncplan C H W MS [WINDOW]\n", stderr);
        return 2;
    }
    try {
        Stub engine({std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4])}, std::atof(argv[5]) / 1e3);
        ncdeploy::Options options;
        options.window = argc > 6 ? static_cast<std::size_t>(std::atoi(argv[6])) : 32;
        const ncdeploy::Sampler sampler(engine, ncdeploy::Plan::read(argv[1]), options);
        for (int run = 0; run < 5; ++run) {
            const double before = processor_seconds();
            const ncdeploy::Result result = sampler.sample({0});
            const double each = 1e3 / static_cast<double>(result.depth), driver = result.wall_s - result.engine_s;
            std::printf(
                "%zu calls of %.2f ms; the driver adds %.2f ms to each, %.1f %%; all on the processor: %.2f ms\n",
                result.depth, each * result.engine_s, each * driver, 100 * driver / result.engine_s,
                each * (processor_seconds() - before));
        }
    } catch (const ncdeploy::Error &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
