#include <algorithm>
#include <limits>

#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

namespace ncdeploy {

const char *version() noexcept { return NCDEPLOY_VERSION; }

namespace {

std::size_t product_of(const std::vector<std::int64_t> &shape) {
    std::size_t product = 1;
    for (const std::int64_t size : shape) {
        if (size < 1 || static_cast<std::uint64_t>(size) > std::numeric_limits<std::uint32_t>::max() / product) {
            throw InputError(
                detail::text("shape: got a size of ", size, ", expected 1 or more, and 2^32 values at most"));
        }
        product *= static_cast<std::size_t>(size);
    }
    return product;
}

} // namespace

std::size_t Condition::dim() const { return product_of(shape); }

std::size_t ModelInfo::dim() const { return product_of(shape); }

std::optional<std::int64_t> ModelInfo::null_label() const {
    return num_classes > 0 && unconditional ? std::optional(num_classes) : std::nullopt;
}

bool ModelInfo::guidable() const {
    return null_label() || std::any_of(conditions.begin(), conditions.end(),
                                       [](const Condition &condition) { return !condition.null.empty(); });
}

std::int64_t ModelInfo::labels() const { return num_classes + (null_label() ? 1 : 0); }

std::string ModelInfo::describe_labels() const {
    if (!null_label()) {
        return detail::text("0 to ", num_classes - 1, " (it has no unconditional class)");
    }
    return detail::text("0 to ", num_classes, " (", num_classes, " = unconditional)");
}

} // namespace ncdeploy
