// The states and outputs of consecutive nodes of one sample, in a ring: node k lives in slot k - origin mod the number
// of slots, so that a window slides without moving anything.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernels.hpp"
#include "memory.hpp"
#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

class Ring {
  public:
    Ring(std::size_t slots, std::size_t dim) : slots_(slots), dim_(dim), values_(slots * dim) {}

    float *operator[](std::size_t node) { return values_.data() + (node - origin_) % slots_ * dim_; }

    // Whether node k lies behind the others in memory, with no turn of the ring between.
    bool straight(std::size_t node) const { return node - origin_ < slots_; }

    // Copies values `at` to `at + count` of a node into a slot.
    void move(std::size_t node, std::size_t slot, std::size_t at, std::size_t count) {
        std::copy_n((*this)[node] + at, count, values_.data() + slot * dim_ + at);
    }
    void set_origin(std::size_t node) { origin_ = node; }

  private:
    std::size_t slots_, dim_, origin_ = 0;
    Floats values_;
};

struct Track {
    Track(std::size_t slots, std::size_t dim) : x(slots, dim), D(slots, dim), dim(dim) {}

    // Row k of the plan, from value `first` on. newest: what D of node k - 1 is from there on, if not what is kept.
    Terms row(const Plan &plan, std::size_t k, std::size_t first, const float *newest = nullptr);

    Ring x, D;
    std::size_t dim;
};

// work(first, count) for pieces of the values 0 .. dim - 1 one after the other.
template <class Work> void each_piece(std::size_t dim, const Work &work) {
    for (std::size_t first = 0; first < dim; first += piece) {
        work(first, std::min(piece, dim - first));
    }
}

} // namespace ncdeploy::detail
