// Tests of the lattices of the CPU engine: simplices and keys, properties of the filter,
// independence of the number of threads and strips.
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "../core/key.hpp"
#include "problems.hpp"

using namespace tests;
using dcrf::Quality;

TEST(filter_transpose_is_adjoint_in_all_dimensions) {
  for (int dims = 1; dims <= dcrf::kMaxDims; ++dims) {
    for (const Quality quality : kQualities) {
      if (quality == Quality::kFilled && dims > 8) continue;  // same blurs as kSymmetric, but slow
      const Lattice<double> lattice(random_numbers(97 * dims, 2.0, dims), dims, quality, 2);
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
}

TEST(symmetric_and_filled_lattices_give_symmetric_kernels) {
  for (const Quality quality : {Quality::kSymmetric, Quality::kFilled}) {
    const Lattice<double> lattice(random_numbers(70 * 3, 1.5, 1), 3, quality, 1);
    const auto matrix = lattice.matrix(), transposed = lattice.matrix(true);
    for (int i = 0; i < 70; ++i) {
      for (int j = 0; j < 70; ++j) {
        CHECK(std::abs(matrix[i * 70 + j] - matrix[j * 70 + i]) < 1e-14);
        CHECK(std::abs(matrix[i * 70 + j] - transposed[i * 70 + j]) < 1e-14);
      }
    }
  }
}

TEST(self_response_is_the_diagonal_of_the_kernel) {
  const int points = 61;
  for (int dims : {1, 2, 3, 5, 8}) {
    for (const Quality quality : kQualities) {
      const Lattice<double> lattice(random_numbers(points * dims, 1.5, dims), dims, quality, 1);
      std::vector<double> diagonal(points);
      const auto kernel = lattice.matrix();
      dcrf::self_response(lattice.view, diagonal.data(), 2);
      for (int i = 0; i < points; ++i)
        CHECK(std::abs(kernel[i * points + i] - diagonal[i]) < 1e-13);
    }
  }
}

// Features [height * width, 3] like those of a photograph: two positions and one intensity.
static std::vector<float> many_features(int height, int width) {
  std::vector<float> out;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      out.insert(out.end(), {float(y) * 0.07f, float(x) * 0.07f, float((x * y) % 97) * 0.03f});
    }
  }
  return out;
}

TEST(strips_change_results_by_rounding_only) {
  const int height = 300, width = 371, points = height * width, dims = 3;  // two strips
  const auto features = many_features(height, width);
  const std::vector<double> forward(features.begin(), features.end());
  std::vector<double> backward;  // the same points from the last to the first
  for (int p = points - 1; p >= 0; --p) {
    backward.insert(backward.end(), forward.begin() + p * dims, forward.begin() + (p + 1) * dims);
  }
  const auto values = random_numbers(points, 1.0, 3);
  const std::vector<double> turned(values.rbegin(), values.rend());
  for (const Quality quality : kQualities) {
    const Lattice<double> a(forward, dims, quality, 2), b(backward, dims, quality, 2);
    CHECK(dcrf::Strips(points).count == 2 && dcrf::Links(a.links.data(), dims).ghosts > 100);
    const auto x = a.filter(values, 1, false, 2), y = b.filter(turned, 1, false, 2);
    std::vector<double> diagonal(points), unit(points * 3, 0.0);
    for (int p = 0; p < points; ++p)
      CHECK(std::abs(x[p] - y[points - 1 - p]) < 1e-10 * (1 + std::abs(x[p])));
    const int some[] = {0, points / 2, points - 1};
    for (int c = 0; c < 3; ++c) unit[some[c] * 3 + c] = 1;
    const auto columns = a.filter(unit, 3, false, 1);
    dcrf::self_response(a.view, diagonal.data(), 2);
    for (int c = 0; c < 3; ++c)
      CHECK(std::abs(columns[some[c] * 3 + c] - diagonal[some[c]]) < 1e-13);
  }
}

TEST(keys_of_any_width_find_the_same_vertices) {
  // One point is moved far away, which widens the keys from one word to two or nine. The simplices
  // of all other points must not change.
  const int points = 50;
  const auto check = [&](int dims, double distance) {
    const auto near = random_numbers(points * dims, 2.0, 7);
    auto far = near;
    for (int i = 0; i < dims; ++i) far[(points - 1) * dims + i] = (i % 2 ? -1 : 1) * distance;
    for (const Quality quality : kQualities) {
      if (quality == Quality::kFilled && dims > 8) continue;
      const Lattice<double> a(near, dims, quality, 1), b(far, dims, quality, 1);
      for (int c = 0; c < (points - 1) * (dims + 1); ++c) {
        CHECK(a.vertex[c] == b.vertex[c] && a.weight[c] == b.weight[c]);
      }
    }
  };
  for (const double distance : {30.0, 3e3, 3e5}) {
    for (const int dims : {1, 2, 5, 6, 7, 16}) check(dims, distance);
  }
}

