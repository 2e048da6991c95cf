// The scalar Jacobian g = tr(dD/dx)/d at the nodes of one sample: the plan's, or where it has none a secant per node.
//
// Two evaluations at one node give g = <dD, dx> / <dx, dx>, clamped to [0, 1] and averaged half and half with its last
// value. New nodes inherit the value of the last node before them.
#pragma once

#include <cstddef>
#include <vector>

#include "track.hpp"

namespace ncdeploy::detail {

class Jacobian {
  public:
    Jacobian(const Plan &plan, std::size_t slots, std::size_t dim);

    double at(std::size_t node) const;
    bool estimated() const { return known_.empty(); }

    // A new evaluation: first its values, piece by piece, each of which adds to the two sums of its change, then these.
    void take(std::size_t node, std::size_t first, std::size_t count, const float *x, const float *D, double *sums);
    void update(std::size_t node, const double *sums);
    void reset(std::size_t node, double g); // the node is new

  private:
    const std::vector<double> &known_;
    std::size_t slots_;
    Ring x_, D_; // of the last evaluation
    std::vector<double> g_;
    std::vector<bool> seen_;
};

} // namespace ncdeploy::detail
