#include "evaluator.hpp"

#include <algorithm>
#include <chrono>

#include "kernels.hpp"
#include "text.hpp"

namespace ncdeploy::detail {

Evaluator::Evaluator(Engine &engine, const Plan &plan, const Inputs &inputs, std::optional<double> guidance)
    : engine_(engine), plan_(plan), inputs_(inputs), guidance_(guidance), inside_(engine.info().guidance),
      dim_(engine.info().dim()) {}

void Evaluator::add(const float *x, std::size_t node, std::size_t sample, float *denoised) {
    pending_.push_back({x, node, sample, denoised});
    sigma_.push_back(static_cast<float>(plan_.sigmas[node]));
    sample_.push_back(static_cast<std::int64_t>(sample));
    if (!inputs_.labels.empty()) {
        labels_.push_back(inputs_.labels[sample]);
    }
}

std::size_t Evaluator::run(Helper *helper, bool checks) {
    const std::size_t count = pending_.size();
    if (doubled()) { // the second half is the same rows without conditions
        sigma_.resize(2 * count);
        std::copy_n(sigma_.begin(), count, sigma_.begin() + static_cast<std::ptrdiff_t>(count));
        for (std::size_t i = 0; i < count; ++i) {
            sample_.push_back(sample_[i] + static_cast<std::int64_t>(inputs_.samples / 2));
        }
        for (std::size_t i = 0, n = labels_.size(); i < n; ++i) {
            labels_.push_back(engine_.info().null_label().value_or(labels_[i]));
        }
    }
    const std::size_t network_rows = sigma_.size();
    const float *x = pending_[0].x;
    float *out = pending_[0].denoised;
    const bool copied = !in_place();
    if (copied) {
        x_.resize(std::max(x_.size(), network_rows * dim_));
        out_.resize(x_.size());
        x = x_.data(), out = out_.data();
        share(helper, network_rows,
              [&](std::size_t i) { std::copy_n(pending_[i % count].x, dim_, x_.data() + i * dim_); });
    }
    if (inside_) {
        weights_.assign(count, static_cast<float>(guidance_.value_or(1.0)));
    }
    {
        const Meanwhile meanwhile(helper);
        const auto start = std::chrono::steady_clock::now();
        engine_.denoise({network_rows, x, sigma_.data(), sample_.data(),
                         labels_.empty() ? nullptr : labels_.data(), inside_ ? weights_.data() : nullptr,
                         inputs_.samples, inputs_.arrays.data(), out});
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    ++calls;
    rows += count * (guidance_ || inside_ ? 2 : 1);
    if (copied) {
        share(helper, count, [&](std::size_t i) {
            float *denoised = out + i * dim_;
            if (doubled()) {
                guide(denoised, denoised + count * dim_);
            }
            std::copy_n(denoised, dim_, pending_[i].denoised);
        });
    }
    for (const Row &row : pending_) {
        if (checks) {
            check(row.sample, row.node, row.denoised);
        }
    }
    pending_.clear(), sigma_.clear(), sample_.clear(), labels_.clear();
    return count;
}

// Whether the rows, and the places of their outputs, lie one behind the other.
bool Evaluator::in_place() const {
    return !doubled() && std::adjacent_find(pending_.begin(), pending_.end(), [this](const Row &a, const Row &b) {
                             return a.x + dim_ != b.x || a.denoised + dim_ != b.denoised;
                         }) == pending_.end();
}

void Evaluator::check(std::size_t sample, std::size_t node, const float *D) const {
    if (!kernels().finite(dim_, D)) {
        throw NumericalError(text("the network returned NaN or infinity at node ", node, " (sigma = ",
                                  plan_.sigmas[node], ") of sample ", sample,
                                  "; check the model there (ncdeploy verify), or its precision"));
    }
}

// D_w = w D(label) + (1 - w) D(no class); in this form exact at w = 0 and w = 1.
void Evaluator::guide(float *denoised, const float *without) const {
    const auto w = static_cast<float>(*guidance_);
    for (std::size_t i = 0; i < dim_; ++i) {
        denoised[i] = w * denoised[i] + (1 - w) * without[i];
    }
}

} // namespace ncdeploy::detail
