// What a caller conditions samples on, checked, in the form that engines take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

// The numbers of an array.
const void *data(const Values &values);

// Throws InputError unless these are exactly the listed values, for as many samples each; returns how many.
std::size_t check_values(const std::vector<Condition> &listed, const Conditions &values);

struct Inputs {
    // n: samples; doubled: whether the samples n .. 2n - 1 shall be the same ones without their conditions.
    // Throws InputError unless the conditions are those of the model, each with finite values for n samples.
    Inputs(const ModelInfo &info, const Conditions &conditions, std::size_t n, bool doubled);

    std::vector<std::int64_t> labels; // [n], or empty
    std::vector<Array> arrays;        // as info.conditions
    std::size_t samples;              // in arrays: n or 2n

  private:
    std::vector<Values> doubled_;
};

} // namespace ncdeploy::detail
