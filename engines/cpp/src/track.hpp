// The states and outputs of consecutive nodes of one sample, in a ring: node k lives in slot k mod the number of slots,
// so that a window slides without moving anything.
#pragma once

#include <cstddef>
#include <vector>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

class Ring {
  public:
    Ring(std::size_t slots, std::size_t dim) : slots_(slots), dim_(dim), values_(slots * dim) {}

    float *operator[](std::size_t node) { return values_.data() + node % slots_ * dim_; }

  private:
    std::size_t slots_, dim_;
    std::vector<float> values_;
};

struct Track {
    Track(std::size_t slots, std::size_t dim) : x(slots, dim), D(slots, dim), row(dim) {}

    // Row k of the plan without its noise, in `row`: sums in double of states and outputs in float.
    void step(const Plan &plan, std::size_t k);

    Ring x, D;
    std::vector<double> row;
};

} // namespace ncdeploy::detail
