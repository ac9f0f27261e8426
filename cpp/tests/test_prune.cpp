// Tests of mean fields that leave labels out: with a delta that nothing falls below they equal the
// dense definition, and they do not depend on the number of threads.
#include <cmath>
#include <limits>

#include "problems.hpp"

using namespace tests;
using dcrf::Quality;

namespace {

// Give all kernels a Potts coupling with a weight per label, of either sign if `negative`.
template <typename T>
void make_potts(Scene<T>& scene, double strength, bool negative) {
  const std::int64_t labels = scene.labels, matrix = labels * labels;
  for (std::size_t i = 0; i < scene.coupling.size(); ++i) {
    const std::int64_t own = std::int64_t(i) % matrix / labels, other = std::int64_t(i) % labels;
    const double weight = strength * (1 + 0.1 * double(other % 3)) *
                          (negative && other % 2 == 1 ? -1.0 : 1.0);
    scene.coupling[i] = T(own == other ? 0.0 : weight);
  }
}

template <typename T>
bool run_pruned(Scene<T>& scene, double delta, int threads, std::vector<std::int64_t>& kept) {
  kept.assign(2 * scene.iterations, -1);
  dcrf::Image<T> image = scene.image();
  image.prune = delta;
  image.kept = kept.data();
  return dcrf::mean_field(scene.model(), {image}, threads);
}

template <typename T>
void check_definition(const Size& size, int labels, bool negative) {
  const std::int64_t n = size.points;
  Scene<T> scene(n, labels, 3, unsigned(labels));
  const auto small = [&](unsigned seed) { return positive_numbers<T>(n, 0.02, 0.1, seed); };
  scene.add({lattice<T>(n, 5, 1.0, kQualities[labels % 3], 1), nullptr, small(2), {}, {}});
  scene.add({lattice<T>(n, 2, 2.0, Quality::kStandard, 4), nullptr, {}, small(5), {}});
  auto grid = std::make_unique<Grid<T>>(size.depth, size.height, size.width, 2, size.masked, 6);
  scene.add({nullptr, std::move(grid), small(7), small(8), {}});
  make_potts(scene, 0.4, negative);
  const double tolerance = sizeof(T) == 4 ? 5e-5 : 1e-11;
  std::vector<std::int64_t> kept;
  for (const bool marginals : {false, true}) {
    scene.marginals = marginals;
    const auto want = defined_result(scene);
    CHECK(run_pruned(scene, 1e-30, 2, kept));
    CHECK(kept[0] > 0 && kept[1] == kept[0] * labels);  // it is not the exact path that ran
    for (std::size_t i = 0; i < want.size(); ++i)
      CHECK(std::abs(scene.refined[i] - want[i]) < tolerance);
  }
}

}  // namespace

TEST(mean_field_that_leaves_nothing_out_is_its_definition_at_awkward_sizes) {
  const Size sizes[] = {{0, 1, 1, false, 1},   {0, 7, 9, false, 63},    {2, 4, 8, false, 64},
                        {0, 5, 13, false, 65}, {0, 1, 127, false, 127}, {0, 19, 10, true, 127},
                        {3, 4, 8, true, 64},   {0, 9, 33, false, 297}};
  for (const Size& size : sizes) {
    for (int labels : {2, 3, 5, 21, 33, 70}) {
      check_definition<float>(size, labels, size.points % 2 == 1);
      check_definition<double>(size, labels, size.points % 2 == 0);
    }
  }
}

TEST(mean_fields_that_leave_labels_out_do_not_depend_on_the_number_of_threads) {
  constexpr int width = FiveStrips::kWidth, labels = 9;
  for (const bool masked : {false, true}) {
    FiveStrips image(masked);
    const std::int64_t n = image.grid->points();
    Scene<float> scene(n, labels, 4, 2);
    scene.marginals = true;
    for (std::int64_t p = 0; p < n; ++p)  // patches that are sure of a label each
      scene.logits[(p / width / 50 + p % width / 50) % labels * n + p] += 14;
    scene.add({std::move(image.lattice),
               nullptr,
               positive_numbers<float>(n, 0.001, 0.002, 3),
               {},
               {}});
    scene.add({nullptr, std::move(image.grid), {}, positive_numbers<float>(n, 0.01, 0.02, 4), {}});
    make_potts(scene, 0.5, false);
    std::vector<float> first;
    std::vector<std::int64_t> kept, first_kept;
    for (int threads : {1, 2, 3, 7}) {
      CHECK(run_pruned(scene, 1e-3, threads, kept));
      CHECK(kept[0] > 0 && kept[3] < 4 * kept[2]);
      if (first.empty()) {
        first = scene.refined;
        first_kept = kept;
      }
      CHECK(scene.refined == first && kept == first_kept);
    }
  }
}

TEST(invalid_logits_are_reported_where_labels_are_left_out) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<std::int64_t> kept;
  for (int labels : {2, 6, 21}) {
    Scene<float> scene(131, labels, 2, 6);
    scene.marginals = true;
    scene.add({lattice<float>(131, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}});
    make_potts(scene, 1.0, false);
    CHECK(run_pruned(scene, 1e-3, 2, kept));
    const auto good = scene.logits;
    for (const std::int64_t p : {0, 70, 130}) {
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity}) {
        scene.logits = good;
        scene.logits[(labels - 1) * 131 + p] = bad;
        CHECK(!run_pruned(scene, 1e-3, 2, kept));
      }
      scene.logits = good;
      for (int l = 0; l < labels; ++l) scene.logits[l * 131 + p] = -infinity;
      CHECK(!run_pruned(scene, 1e-3, 2, kept));
      scene.logits[131 + p] = 0;  // one label of the pixel is possible
      CHECK(run_pruned(scene, 1e-3, 2, kept) && scene.refined[131 + p] == 1);
    }
  }
}
