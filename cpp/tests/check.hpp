// Minimal test framework of the native tests: TEST, CHECK, run_tests and random numbers.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

// End the program with status 1 unless the condition holds.
#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (false)

// Define a test and register it for run_tests.
#define TEST(name)                                                                   \
  static void name();                                                                \
  static const bool name##_listed = (tests::list().push_back({#name, &name}), true); \
  static void name()

namespace tests {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& list() {
  static std::vector<Test> found;
  return found;
}

// Run the tests whose names contain `word`. Return the exit status for main().
inline int run_tests(const std::string& word) {
  int passed = 0;
  for (const Test& test : list()) {
    if (std::string(test.name).find(word) == std::string::npos) continue;
    const auto start = std::chrono::steady_clock::now();
    test.run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%6.2f s %s\n", took.count(), test.name);
    std::fflush(stdout);
    ++passed;
  }
  std::printf("%d native tests passed\n", passed);
  return passed > 0 ? 0 : 1;
}

// Return normally distributed numbers with standard deviation `spread`.
template <typename T = double>
std::vector<T> random_numbers(std::int64_t count, double spread, unsigned seed, double mean = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, spread);
  std::vector<T> out(count);
  for (T& x : out) x = T(normal(generator));
  return out;
}

// Return uniformly distributed numbers in [least, most), for scales and taps, which are positive.
template <typename T = double>
std::vector<T> positive_numbers(std::int64_t count, double least, double most, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(least, most);
  std::vector<T> out(count);
  for (T& x : out) x = T(uniform(generator));
  return out;
}

}  // namespace tests
