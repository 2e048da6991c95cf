// Counts what the program asks of operator new.
#pragma once

#include <atomic>
#include <cstddef>

extern std::atomic<std::size_t> allocations;
