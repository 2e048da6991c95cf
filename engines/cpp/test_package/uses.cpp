// The package links and runs: prints its version and a number of its noise.
#include <ncdeploy/ncdeploy.hpp>

#include <cstdio>

int main() {
    std::printf("ncdeploy %s: %.4f\n", ncdeploy::version(), static_cast<double>(ncdeploy::normal(0, 0, 4)[0]));
}
