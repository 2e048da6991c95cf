// The two ways to run a plan.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "evaluator.hpp"
#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

struct Run {
    Evaluator &evaluator;
    const Plan &plan;
    const Options &options;
    const std::vector<std::uint64_t> &seeds;
    const std::vector<double> &mean; // of the data, first guess of D; or empty for zero
    std::size_t dim;
    std::size_t lanes; // samples worked on at once
    Result &result;
    const Result *start;                         // or null
    std::chrono::steady_clock::time_point begin; // of the run
    Helper *helper = nullptr;                    // of a parallel run, or null

    // Whether the rows of the only sample at work can be evaluated where they lie.
    bool in_place() const { return std::min(lanes, seeds.size()) == 1 && !evaluator.doubled(); }

    // Whether another call like the one that began then is not likely to end by the deadline.
    bool late(std::chrono::steady_clock::time_point call) const {
        const auto now = std::chrono::steady_clock::now();
        return options.deadline > 0 &&
               std::chrono::duration<double>(now - begin + (now - call)).count() > options.deadline;
    }

    // A sample that has not come to its end: nodes that are final, the estimate, null for the mean, and how far off it
    // is. A trajectory that is kept goes on with the estimate.
    void leave(std::size_t sample, std::size_t accepted, const float *estimate, double residual) const {
        float *out = result.samples.data() + sample * dim;
        result.complete[sample] = 0;
        result.residual[sample] = std::max(result.residual[sample], residual);
        if (estimate) {
            std::copy_n(estimate, dim, out);
        } else {
            std::copy(mean.begin(), mean.end(), out);
        }
        for (std::size_t k = accepted; options.keep && k < plan.size(); ++k) {
            std::copy_n(out, dim, result.trajectory.data() + (sample * plan.size() + k) * dim);
        }
    }
};

// A way to run a plan, a network call at a time. It fills in samples, sweeps and residual of the result.
class Driver {
  public:
    virtual ~Driver() = default;

    // Makes one network call. Returns whether there is more to do.
    virtual bool step() = 0;

    // Ends the run here: what is known goes into the result.
    virtual void leave() = 0;
};

// Forward substitution: samples in groups of `lanes`, each group through all nodes.
std::unique_ptr<Driver> sequential_driver(const Run &run);

// The fixed-point iteration over a sliding window; a lane that finishes takes the next sample.
std::unique_ptr<Driver> parallel_driver(const Run &run);

} // namespace ncdeploy::detail
