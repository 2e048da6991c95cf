#include "memory.hpp"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ncdeploy::detail {
namespace {

constexpr std::align_val_t large_page{std::size_t{1} << 21};

bool large(std::size_t bytes) { return bytes >= static_cast<std::size_t>(large_page); }

} // namespace

void *allocate_large(std::size_t bytes) {
    if (!large(bytes)) {
        return ::operator new(bytes);
    }
    void *memory = ::operator new(bytes, large_page);
#if defined(__linux__)
    madvise(memory, bytes, MADV_HUGEPAGE); // a wish: if it is not granted, all works as it would without
#endif
    return memory;
}

void free_large(void *memory, std::size_t bytes) noexcept {
    if (large(bytes)) {
        ::operator delete(memory, large_page);
    } else {
        ::operator delete(memory);
    }
}

} // namespace ncdeploy::detail
