// Native unit tests, built without Python so that sanitizers check this project's code only:
//   cmake -B build/asan -DDENSECRF_RNN_NATIVE_TESTS=ON -DDENSECRF_RNN_SANITIZE=address,undefined
//   cmake --build build/asan -j2 && ctest --test-dir build/asan --output-on-failure
// ctest runs them once per instruction set; `test_cpu WORD` runs the tests whose names contain
// WORD. Equality with the Numba reference and error messages are tested from Python, in tests/.
// This file: the thread pool, the exponential, and agreement of all instruction sets.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "../core/softmax.hpp"
#include "../cpu/loops/pack.hpp"
#include "../cpu/platform.hpp"
#include "../cpu/pool.hpp"
#include "child.hpp"
#include "problems.hpp"

using namespace tests;

static std::string program;  // path of this executable, which one test runs again

TEST(pool_runs_every_chunk_once_and_passes_exceptions_on) {
  std::vector<std::atomic<int>> runs(1000);
  dcrf::parallel_for(1000, 4, [&](std::int64_t i) {
    dcrf::parallel_for(3, 4, [&](std::int64_t) { ++runs[i]; });  // nested calls run serially
  });
  for (const auto& count : runs) CHECK(count == 3);
  bool caught = false;
  try {
    dcrf::parallel_for(100, 4, [](std::int64_t i) {
      if (i == 37) throw std::runtime_error("37");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  CHECK(caught);
  std::atomic<int> after{0};
  dcrf::parallel_for(10, 4, [&](std::int64_t) { ++after; });
  CHECK(after == 10);
}

TEST(interrupt_is_checked_on_the_callers_thread_alone_and_ends_the_loop) {
  static std::thread::id caller;
  caller = std::this_thread::get_id();
  for (int threads : {1, 3}) {
    bool caught = false;
    try {
      const dcrf::InterruptCheck check([] {
        CHECK(std::this_thread::get_id() == caller);
        throw std::runtime_error("interrupted");
      });
      dcrf::parallel_for(100000, threads, [](std::int64_t) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
    dcrf::parallel_for(300, threads, [](std::int64_t) {  // no check is installed any more
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  }
}

TEST(exponential_is_accurate_and_ends_in_an_exact_zero) {
  for (float x = 80.0f; x > -87.0f; x -= 0.00917f) {
    const double exact = std::exp(double(x));
    CHECK(std::abs(dcrf::exponential(x) - exact) <= 4e-7 * exact);
  }
  CHECK(dcrf::exponential(0.0f) == 1.0f);
  CHECK(dcrf::exponential(-88.0f) == 0.0f);
  CHECK(dcrf::exponential(-std::numeric_limits<float>::infinity()) == 0.0f);
}

template <int N>
static void check_exponential_of_packs() {
  using P = dcrf::tests::Pack<float, N>;
  const float infinity = std::numeric_limits<float>::infinity();
  float x = 80.0f;
  while (x > -87.0f) {
    P pack{};
    for (int i = 0; i < N; ++i) pack[i] = std::max(x -= 0.00917f, -87.0f);
    const P result = dcrf::tests::exponential<N>(pack);
    for (int i = 0; i < N; ++i) {
      const double exact = std::exp(double(pack[i]));
      CHECK(std::abs(result[i] - exact) <= 4e-7 * exact);
    }
  }
  const P ends = dcrf::tests::exponential<N>(P{-88.0f, -infinity, 0.0f, -1e30f});
  CHECK(ends[0] == 0.0f && ends[1] == 0.0f && ends[2] == 1.0f && ends[3] == 0.0f);
}

TEST(exponential_of_packs_is_accurate_and_ends_in_an_exact_zero) {
  check_exponential_of_packs<4>();
  check_exponential_of_packs<8>();
  check_exponential_of_packs<16>();
}

// Test the exponential of the compiled instruction set.
TEST(marginals_without_iterations_are_the_softmax) {
  const int points = 5000, labels = 2;
  Scene<float> scene(points, labels, 0, 1);
  scene.add({nullptr, std::make_unique<Grid<float>>(0, 50, 100, 3, false, 1), {}, {}, {}});
  scene.marginals = true;
  for (int p = 0; p < points; ++p) {
    scene.logits[p] = 0;
    scene.logits[points + p] = -0.0171f * float(p);
  }
  CHECK(scene.run(2));
  for (int p = 0; p < points; ++p) {
    const double x = std::exp(double(scene.logits[points + p]));
    CHECK(std::abs(scene.refined[p] - 1 / (1 + x)) < 3e-7);
    const double q = scene.refined[points + p];
    if (scene.logits[points + p] <= -88.0f)
      CHECK(q == 0);
    else if (scene.logits[points + p] >= -87.0f)
      CHECK(std::abs(q - x / (1 + x)) <= 6e-7 * q);
  }
}

TEST(subnormal_numbers_are_zero_while_they_are_flushed) {
  volatile float small = 1e-30f;
  CHECK(small * 1e-10f != 0.0f);
  {
    const dcrf::FlushToZero flush;
    CHECK((small * 1e-10f == 0.0f) == (dcrf::platform::kFlush != 0));
    dcrf::parallel_for(2, 2, [&](std::int64_t) {  // workers use the caller's mode
      CHECK((small * 1e-10f == 0.0f) == (dcrf::platform::kFlush != 0));
    });
  }
  CHECK(small * 1e-10f != 0.0f);
}

TEST(interrupt_is_checked_in_the_floating_point_mode_of_the_caller) {
  static bool checked, kept_subnormal;
  checked = kept_subnormal = false;
  const dcrf::InterruptCheck check([] {
    volatile float small = 1e-30f;
    checked = true;
    kept_subnormal = small * 1e-10f != 0.0f;
  });
  const dcrf::FlushToZero flush;
  dcrf::parallel_for(300, 1, [](std::int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  CHECK(checked && kept_subnormal);
  volatile float small = 1e-30f;
  CHECK((small * 1e-10f == 0.0f) == (dcrf::platform::kFlush != 0));
}

// Clang for Windows has the builtin, but not the table that it reads.
#if defined(__x86_64__) && !defined(_MSC_VER)
TEST(instruction_sets_of_this_processor_are_those_that_the_compiler_finds) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512cd");
  CHECK(dcrf::platform::supports_avx2() == avx2);
  CHECK(dcrf::platform::supports_avx512() == (avx2 && avx512));
}
#endif

// Print hashes of lattices ("exact": must be bit-identical) and the marginals of mean fields
// ("near": may differ in rounding) for comparison between instruction sets.
template <typename T>
static void print_numbers() {
  for (int dims = 1; dims <= 7; ++dims) {
    const Lattice<T> lattice(random_numbers<T>(333 * dims, 3.0, unsigned(dims)), dims,
                             kQualities[dims % 3], 1);
    std::uint64_t sum = 14695981039346656037u;  // FNV-1a
    const auto add = [&](const auto& numbers) {
      const auto* const bytes = reinterpret_cast<const unsigned char*>(numbers.data());
      for (std::size_t i = 0; i < numbers.size() * sizeof(numbers[0]); ++i)
        sum = (sum ^ bytes[i]) * 1099511628211u;
    };
    add(lattice.vertex);
    add(lattice.weight);
    std::printf("exact %llx\n", static_cast<unsigned long long>(sum));
  }
  for (int labels : {3, 21, 40}) {
    const int height = 23, width = 31, points = height * width;
    Scene<T> scene(points, labels, 4, 2);
    const auto small = [&](unsigned seed) { return positive_numbers<T>(points, 0.01, 0.05, seed); };
    scene.add(
        {std::make_unique<Lattice<T>>(random_numbers<T>(points * 5, 1.5, 3), 5, kQualities[0], 1),
         nullptr,
         small(4),
         small(5),
         {}});
    scene.add({nullptr, std::make_unique<Grid<T>>(0, height, width, 3, false, 6), small(7), {}, {}},
              true);
    scene.marginals = true;
    CHECK(scene.run(1));
    for (const T q : scene.refined) std::printf("near %.17g\n", double(q));
  }
}

TEST(every_instruction_set_finds_the_same_simplices_and_nearly_the_same_mean_field) {
  std::vector<std::string> exact;  // output of the first instruction set
  std::vector<double> near;
  int compared = 0;
  const std::string before = variable("DENSECRF_RNN_ISA");
  for (const char* const isa : {"baseline", "avx2", "avx512"}) {
    set_variable("DENSECRF_RNN_ISA", isa);
    std::FILE* const child = open_child(program, "--numbers");
    set_variable("DENSECRF_RNN_ISA", before);
    CHECK(child != nullptr);
    char line[100];
    std::size_t exacts = 0, nears = 0;
    bool same = false;
    while (std::fgets(line, sizeof line, child) != nullptr) {
      const std::string text(line);
      if (text.rfind("isa ", 0) == 0) {
        same = text == std::string("isa ") + isa + "\n";  // false if this processor lacks the ISA
        compared += same;
      } else if (same && text.rfind("exact ", 0) == 0) {
        if (compared == 1) exact.push_back(text);
        CHECK(exacts < exact.size() && exact[exacts++] == text);
      } else if (same && text.rfind("near ", 0) == 0) {
        const double q = std::atof(line + 5);
        if (compared == 1) near.push_back(q);
        CHECK(nears < near.size() && std::abs(near[nears++] - q) < 1e-5);
      }
    }
    CHECK(close_child(child) == 0);
    CHECK(!same || (exacts == exact.size() && nears == near.size()));
  }
  CHECK(compared >= 1);
  CHECK(exact.size() == 14 && near.size() == 2 * 23 * 31 * 64);
}

int main(int count, char** arguments) {
  program = arguments[0];
  const std::string word = count > 1 ? arguments[1] : "";
  if (word == "--numbers") {
    std::printf("isa %s\n", dcrf::isa_name());
    print_numbers<float>();
    print_numbers<double>();
    return 0;
  }
  std::printf("with %s\n", dcrf::isa_name());
  return run_tests(word);
}
