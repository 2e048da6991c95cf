// The two ways to run a plan. Each fills in samples, sweeps and residual of the result.
#pragma once

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
};

// Forward substitution: samples in groups of `lanes`, each group through all nodes.
void run_sequential(const Run &run);

// The fixed-point iteration over a sliding window; a lane that finishes takes the next sample.
void run_parallel(const Run &run);

} // namespace ncdeploy::detail
