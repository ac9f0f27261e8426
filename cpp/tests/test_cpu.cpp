// Native unit tests, built apart from Python so that sanitizers see our code alone:
//   cmake -S . -B build/asan -DDENSECRF_RNN_NATIVE_TESTS=ON -DDENSECRF_RNN_SANITIZE=address,undefined
//   cmake --build build/asan && ctest --test-dir build/asan --output-on-failure
// What only Python can show (equality with the Numba reference, errors) is in tests/.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../core/key.hpp"
#include "../core/softmax.hpp"
#include "../cpu/lattice.hpp"
#include "../cpu/mean_field.hpp"
#include "../cpu/pool.hpp"

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);       \
      std::exit(1);                                                             \
    }                                                                           \
  } while (false)

namespace {

float* const no_saving = nullptr;

template <typename T>
struct Built {
  std::vector<std::int32_t> vertex, neighbour, offset, entry;
  std::vector<T> weight;
  dcrf::LatticeView<T> view;

  Built(const std::vector<T>& features, int dims, int threads) {
    const std::int64_t points = std::int64_t(features.size()) / dims;
    const std::int64_t corners = points * (dims + 1);
    vertex.resize(corners);
    weight.resize(corners);
    entry.resize(corners);
    offset.resize(corners + 1);
    neighbour.resize(2 * corners * (dims + 1));
    const dcrf::LatticeBuffers<T> buffers{vertex.data(), weight.data(), neighbour.data(),
                                          offset.data(), entry.data()};
    view.points = points;
    view.dims = dims;
    view.vertices = dcrf::build(features.data(), points, dims, buffers, threads);
    view.vertex = vertex.data();
    view.weight = weight.data();
    view.neighbour = neighbour.data();
    view.offset = offset.data();
    view.entry = entry.data();
  }

  std::vector<T> filter(const std::vector<T>& values, int channels, bool transpose, int threads) {
    std::vector<T> out(values.size());
    dcrf::filter(view, values.data(), channels, transpose, out.data(), threads);
    return out;
  }
};

template <typename T>
std::vector<T> random_numbers(std::size_t count, T spread, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, double(spread));
  std::vector<T> out(count);
  for (T& x : out) x = T(normal(generator));
  return out;
}

void filter_transpose_is_adjoint_in_all_dimensions() {
  for (int dims = 1; dims <= dcrf::kMaxDims; ++dims) {
    Built<double> lattice(random_numbers(97 * dims, 2.0, dims), dims, 2);
    const auto x = random_numbers(97, 1.0, 100), y = random_numbers(97, 1.0, 200);
    const auto kx = lattice.filter(x, 1, false, 2), ky = lattice.filter(y, 1, true, 2);
    double left = 0, right = 0;
    for (int i = 0; i < 97; ++i) {
      left += kx[i] * y[i];
      right += x[i] * ky[i];
    }
    CHECK(std::abs(left - right) < 1e-12 * (1 + std::abs(left)));
  }
}

void diagonal_is_what_each_point_receives_of_its_own_value() {
  for (int dims : {1, 2, 3, 5, 8}) {
    const int points = 61;
    Built<double> lattice(random_numbers(points * dims, 1.5, dims), dims, 1);
    std::vector<double> identity(points * points, 0.0), diagonal(points);
    for (int i = 0; i < points; ++i) identity[i * points + i] = 1;
    const auto kernel = lattice.filter(identity, points, false, 1);
    dcrf::self_response(lattice.view, diagonal.data(), 2);
    for (int i = 0; i < points; ++i) {
      CHECK(std::abs(kernel[i * points + i] - diagonal[i]) < 1e-13);
    }
  }
}

void keys_of_any_width_find_the_same_vertices() {
  // The lattice repeats with period (d+1) in every coordinate. Moving one far point away widens
  // the keys from one word to nine and leaves the simplices of all other points alone.
  const int dims = 16, points = 50;
  auto near = random_numbers(points * dims, 2.0, 7);
  auto far = near;
  for (int i = 0; i < dims; ++i) far[(points - 1) * dims + i] = (i % 2 ? -1 : 1) * 3e5;
  Built<double> a(near, dims, 1), b(far, dims, 1);
  for (int c = 0; c < (points - 1) * (dims + 1); ++c) CHECK(a.vertex[c] == b.vertex[c]);
}

void results_do_not_depend_on_the_number_of_threads() {
  const int dims = 3, points = 20011, labels = 5;
  const auto features = random_numbers<float>(points * dims, 4.0f, 1);
  const auto logits = random_numbers<float>(points * labels, 2.0f, 2);
  std::vector<float> coupling(labels * labels, 1.0f), first;
  for (int threads : {1, 2, 3, 7}) {
    Built<float> lattice(features, dims, threads);
    std::vector<float> ones(points, 0.05f), refined(logits.size());
    const dcrf::KernelView<float> kernel{lattice.view, ones.data(), nullptr, ones.data(),
                                         coupling.data()};
    dcrf::mean_field(&kernel, 1, logits.data(), points, labels, 3, refined.data(), no_saving, threads);
    if (first.empty()) first = refined;
    CHECK(refined == first);
  }
}

