// Noise that depends on the seed, the node and nothing else: the generator of ncdeploy/sampling/noise.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ncdeploy::detail {

// out[i] = scale * xi_(first + i) for i < count, with xi the standard normal draw of `seed` at `node`; `first` is a
// multiple of 4.
void normal(std::uint64_t seed, std::size_t node, std::size_t first, std::size_t count, double scale, float *out);

} // namespace ncdeploy::detail
