// A failed check ends the test program with the place and the reason.
#pragma once

#include <cstdlib>
#include <iostream>
#include <string>

#define CHECK(holds)                                                                                                   \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            std::cerr << __FILE__ << ':' << __LINE__ << ": does not hold: " #holds << std::endl;                       \
            std::exit(1);                                                                                              \
        }                                                                                                              \
    } while (false)

// The message of the exception E that `body` throws; anything else ends the test program.
template <class E, class Body> std::string thrown(Body body, int line = __builtin_LINE()) {
    try {
        body();
    } catch (const E &e) {
        return e.what();
    }
    std::cerr << "line " << line << ": nothing was thrown" << std::endl;
    std::exit(1);
}
