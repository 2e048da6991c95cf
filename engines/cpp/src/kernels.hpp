// The loops over the values of a sample, compiled for the processor's wider instructions too.
#pragma once

#include <array>
#include <cstddef>

namespace ncdeploy::detail {

// Values are worked on in pieces of this size, which stay in the processor's cache from one node to the next.
constexpr std::size_t piece = 1024;

struct Term {
    double coefficient;
    const float *values;
    float limit; // values count as what they are within -limit .. limit; 0: as they are
};

// What a row of a plan sums, its noise apart. Sums are made in double.
struct Terms {
    std::size_t size = 0;
    std::array<Term, 3 * 64> terms;
};

struct Kernels {
    // x = row + noise for count <= piece values; D follows x by g. Returns the sum of the squared changes of x, or
    // NaN if D was not all finite.
    double (*advance)(const Terms &row, std::size_t count, const float *noise, float g, float *x, float *D);

    // x = row + noise.
    void (*state)(const Terms &row, std::size_t count, const float *noise, float *x);

    // D moves by g * noise.
    void (*drift)(std::size_t count, float g, const float *noise, float *D);

    // mean = row, and draft = x - noise - mean; adds draft'draft and draft'noise to the two sums.
    void (*compare)(const Terms &row, std::size_t count, const float *noise, const float *x, float *mean, float *draft,
                    double *sums);

    // The changes dx of x and dD of D since x_old and D_old, which become x and D; adds dx'dx and dx'dD to two sums.
    void (*secant)(std::size_t count, const float *x, const float *D, float *x_old, float *D_old, double *sums);

    // Whether all of it is finite.
    bool (*finite)(std::size_t count, const float *values);
};

// Those of this processor.
const Kernels &kernels();

} // namespace ncdeploy::detail
