// Noise that depends on the seed, the node and nothing else: the generator of ncdeploy/sampling/noise.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ncdeploy::detail {

// out[i] = scale * xi_i for i < dim, with xi the standard normal draw of `seed` at `node`.
void normal(std::uint64_t seed, std::size_t node, std::size_t dim, double scale, float *out);

} // namespace ncdeploy::detail
