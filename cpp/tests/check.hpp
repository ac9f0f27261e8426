// Minimal test framework of the native tests: TEST, CHECK, run_tests and random numbers.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <string>
#include <vector>

// Fail the test unless the condition holds.
#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      throw tests::Failed();                                              \
    }                                                                     \
  } while (false)

// Define a test and register it for run_tests.
#define TEST(name)                                                                   \
  static void name();                                                                \
  static const bool name##_listed = (tests::list().push_back({#name, &name}), true); \
  static void name()

namespace tests {

// A condition did not hold; it has been printed. Not a std::exception, so that no test catches it.
struct Failed {};

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& list() {
  static std::vector<Test> found;
  return found;
}

// Run the tests whose names contain `word`, and those after one that fails too. Return the exit
// status for main().
inline int run_tests(const std::string& word) {
  int passed = 0;
  std::string failed;
  for (const Test& test : list()) {
    if (std::string(test.name).find(word) == std::string::npos) continue;
    const auto start = std::chrono::steady_clock::now();
    std::printf("%s: ", test.name);
    std::fflush(stdout);  // a test that crashes or hangs is named
    try {
      test.run();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::printf("%.2f s\n", took.count());
      ++passed;
    } catch (const Failed&) {
      failed += std::string(" ") + test.name;
    } catch (const std::exception& error) {
      std::printf("%s\n", error.what());
      failed += std::string(" ") + test.name;
    }
    std::fflush(stdout);
  }
  std::printf("%d native tests passed%s%s\n", passed, failed.empty() ? "" : "; failed:",
              failed.c_str());
  return passed > 0 && failed.empty() ? 0 : 1;
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
