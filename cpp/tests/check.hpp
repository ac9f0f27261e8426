// What every native test uses: how it is listed, how it fails, random numbers.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (false)

// Defines a test and puts it on the list that main() runs.
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

// Runs the tests with `word` in their name; what main() returns.
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

template <typename T = double>
std::vector<T> random_numbers(std::int64_t count, double spread, unsigned seed, double mean = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, spread);
  std::vector<T> out(count);
  for (T& x : out) x = T(normal(generator));
  return out;
}

// Above zero, as the scales of kernels are.
template <typename T = double>
std::vector<T> positive_numbers(std::int64_t count, double least, double most, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(least, most);
  std::vector<T> out(count);
  for (T& x : out) x = T(uniform(generator));
  return out;
}

}  // namespace tests
