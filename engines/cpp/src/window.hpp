// Where a window of a plan begins and ends, for every node that it may begin at.
#pragma once

#include <cstddef>
#include <vector>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

struct Window {
    // width: evaluated nodes of a window; floor: noise level below which the tolerance is absolute
    Window(const Plan &plan, std::size_t width, double floor, std::size_t dim);

    std::size_t slots() const { return reach + span; } // nodes that a sample must keep at a time

    std::size_t last, reach, span = 0; // last node of the plan; nodes a row uses; nodes behind the base at most
    std::vector<std::size_t> stop;     // [n]: the node behind the window that begins at a node
    std::vector<std::size_t> next;     // [n]: the first node from here on that is evaluated or the last
    std::vector<std::size_t> previous; // [n]: the last evaluated node before this one
    std::vector<double> scale;         // [n]: what makes the norm of a change a residual
};

} // namespace ncdeploy::detail
