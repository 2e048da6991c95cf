// Is an engine sound? The checks of ncdeploy/health/check.py, with the error curve that a plan carries.
#include <algorithm>
#include <cmath>
#include <set>

#include "evaluator.hpp"
#include "noise.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::text;

constexpr std::size_t samples = 8, steps = 16, stretches = 64;
constexpr double levels_of[] = {0.015, 0.05, 0.15, 0.5, 1.5, 5.0}; // over the standard deviation of the data
constexpr double different = 0.1, dead = 1e-4;                     // rms and change, over the same
constexpr double relative = 0.3, absolute = 0.05, deviations = 8;  // how far the residual energy may be off

// Some evaluated nodes of a plan from the most noise down, about `count` of them, each well below the one before.
std::vector<std::size_t> ladder(const Plan &plan, std::size_t count) {
    std::vector<std::size_t> nodes, kept;
    for (std::size_t k = 0; k < plan.size(); ++k) {
        if (plan.evaluated[k]) {
            nodes.push_back(k);
        }
    }
    std::sort(nodes.begin(), nodes.end(),
              [&](std::size_t a, std::size_t b) { return plan.sigmas[a] > plan.sigmas[b]; });
    const double ratio = std::pow(plan.sigmas[nodes.back()] / plan.sigmas[nodes.front()],
                                  1 / static_cast<double>(std::max<std::size_t>(count, 2) - 1));
    for (const std::size_t k : nodes) {
        if (kept.empty() || plan.sigmas[k] <= plan.sigmas[kept.back()] * ratio * 1.001) {
            kept.push_back(k);
        }
    }
    return kept;
}

// Euler steps along those nodes, to 0.
Plan short_plan(const Plan &plan) {
    Plan out;
    out.name = "check", out.reach = 1;
    double before = 0;
    const auto node = [&](double sigma) {
        const double rest = before > 0 ? sigma / before : 0;
        out.sigmas.push_back(sigma);
        out.state.push_back(rest);
        out.denoised.push_back(before > 0 ? 1 - rest : 0);
        out.noise.push_back(before > 0 ? 0 : std::hypot(sigma, plan.noise[0] > plan.sigmas[0] ? 1.0 : 0.0));
        out.evaluated.push_back(sigma > 0);
        before = sigma;
    };
    for (const std::size_t k : ladder(plan, steps)) {
        node(plan.sigmas[k]);
    }
    node(0);
    return out;
}

Conditions draw(const ModelInfo &info) {
    Conditions drawn;
    if (info.num_classes > 0) {
        std::vector<std::int64_t> labels;
        for (std::size_t i = 0; i < samples; ++i) {
            labels.push_back(static_cast<std::int64_t>(i) % info.labels());
        }
        drawn["labels"] = labels;
    }
    for (const Condition &condition : info.conditions) {
        const std::size_t values = samples * condition.dim();
        if (condition.dtype == DType::float32) {
            drawn[condition.name] = normal(samples, 0, values);
        } else {
            drawn[condition.name] = std::vector<std::int64_t>(values, 0);
        }
    }
    return drawn;
}

// Asks an engine for rows x at nodes of a plan.
class Probe {
  public:
    Probe(Engine &engine, const Plan &plan, const detail::Inputs &inputs, std::size_t most)
        : evaluator_(engine, plan, inputs, std::nullopt), dim_(engine.info().dim()), most_(most) {}

    std::vector<float> operator()(const std::vector<float> &x, const std::vector<std::size_t> &node,
                                  const std::vector<std::size_t> &sample) {
        std::vector<float> out(x.size());
        for (std::size_t i = 0; i < node.size(); ++i) {
            evaluator_.add(x.data() + i * dim_, node[i], sample[i], out.data() + i * dim_);
            if (i + 1 == node.size() || (most_ && (i + 1) % most_ == 0)) {
                evaluator_.run();
            }
        }
        return out;
    }

  private:
    detail::Evaluator evaluator_;
    std::size_t dim_, most_;
};

double squares(const float *a, const float *b, std::size_t dim) {
    double sum = 0;
    for (std::size_t d = 0; d < dim; ++d) {
        sum += std::pow(static_cast<double>(a[d]) - b[d], 2);
    }
    return sum / static_cast<double>(dim);
}