TEST(features_that_cannot_be_indexed_are_reported) {
  std::vector<float> features(200 * 3, 1.0f);
  std::vector<std::int32_t> vertex(800), links(dcrf::links_size(200, 3, Quality::kFilled));
  std::vector<float> weight(800);
  const dcrf::FeatureView<float> view{features.data(), 3, 1, 200, 3};
  const auto builds = [&] {
    return dcrf::build(view, Quality::kFilled, vertex.data(), weight.data(), links.data(), 2);
  };
  CHECK(builds());
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity(), 1e6f, -3e38f}) {
    for (int at : {0, 1, 301, 599}) {
      features[at] = bad;
      CHECK(!builds());
      features[at] = 1.0f;
    }
  }
  CHECK(builds());
}

// Whoever owns the features may write into them between the forward and the backward pass.
TEST(feature_gradient_stays_in_its_arrays_whatever_the_features_have_become) {
  for (int dims = 1; dims <= dcrf::kMaxDims; ++dims) {
    std::vector<float> features(9 * dims, 0.5f), d_features(9 * dims);
    const auto d_weight = random_numbers<float>(9 * (dims + 1), 1.0, dims);
    const dcrf::FeatureView<float> view{features.data(), dims, 1, 9, dims};
    dcrf::feature_gradient(view, d_weight.data(), d_features.data(), 1);
    const std::vector<float> wanted = d_features;
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e9f,
          -1e12f, 3e38f}) {
      for (int i = 0; i < dims; ++i) {
        features[4 * dims + i] = bad;
        dcrf::feature_gradient(view, d_weight.data(), d_features.data(), 1);
        features[4 * dims + i] = 0.5f;
        for (int j = 0; j < 9 * dims; ++j)
          CHECK(j / dims == 4 ? std::isfinite(d_features[j]) : d_features[j] == wanted[j]);
      }
    }
  }
}

TEST(lattices_without_points_or_channels_work) {
  for (const Quality quality : kQualities) {
    const Lattice<float> empty({}, 2, quality, 2);
    CHECK(empty.filter({}, 3, false, 2).empty());
    dcrf::self_response(empty.view, static_cast<float*>(nullptr), 2);
    const Lattice<float> lattice(random_numbers<float>(20, 1.0, 1), 2, quality, 2);
    CHECK(lattice.filter({}, 0, false, 2).empty());
  }
}

TEST(channels_are_filtered_as_if_one_by_one) {
  const int points = 65;
  const Lattice<double> lattice(random_numbers(points * 4, 1.5, 2), 4, Quality::kStandard, 1);
  for (int channels : {2, 3, 23, 24, 25, 49}) {
    const auto values = random_numbers(points * channels, 1.0, 3);
    const auto together = lattice.filter(values, channels, true, 2);
    for (int c = 0; c < channels; ++c) {
      std::vector<double> one(points);
      for (int p = 0; p < points; ++p) one[p] = values[p * channels + c];
      const auto apart = lattice.filter(one, 1, true, 1);
      for (int p = 0; p < points; ++p)
        CHECK(std::abs(apart[p] - together[p * channels + c]) < 1e-13);
    }
  }
}

TEST(lattices_do_not_depend_on_the_number_of_threads) {
  const int height = 590, width = 571, points = height * width, dims = 3;  // five strips
  CHECK(dcrf::Strips(points).count == 5);
  const auto features = many_features(height, width);
  const auto values = random_numbers<float>(points * 2, 1.0, 4);
  for (const Quality quality : {Quality::kStandard, Quality::kFilled}) {
    std::unique_ptr<Lattice<float>> first;
    std::vector<float> filtered, diagonal;
    for (int threads : {1, 2, 3, 7}) {
      if (quality != Quality::kStandard && threads == 2) continue;
      auto lattice = std::make_unique<Lattice<float>>(features, dims, quality, threads);
      const auto out = lattice->filter(values, 2, false, threads);
      std::vector<float> own(points);
      dcrf::self_response(lattice->view, own.data(), threads);
      if (!first) {
        CHECK(dcrf::Links(lattice->links.data(), dims).ghosts > 100);
        first = std::move(lattice);
        filtered = out;
        diagonal = own;
        continue;
      }
      CHECK(lattice->vertex == first->vertex && lattice->weight == first->weight);
      CHECK(out == filtered && own == diagonal);
    }
  }
}

