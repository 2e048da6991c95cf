// The states and outputs of consecutive nodes of one sample, in a ring: node k lives in slot k mod the number of slots,
// so that a window slides without moving anything.
#pragma once

#include <algorithm>
#include <array>
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
    Track(std::size_t slots, std::size_t dim) : x(slots, dim), D(slots, dim), dim(dim) {}

    // Row k of the plan without its noise: sums in double of states and outputs in float, in pieces that stay in the
    // processor's cache. take(first, row, count) gets the values from `first` on.
    template <class Take> void step(const Plan &plan, std::size_t k, Take take) {
        for (std::size_t first = 0; first < dim; first += piece) {
            const std::size_t count = std::min(piece, dim - first);
            sum(plan, k, first, count);
            take(first, row_.data(), count);
        }
    }

    Ring x, D;
    std::size_t dim;

  private:
    static constexpr std::size_t piece = 1024;

    void sum(const Plan &plan, std::size_t k, std::size_t first, std::size_t count);

    std::array<double, piece> row_;
};

} // namespace ncdeploy::detail