// What is wrong if an input makes no difference anywhere, or an output is the same in all rows.
std::string dead_values(Probe &probe, const float *x0, const std::vector<float> &together, std::size_t node,
                        std::size_t dim, double unit) {
    std::size_t still = 0;
    for (std::size_t d = 0; d < dim; ++d) {
        float low = together[d], high = low;
        for (std::size_t i = d; i < together.size(); i += dim) {
            low = std::min(low, together[i]), high = std::max(high, together[i]);
        }
        still += static_cast<double>(high) - low <= dead * unit;
    }
    if (still) {
        return text(still, " of ", dim, " values of the output are the same in every row");
    }
    const std::size_t parts = std::min(dim, stretches);
    std::vector<float> x;
    for (std::size_t i = 0; i <= parts; ++i) {
        x.insert(x.end(), x0, x0 + dim);
        for (std::size_t d = i ? (i - 1) * dim / parts : dim; d < (i ? i * dim / parts : dim); ++d) {
            x[i * dim + d] += static_cast<float>(unit);
        }
    }
    const std::vector<float> out =
        probe(x, std::vector<std::size_t>(parts + 1, node), std::vector<std::size_t>(parts + 1, 0));
    std::size_t values = 0;
    for (std::size_t i = 1; i <= parts; ++i) {
        double most = 0;
        for (std::size_t d = 0; d < dim; ++d) {
            most = std::max(most, std::abs(static_cast<double>(out[i * dim + d]) - out[d]));
        }
        values += most <= dead * unit ? i * dim / parts - (i - 1) * dim / parts : 0;
    }
    return values ? text(values, " of ", dim, " values of the input make no difference") : std::string();
}

} // namespace

std::string Engine::check(const Plan &plan, std::size_t max_rows) {
    plan.check();
    const std::size_t dim = info().dim();
    const double unit = info().sigma_data;
    const Conditions given = draw(info());
    std::vector<std::uint64_t> seeds;
    for (std::size_t i = 0; i < samples; ++i) {
        seeds.push_back(i);
    }
    try {
        Options options;
        options.max_rows = max_rows;
        const std::vector<float> x0 = Sampler(*this, short_plan(plan), options).sample(seeds, given).samples;

        std::set<std::size_t> chosen; // the nodes nearest to the levels
        const std::vector<std::size_t> nodes = ladder(plan, plan.size());
        const auto nearest = [&](double sigma) {
            return *std::min_element(nodes.begin(), nodes.end(), [&](std::size_t a, std::size_t b) {
                return std::abs(std::log(plan.sigmas[a] / sigma)) < std::abs(std::log(plan.sigmas[b] / sigma));
            });
        };
        for (const double level : levels_of) {
            chosen.insert(nearest(level * unit));
        }
        std::vector<std::size_t> node, sample;
        std::vector<float> y, noise(dim);
        for (std::size_t i = 0; i < samples; ++i) {
            for (const std::size_t k : chosen) {
                detail::normal(samples + i, k + 1, 0, dim, plan.sigmas[k], noise.data());
                for (std::size_t d = 0; d < dim; ++d) {
                    y.push_back(x0[i * dim + d] + noise[d]);
                }
                node.push_back(k), sample.push_back(i);
            }
        }
        const detail::Inputs inputs(info(), given, samples, false);
        Probe probe(*this, plan, inputs, max_rows);
        const std::vector<float> together = probe(y, node, sample);

        const auto row = [&](std::size_t i) {
            return std::vector<float>(y.begin() + static_cast<std::ptrdiff_t>(i * dim),
                                      y.begin() + static_cast<std::ptrdiff_t>((i + 1) * dim));
        };
        const auto off = [&](const std::vector<float> &alone, std::size_t i) {
            return std::sqrt(squares(alone.data(), together.data() + i * dim, dim)) / unit;
        };
        double worst = 0;
        bool swapped = true, shared = true;
        for (std::size_t i = 0; i < 3 * chosen.size(); ++i) {
            const std::vector<float> alone = probe(row(i), {node[i]}, {sample[i]});
            worst = std::max(worst, off(alone, i));
            double least = off(alone, 0);
            for (std::size_t j = 1; j < node.size(); ++j) {
                least = std::min(least, off(alone, j));
            }
            swapped = swapped && least <= different;
            shared = shared && off(probe(row(i), {node[0]}, {sample[i]}), i) <= different;
        }
        if (worst > different) {
            return swapped  ? "rows come back in another order than they went in"
                   : shared ? "sigma is not per row: a call takes that of its first row for all"
                            : text("a row depends on the others of its call: rms ", worst,
                                   " standard deviations of the data from the same row alone");
        }
        std::string fault = dead_values(probe, x0.data(), together, nearest(unit / 2), dim, unit);
        for (const std::size_t k : chosen) {
            if (!fault.empty() || plan.jacobian.empty()) {
                break;
            }
            double found = 0;
            for (std::size_t i = 0; i < node.size(); ++i) {
                found += node[i] == k ? squares(y.data() + i * dim, together.data() + i * dim, dim) : 0;
            }
            const double expected = 1 - plan.jacobian[k];
            found /= static_cast<double>(samples) * plan.sigmas[k] * plan.sigmas[k];
            const double allowed = relative * expected + absolute +
                                   deviations * std::sqrt(2 * expected / static_cast<double>(dim * samples));
            if (std::abs(found - expected) > allowed) {
                fault = text("the residual at sigma ", plan.sigmas[k], " is ", found, ", expected ", expected,
                             " with at most ", allowed,
                             " either way: its inputs or outputs are scaled or wired wrongly");
            }
        }
        return fault;
    } catch (const NumericalError &e) {
        return e.what();
    }
}

} // namespace ncdeploy