TEST(concurrent_callers_get_the_serial_answer) {
  const int dims = 2, points = 9001;
  const Lattice<double> lattice(random_numbers(points * dims, 9.0, 3), dims, Quality::kStandard, 2);
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

// Features with many points on faces of simplices (integers, half-integers, zeros), to test ties.
template <typename T>
static std::vector<T> features_with_ties(int points, int dims, unsigned seed) {
  auto out = random_numbers<T>(points * dims, 2.5, seed);
  for (int p = 0; p < points; ++p) {
    for (int i = 0; i < dims; ++i) {
      T& x = out[p * dims + i];
      if (p % 5 == 1) x = std::round(x * 2) / 2;
      if (p % 5 == 2) x = i % 2 ? T(0) : std::round(x);
      if (p % 5 == 3) x = std::round(x) * T(dims + 1) / dcrf::elevation_scale<T>(dims, i) / 2;
      if (p % 5 == 4 && i == p % dims) x = T(-0.0);
    }
  }
  return out;
}

template <typename T, int D>
static void check_vector_locate() {
  constexpr int points = 64;
  const auto features = features_with_ties<T>(points, D, D);
  T scale[D];
  std::int32_t low[D], high[D];
  std::vector<dcrf::Simplex<T>> simplex(points);
  for (int i = 0; i < D; ++i) scale[i] = dcrf::elevation_scale<T>(D, i);
  for (int p = 0; p < points; ++p) {
    dcrf::locate<T, D>(&features[p * D], scale, 0, simplex[p]);
    for (int j = 0; j < D; ++j) {
      const std::int32_t quotient = simplex[p].quotient[j];
      low[j] = p == 0 ? quotient : std::min(low[j], quotient);
      high[j] = p == 0 ? quotient : std::max(high[j], quotient);
    }
  }
  const dcrf::KeyLayout layout(D, low, high);
  CHECK(layout.one_word_of_halves);
  const dcrf::KeyMaths<1> maths(layout);

  std::vector<T> columns(points * D);  // [D, points]
  for (int p = 0; p < points; ++p) {
    for (int i = 0; i < D; ++i) columns[i * points + p] = features[p * D + i];
  }
  std::vector<T> reversed(features.rbegin(), features.rend());
  dcrf::LocateTask<T> task;
  task.dims = D;
  task.scale = scale;
  for (int j = 0; j < D; ++j) {
    const int shift = layout.shift[j + 1];
    task.high[j] = shift >= 32;
    task.unit[j] = std::uint64_t(1) << (shift % 32);
    task.base[j] = layout.base[j];
  }
  struct Way {
    const T* from;
    std::int64_t point_stride, feature_stride;
  };
  const Way ways[] = {
      {features.data(), D, 1}, {columns.data(), 1, points}, {&reversed.back(), -D, -1}};
  constexpr int kRoom = 7 * dcrf::kTile + 16;
  for (const Way& way : ways) {
    task.features = way.from;
    task.point_stride = way.point_stride;
    task.feature_stride = way.feature_stride;
    for (int count : {1, 3, 8, 37, 63, 64}) {
      task.count = count;
      std::vector<std::uint32_t> low_half(kRoom), high_half(kRoom);
      std::vector<T> weight(kRoom);
      dcrf::loops<T>().locate(task, low_half.data(), high_half.data(), weight.data());
      for (int p = 0; p < count; ++p) {
        int axis[D + 1];
        for (int j = 0; j <= D; ++j) axis[D - simplex[p].rank[j]] = j;
        dcrf::Key<1> key = maths.pack(simplex[p].quotient);
        for (int k = 0; k <= D; ++k) {
          const int at = k * dcrf::kTile + p;
          CHECK((std::uint64_t(high_half[at]) << 32 | low_half[at]) == key.word[0]);
          CHECK(std::memcmp(&weight[at], &simplex[p].weight[k], sizeof(T)) == 0);
          if (k < D) maths.advance(key, axis[k]);
        }
      }
    }
  }
}

template <typename T, int... D>
static void check_vector_locate_in(std::integer_sequence<int, D...>) {
  (check_vector_locate<T, D + 1>(), ...);
}

TEST(vector_code_finds_the_simplices_of_the_scalar_code_bit_for_bit) {
  check_vector_locate_in<float>(std::make_integer_sequence<int, 6>());
  check_vector_locate_in<double>(std::make_integer_sequence<int, 6>());
}
