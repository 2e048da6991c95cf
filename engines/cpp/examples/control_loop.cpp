// A policy in a control loop: control_loop BUNDLE [SECONDS [DEADLINE_MS]]
//
// One thread has the loop, 250 times a second: it writes what it observes, and takes the newest action that there is.
// Another samples chunks of actions of the newest observation, each begun where the last one ended and ended by the
// deadline. Neither waits for the other. The last line says how many chunks were whole, and how old actions became.
#include <ncdeploy/ncdeploy.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;

// The newest value that one thread gives and another takes.
template <class T> class Latest {
  public:
    void give(T value) {
        const std::lock_guard<std::mutex> lock(mutex_);
        value_ = std::move(value);
    }
    std::optional<T> take() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return value_;
    }

  private:
    mutable std::mutex mutex_;
    std::optional<T> value_;
};

struct Observation {
    Clock::time_point at;
    double phase = 0; // in place of what a robot sees
};

struct Action {
    Clock::time_point seen; // when the observation behind it was made
    float value = 0;
};

// What the model is conditioned on, made of the observation: here all of it the same number.
ncdeploy::Conditions conditions_of(const ncdeploy::ModelInfo &info, const Observation &seen) {
    ncdeploy::Conditions conditions;
    for (const ncdeploy::Condition &condition : info.conditions) {
        if (condition.dtype == ncdeploy::DType::float32) {
            conditions[condition.name] = std::vector<float>(condition.dim(), static_cast<float>(seen.phase));
        } else {
            conditions[condition.name] = std::vector<std::int64_t>(condition.dim(), 0);
        }
    }
    if (info.num_classes) {
        conditions["labels"] = std::vector<std::int64_t>{0};
    }
    return conditions;
}

// Until it is told to stop: a chunk of the newest observation, and once more.
void plan_chunks(const ncdeploy::Sampler &sampler, const ncdeploy::ModelInfo &info, const Latest<Observation> &seen,
                 Latest<Action> &action, const std::atomic<bool> &stop, std::size_t &chunks, std::size_t &whole) {
    std::optional<ncdeploy::Result> last;
    while (!stop) {
        const std::optional<Observation> observation = seen.take();
        if (!observation) {
            std::this_thread::yield();
            continue;
        }
        last = sampler.sample({0}, conditions_of(info, *observation), last ? &*last : nullptr);
        action.give({observation->at, last->samples[0]});
        ++chunks;
        whole += last->complete[0];
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fputs("usage: control_loop BUNDLE [SECONDS [DEADLINE_MS]]\n", stderr);
        return 2;
    }
    try {
        const ncdeploy::Bundle bundle(argv[1]);
        ncdeploy::EngineOptions how;
        how.threads = 1;
        how.spinning = false; // the loop needs the processor too
        const auto engine = ncdeploy::open_onnxruntime(bundle, how);
        ncdeploy::Options options = bundle.options();
        options.keep = true;
        options.deadline = (argc > 3 ? std::atof(argv[3]) : 20) / 1e3;
        const ncdeploy::Sampler sampler(*engine, bundle.plan(), options);

        Latest<Observation> seen;
        Latest<Action> action;
        std::atomic<bool> stop{false};
        std::size_t chunks = 0, whole = 0;
        std::exception_ptr failed;
        std::thread planner([&] {
            try {
                plan_chunks(sampler, engine->info(), seen, action, stop, chunks, whole);
            } catch (...) {
                failed = std::current_exception();
            }
        });

        const auto begin = Clock::now();
        const auto ticks = static_cast<int>(250 * (argc > 2 ? std::atof(argv[2]) : 2));
        int idle = 0, late = 0;
        double oldest = 0;
        for (int tick = 0; tick < ticks; ++tick) {
            const auto due = begin + std::chrono::milliseconds(4 * tick);
            std::this_thread::sleep_until(due);
            late += Clock::now() - due > std::chrono::milliseconds(4);
            seen.give({Clock::now(), std::sin(0.01 * tick)});
            if (const std::optional<Action> newest = action.take()) {
                oldest = std::max(oldest, std::chrono::duration<double>(Clock::now() - newest->seen).count());
            } else {
                ++idle; // before the first chunk; a robot stands still
            }
        }
        stop = true;
        planner.join();
        if (failed) {
            std::rethrow_exception(failed);
        }
        std::printf("%d ticks, %d of them late, %d without an action; %zu chunks, %zu whole, the others ended by their "
                    "deadline of %.0f ms; the oldest action was of %.0f ms before\n",
                    ticks, late, idle, chunks, whole, 1e3 * options.deadline, 1e3 * oldest);
    } catch (const ncdeploy::Error &e) {
        std::fprintf(stderr, "error: %s\n", e.what());
        return 1;
    }
}
