// The core links without any runtime.
#include <ncdeploy/ncdeploy.hpp>

#include <iostream>

int main() {
  std::cout << ncdeploy::version()
            << (ncdeploy::normal(0, 0, 4).size() == 4 ? " normal\n"
                                                      : " broken\n");
}
