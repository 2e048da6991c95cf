// The only place where a driver meets the network: it collects rows, calls, counts, times and checks. Rows that lie one
// behind the other are not copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "conditions.hpp"
#include "helper.hpp"
#include "memory.hpp"
#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

// Rows that the network sees for one row of x: 2 where it is guided.
inline std::size_t rows_per_evaluation(const Engine &engine, const Options &options) {
    return engine.info().guidance || options.guidance ? 2 : 1;
}

class Evaluator {
  public:
    Evaluator(Engine &engine, const Plan &plan, const Inputs &inputs, std::optional<double> guidance);

    // One more row for the next call: the state x [dim] of a sample at a node, and where to put D. Both must last.
    void add(const float *x, std::size_t node, std::size_t sample, float *denoised);

    // Whether the network sees every row twice, with conditions and without.
    bool doubled() const { return guidance_ && !inside_; }

    // D of all rows added, in one call, during which the helper works ahead if there is one; returns how many rows.
    // Throws NumericalError when D is not finite, unless the caller checks that.
    std::size_t run(Helper *helper = nullptr, bool checks = true);

    // Throws NumericalError unless D [dim], of a sample at a node, is finite.
    void check(std::size_t sample, std::size_t node, const float *D) const;

    std::size_t calls = 0, rows = 0; // rows the network saw, with guidance two for each row of x
    double seconds = 0;              // inside the engine

  private:
    struct Row {
        const float *x;
        std::size_t node, sample;
        float *denoised;
    };

    bool in_place() const;
    void guide(float *denoised, const float *without) const;

    Engine &engine_;
    const Plan &plan_;
    const Inputs &inputs_;
    std::optional<double> guidance_;
    bool inside_; // the engine guides itself
    std::size_t dim_;

    std::vector<Row> pending_;
    Floats x_, out_;
    std::vector<float> sigma_, weights_;
    std::vector<std::int64_t> sample_, labels_;
};

} // namespace ncdeploy::detail
