#include "conditions.hpp"

#include <algorithm>
#include <cmath>

#include "text.hpp"

namespace ncdeploy::detail {
namespace {

const char *name_of(DType dtype) { return dtype == DType::float32 ? "float32" : "int64"; }

std::size_t size(const Values &values) {
    return std::visit([](const auto &list) { return list.size(); }, values);
}

// Throws InputError unless these are values of the type for n samples.
void check(const std::string &name, const Values &values, DType dtype, std::size_t n, std::size_t dim) {
    const DType found = std::holds_alternative<std::vector<float>>(values) ? DType::float32 : DType::int64;
    if (found != dtype) {
        throw InputError(text(name, ": got ", name_of(found), ", expected ", name_of(dtype)));
    }
    const std::size_t count = size(values);
    if (count != n * dim) {
        throw InputError(text(name, ": got ", count, " values, expected ", dim, " for each of ", n, " samples"));
    }
    if (const auto *list = std::get_if<std::vector<float>>(&values)) {
        if (!std::all_of(list->begin(), list->end(), [](float v) { return std::isfinite(v); })) {
            throw InputError(name + ": holds NaN or infinity; expected finite values");
        }
    }
}

// The values, and behind them what means "no condition"; without such a thing the values again.
template <class T> std::vector<T> twice(const std::vector<T> &values, const std::vector<double> &null) {
    std::vector<T> both = values;
    both.resize(2 * values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
        both[values.size() + i] = null.empty() ? values[i] : static_cast<T>(null[i % null.size()]);
    }
    return both;
}

} // namespace

const void *data(const Values &values) {
    return std::visit([](const auto &list) { return static_cast<const void *>(list.data()); }, values);
}

std::size_t check_values(const std::vector<Condition> &listed, const Conditions &values) {
    std::string known;
    for (const Condition &value : listed) {
        known += (known.empty() ? "" : ", ") + value.name;
    }
    std::size_t n = 0;
    for (const Condition &value : listed) {
        const auto given = values.find(value.name);
        if (given == values.end()) {
            throw InputError(value.name + ": is missing; expected " + known);
        }
        n = n ? n : std::max<std::size_t>(1, size(given->second) / value.dim());
        check(value.name, given->second, value.dtype, n, value.dim());
    }
    if (values.size() > listed.size()) {
        throw InputError(text("got ", values.size(), " arrays; expected ", known));
    }
    return n;
}

Inputs::Inputs(const ModelInfo &info, const Conditions &conditions, std::size_t n, bool doubled)
    : samples(doubled ? 2 * n : n) {
    std::string known = info.num_classes ? "labels" : "";
    for (const Condition &condition : info.conditions) {
        known += (known.empty() ? "" : ", ") + condition.name;
    }
    for (const auto &[name, values] : conditions) {
        const auto is = [&name = name](const Condition &condition) { return condition.name == name; };
        if (name == "labels" && info.num_classes == 0) {
            throw InputError("labels: this model is unconditional and takes none");
        }
        if (name != "labels" && std::none_of(info.conditions.begin(), info.conditions.end(), is)) {
            throw InputError(
                text(name, ": this model takes no such condition; it takes ", known.empty() ? "none" : known));
        }
    }
    if (info.num_classes) {
        const auto given = conditions.find("labels");
        if (given == conditions.end()) {
            throw InputError("labels: got none; this model needs one per seed, " + info.describe_labels());
        }
        check("labels", given->second, DType::int64, n, 1);
        labels = std::get<std::vector<std::int64_t>>(given->second);
        for (const std::int64_t label : labels) {
            if (label < 0 || label >= info.labels()) {
                throw InputError(text("labels: got ", label, "; this model takes ", info.describe_labels()));
            }
        }
    }
    doubled_.reserve(info.conditions.size());
    for (const Condition &condition : info.conditions) {
        const auto given = conditions.find(condition.name);
        if (given == conditions.end()) {
            throw InputError(condition.name + ": is missing; this model takes " + known);
        }
        check(condition.name, given->second, condition.dtype, n, condition.dim());
        if (doubled) {
            doubled_.push_back(
                std::visit([&](const auto &list) { return Values(twice(list, condition.null)); }, given->second));
        }
        arrays.push_back({condition, data(doubled ? doubled_.back() : given->second)});
    }
}

} // namespace ncdeploy::detail