void concurrent_callers_get_the_serial_answer() {
  const int dims = 2, points = 9001;
  Built<double> lattice(random_numbers(points * dims, 9.0, 3), dims, 2);
  const auto values = random_numbers(points * 3, 1.0, 4);
  const auto expected = lattice.filter(values, 3, false, 1);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 5; ++i) wrong += lattice.filter(values, 3, false, 3) != expected;
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

void pool_runs_every_chunk_once_and_passes_exceptions_on() {
  std::vector<std::atomic<int>> runs(1000);
  dcrf::parallel_for(1000, 4, [&](std::int64_t i) {
    dcrf::parallel_for(3, 4, [&](std::int64_t) { ++runs[i]; });  // nested: serial, no deadlock
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

void exponential_is_accurate_and_ends_in_an_exact_zero() {
  for (float x = 0.0f; x > -87.0f; x -= 0.00917f) {
    const double exact = std::exp(double(x));
    CHECK(std::abs(dcrf::exp_nonpositive(x) - exact) <= 2.5e-7 * exact);
  }
  CHECK(dcrf::exp_nonpositive(0.0f) == 1.0f);
  CHECK(dcrf::exp_nonpositive(-88.0f) == 0.0f);
  CHECK(dcrf::exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0f);
}

void label_of_minus_infinity_stays_out() {
  const int points = 130, labels = 3;
  Built<float> lattice(random_numbers<float>(points * 2, 3.0f, 5), 2, 1);
  auto logits = random_numbers<float>(points * labels, 1.0f, 6);
  const float infinity = std::numeric_limits<float>::infinity();
  for (int i = 0; i < points; ++i) logits[(i % 3) * points + i] = -infinity;
  const std::vector<float> coupling{0, 90, 90, 90, 0, 90, 90, 90, 0};
  std::vector<float> refined(logits.size());
  const dcrf::KernelView<float> kernel{lattice.view, nullptr, nullptr, nullptr, coupling.data()};
  dcrf::mean_field(&kernel, 1, logits.data(), points, labels, 4, refined.data(), no_saving, 2);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    CHECK((refined[i] == -infinity) == (logits[i] == -infinity) && !std::isnan(refined[i]));
  }
}

void backward_is_the_derivative_of_forward() {
  const int points = 23, labels = 3, iterations = 3;
  Built<double> lattice(random_numbers(points * 2, 1.5, 8), 2, 1);
  auto logits = random_numbers(points * labels, 1.0, 9);
  auto coupling = random_numbers(labels * labels, 0.5, 10);
  auto scale = random_numbers(points, 0.1, 11), cotangent = random_numbers(points * labels, 1.0, 12);
  for (double& x : scale) x += 0.5;
  const dcrf::KernelView<double> kernel{lattice.view, scale.data(), scale.data(), scale.data(),
                                        coupling.data()};
  std::vector<double> saved(std::size_t(iterations) * points * dcrf::row_width(labels));
  std::vector<double> refined(logits.size()), d_logits(logits.size()), d_coupling(coupling.size());
  const auto loss = [&] {
    dcrf::mean_field(&kernel, 1, logits.data(), points, labels, iterations, refined.data(),
                     saved.data(), 2);
    double sum = 0;
    for (std::size_t i = 0; i < refined.size(); ++i) sum += refined[i] * cotangent[i];
    return sum;
  };
  loss();
  dcrf::mean_field_backward(&kernel, 1, saved.data(), cotangent.data(), points, labels, iterations,
                            d_logits.data(), d_coupling.data(), 2);
  const auto check = [&](std::vector<double>& input, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < input.size(); ++i) {
      const double kept = input[i], step = 1e-5;
      input[i] = kept + step;
      const double above = loss();
      input[i] = kept - step;
      const double below = loss();
      input[i] = kept;
      const double slope = (above - below) / (2 * step);
      CHECK(std::abs(slope - gradient[i]) < 1e-7 * (1 + std::abs(slope)));
    }
  };
  check(logits, d_logits);
  check(coupling, d_coupling);
}

}  // namespace

int main() {
  filter_transpose_is_adjoint_in_all_dimensions();
  diagonal_is_what_each_point_receives_of_its_own_value();
  keys_of_any_width_find_the_same_vertices();
  results_do_not_depend_on_the_number_of_threads();
  concurrent_callers_get_the_serial_answer();
  pool_runs_every_chunk_once_and_passes_exceptions_on();
  exponential_is_accurate_and_ends_in_an_exact_zero();
  label_of_minus_infinity_stays_out();
  backward_is_the_derivative_of_forward();
  std::puts("9 native tests passed");
  return 0;
}
