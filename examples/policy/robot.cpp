// The robot of task.py, driven by a bundle: robot BUNDLE [WINDOW] < episodes. WINDOW 0 samples one call after another.
//
// A line of input is an episode: the seed of its first chunk of actions, x and y of the start, x and y of the goal. A
// line of output is its actions, x and y each; the last line of all goes to stderr and says how it went.
#include <ncdeploy/ncdeploy.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <vector>

namespace {

constexpr double reach = 0.1, obstacle = 0.25, near = 0.05; // as in task.py
constexpr int steps = 48;

struct Place {
    double x = 0, y = 0;
};

double distance(Place a, Place b) { return std::hypot(a.x - b.x, a.y - b.y); }

Place moved(Place place, Place target) {
    const double part = std::min(1.0, reach / std::max(distance(place, target), 1e-12));
    return {place.x + part * (target.x - place.x), place.y + part * (target.y - place.y)};
}

// Chunks of actions from what the robot sees, and what they cost.
class Policy {
  public:
    Policy(const ncdeploy::Bundle &bundle, ncdeploy::Options options)
        : encoder_(ncdeploy::open_encoder(bundle, runtime())), decoder_(ncdeploy::open_decoder(bundle, runtime())),
          engine_(ncdeploy::open_onnxruntime(bundle, runtime())),
          sampler_(*engine_, bundle.plan(), std::move(options)) {}

    std::vector<Place> act(std::uint64_t seed, Place before, Place now, Place goal) {
        const auto start = std::chrono::steady_clock::now();
        const ncdeploy::Conditions seen{{"observation.state", pair(before, now)},
                                        {"observation.environment_state", pair(goal, goal)}};
        const ncdeploy::Result result = sampler_.sample({seed}, encoder_->run(seen));
        const ncdeploy::Conditions decoded = decoder_->run({{"x", result.samples}});
        const auto &values = std::get<std::vector<float>>(decoded.at("action"));
        seconds_.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        calls_ += result.depth;
        std::vector<Place> actions;
        for (std::size_t i = 0; i + 1 < values.size(); i += 2) {
            actions.push_back({values[i], values[i + 1]});
        }
        return actions;
    }

    void report(int succeeded, int episodes) {
        if (seconds_.empty()) {
            return;
        }
        std::nth_element(seconds_.begin(), seconds_.begin() + seconds_.size() / 2, seconds_.end());
        std::fprintf(stderr, "{\"success\": %.4f, \"calls\": %.2f, \"milliseconds\": %.3f}\n",
                     static_cast<double>(succeeded) / episodes,
                     static_cast<double>(calls_) / static_cast<double>(seconds_.size()),
                     1e3 * seconds_[seconds_.size() / 2]);
    }

  private:
    static ncdeploy::EngineOptions runtime() {
        ncdeploy::EngineOptions options;
        options.threads = 1; // the network is small, and a robot has more to do
        return options;
    }

    static std::vector<float> pair(Place a, Place b) {
        return {static_cast<float>(a.x), static_cast<float>(a.y), static_cast<float>(b.x), static_cast<float>(b.y)};
    }

    std::unique_ptr<ncdeploy::Part> encoder_, decoder_;
    std::unique_ptr<ncdeploy::Engine> engine_;
    ncdeploy::Sampler sampler_;
    std::vector<double> seconds_;
    std::size_t calls_ = 0;
};

// Whether the robot comes to its goal; prints its actions.
bool run(Policy &policy, std::uint64_t seed, Place place, Place goal) {
    Place before = place;
    bool clear = true;
    for (int step = 0; step < steps;) {
        for (const Place action : policy.act(seed++, before, place, goal)) {
            if (step == steps) {
                break;
            }
            ++step;
            std::printf("%.6f %.6f ", action.x, action.y);
            before = place;
            place = moved(place, action);
            clear = clear && distance(place, {}) > obstacle;
        }
    }
    std::printf("\n");
    return clear && distance(place, goal) < near;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        std::fputs("usage: robot BUNDLE [WINDOW] < episodes\n", stderr);
        return 2;
    }
    try {
        const ncdeploy::Bundle bundle(argv[1]);
        ncdeploy::Options options = bundle.options();
        if (argc == 3) {
            options.window = std::stoul(argv[2]);
        }
        Policy policy(bundle, options);
        std::uint64_t seed = 0;
        Place place, goal;
        int succeeded = 0, episodes = 0;
        while (std::cin >> seed >> place.x >> place.y >> goal.x >> goal.y) {
            succeeded += run(policy, seed, place, goal);
            ++episodes;
        }
        policy.report(succeeded, episodes);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
