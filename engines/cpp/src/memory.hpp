// Memory that a sweep runs through from end to end: in large pages where the system has them, of which a hundred
// megabytes are some fifty and not some 25,000, each to be cleared and found by itself.
#pragma once

#include <cstddef>
#include <vector>

namespace ncdeploy::detail {

void *allocate_large(std::size_t bytes);
void free_large(void *memory, std::size_t bytes) noexcept;

template <class T> struct LargePages { // for standard containers
    using value_type = T;
    LargePages() = default;
    template <class Other> explicit LargePages(const LargePages<Other> &) {}
    T *allocate(std::size_t count) { return static_cast<T *>(allocate_large(count * sizeof(T))); }
    void deallocate(T *values, std::size_t count) noexcept { free_large(values, count * sizeof(T)); }
    bool operator==(const LargePages &) const { return true; }
    bool operator!=(const LargePages &) const { return false; }
};

using Floats = std::vector<float, LargePages<float>>;

} // namespace ncdeploy::detail
