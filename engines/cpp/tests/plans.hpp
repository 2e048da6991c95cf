// Plans and engines to test with, and a writer of plan files.
#pragma once

#include <cmath>
#include <cstring>

#include "ncdeploy/ncdeploy.hpp"

// Ancestral steps from sigma 10 to 0 over n nodes; eta 0 is deterministic, 1 is DDPM. With `corrected`, every second
// node is a plain state that D is never evaluated at.
inline ncdeploy::Plan make_plan(std::size_t n, double eta, bool corrected = false) {
    ncdeploy::Plan plan;
    plan.name = "test";
    plan.reach = 2;
    plan.state.resize(2 * n);
    plan.denoised.resize(2 * n);
    for (std::size_t k = 0; k < n; ++k) {
        const double sigma = k + 1 == n ? 0 : 10 * std::pow(0.01, static_cast<double>(k) / static_cast<double>(n - 2));
        plan.sigmas.push_back(sigma);
        plan.evaluated.push_back(k + 1 < n && !(corrected && k % 2 == 1));
        if (k == 0) {
            plan.noise.push_back(sigma);
            continue;
        }
        // From the last evaluated node j: x_k = D_j + rest (x_j - D_j) + added noise.
        const std::size_t h = plan.evaluated[k - 1] ? 0 : 1;
        const double from = plan.sigmas[k - 1 - h];
        const double added = eta * sigma * std::sqrt(1 - sigma * sigma / (from * from));
        const double rest = std::sqrt(sigma * sigma - added * added) / from;
        plan.state[2 * k + h] = rest;
        plan.denoised[2 * k + h] = 1 - rest;
        plan.noise.push_back(added);
    }
    return plan;
}

// The exact denoiser of two Gaussians of standard deviation 0.3 around +c and -c. With classes, label 0 and 1 choose
// one of them and 2 means both.
class Mixture : public ncdeploy::Engine {
  public:
    explicit Mixture(std::size_t dim, std::int64_t classes = 0) {
        info_.shape = {static_cast<std::int64_t>(dim)};
        info_.sigma_min = 0.01;
        info_.sigma_max = 80;
        info_.sigma_data = 1;
        info_.num_classes = classes;
    }
    const ncdeploy::ModelInfo &info() const override { return info_; }
    std::string name() const override { return "mixture"; }
    void denoise(const ncdeploy::Batch &batch) override {
        const std::size_t dim = info_.dim();
        largest = std::max(largest, batch.rows);
        for (std::size_t i = 0; i < batch.rows; ++i) {
            const float *x = batch.x + i * dim;
            const double sigma = batch.sigma[i], variance = 0.09 + sigma * sigma;
            double dot = 0;
            for (std::size_t d = 0; d < dim; ++d) {
                dot += center(d) * (x[d] - drift);
            }
            double mean = std::tanh(dot / variance);
            if (batch.labels && batch.labels[i] < 2) {
                mean = batch.labels[i] == 0 ? 1 : -1;
            }
            for (std::size_t d = 0; d < dim; ++d) {
                const double D = (0.09 * x[d] + sigma * sigma * (mean * center(d) + drift)) / variance;
                batch.denoised[i * dim + d] = sigma < poison ? NAN : static_cast<float>(D);
            }
        }
    }
    // The mean diagonal of dD/dx at a noise level, roughly: as for one Gaussian.
    static double jacobian(double sigma) { return 0.09 / (0.09 + sigma * sigma); }
    static double center(std::size_t d) { return d % 2 ? 0.8 : -0.5; }

    std::size_t largest = 0; // batch so far
    double drift = 0;        // of the data, everywhere
    double poison = 0;       // below this noise level D is NaN

  private:
    ncdeploy::ModelInfo info_;
};

inline std::string encode(const ncdeploy::Plan &plan) {
    std::string out = "NCPLAN";
    const auto number = [&](std::uint64_t value, int bytes) {
        for (int i = 0; i < bytes; ++i) {
            out += static_cast<char>(value >> (8 * i));
        }
    };
    const auto column = [&](const std::vector<double> &values) {
        for (const double value : values) {
            std::uint64_t bits = 0;
            std::memcpy(&bits, &value, sizeof bits);
            number(bits, 8);
        }
    };
    number(plan.clip > 0 ? 2 : 1, 2);
    number(plan.size(), 4);
    number(plan.reach, 4);
    number(plan.name.size(), 4);
    number((plan.jacobian.empty() ? 0U : 1U) + (plan.clip > 0 ? 2U : 0U), 4);
    out += plan.name;
    out.resize((out.size() + 7) / 8 * 8);
    column(plan.sigmas);
    column(plan.state);
    column(plan.denoised);
    column(plan.noise);
    column(plan.jacobian);
    column(plan.clip > 0 ? std::vector<double>{plan.clip} : std::vector<double>{});
    column(plan.cut);
    out.append(plan.evaluated.begin(), plan.evaluated.end());
    out.resize((out.size() + 7) / 8 * 8);
    return out;
}
