// Tests of mean fields of two labels, which run on the difference of the marginals: they equal the
// dense definition, and do not depend on the number of threads.
#include <cmath>
#include <limits>

#include "../cpu/binary.hpp"
#include "problems.hpp"

using namespace tests;
using dcrf::Quality;

namespace {

template <typename T>
void check_definition(const Size& size, Quality quality, double strength) {
  const std::int64_t n = size.points;
  Scene<T> scene(n, 2, 3, unsigned(n));
  scene.marginals = true;
  const auto small = [&](unsigned seed) { return positive_numbers<T>(n, 0.02, 0.1, seed); };
  scene.add({lattice<T>(n, 5, 1.0, quality, 1), nullptr, small(2), {}, {}}, true);
  scene.add({lattice<T>(n, 2, 2.0, Quality::kStandard, 4), nullptr, {}, small(5), {}}, true);
  auto grid = std::make_unique<Grid<T>>(size.depth, size.height, size.width, 2, size.masked, 6);
  scene.add({nullptr, std::move(grid), small(7), small(8), {}}, true);
  for (T& c : scene.coupling) c *= T(strength);
  CHECK(dcrf::is_binary(scene.model(), scene.image()));
  const auto want = defined_result(scene);
  const double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;
  CHECK(scene.run(2));
  for (std::size_t i = 0; i < want.size(); ++i)
    CHECK(std::abs(scene.refined[i] - want[i]) < tolerance);
  for (const int bytes : {1, 2, 4}) {
    std::vector<std::uint32_t> room(n);
    dcrf::Image<T> image = scene.image();
    image.refined = nullptr;
    image.labels = {room.data(), bytes};
    CHECK(dcrf::mean_field(scene.model(), {image}, 2));
    for (std::int64_t p = 0; p < n; ++p) {
      const auto* const from = reinterpret_cast<const unsigned char*>(room.data()) + p * bytes;
      CHECK(from[0] == (scene.refined[p] < scene.refined[n + p]) && (bytes == 1 || from[1] == 0));
    }
  }
}

}  // namespace

TEST(binary_mean_field_is_its_definition_at_awkward_sizes) {
  const Size sizes[] = {{0, 1, 1, false, 1},   {0, 7, 9, false, 63},    {2, 4, 8, false, 64},
                        {0, 5, 13, false, 65}, {0, 1, 127, false, 127}, {0, 19, 10, true, 127},
                        {3, 4, 8, true, 64},   {0, 9, 33, false, 297},  {5, 6, 7, false, 210}};
  for (const Size& size : sizes) {
    for (const Quality quality : kQualities) {
      check_definition<float>(size, quality, size.points % 2 == 1 ? 1.0 : -2.0);
      check_definition<double>(size, quality, size.points % 2 == 0 ? 1.0 : -2.0);
    }
  }
}

TEST(only_what_the_difference_determines_runs_on_it) {
  Scene<float> scene(40, 2, 3, 1);
  scene.add({lattice<float>(40, 2, 2.0, Quality::kStandard, 4), nullptr, {}, {}, {}}, true);
  CHECK(!dcrf::is_binary(scene.model(), scene.image()));  // refined logits are wanted
  scene.marginals = true;
  CHECK(dcrf::is_binary(scene.model(), scene.image()));
  scene.coupling[1] += 0.5f;  // weights that differ between the labels
  CHECK(!dcrf::is_binary(scene.model(), scene.image()));
  scene.coupling[1] -= 0.5f;
  scene.kernels[0].diagonal = positive_numbers<float>(40, 0.1, 0.2, 5);
  CHECK(!dcrf::is_binary(scene.model(), scene.image()));
  scene.kernels[0].diagonal.clear();
  scene.keep();
  CHECK(!dcrf::is_binary(scene.model(), scene.image()));
}

TEST(binary_mean_fields_do_not_depend_on_the_number_of_threads) {
  for (const bool masked : {false, true}) {
    FiveStrips image(masked);
    const std::int64_t n = image.grid->points();
    Scene<float> scene(n, 2, 4, 2);
    scene.marginals = true;
    scene.add({std::move(image.lattice),
               nullptr,
               positive_numbers<float>(n, 0.001, 0.002, 3),
               {},
               {}},
              true);
    scene.add({nullptr, std::move(image.grid), {}, positive_numbers<float>(n, 0.01, 0.02, 4), {}}, true);
    CHECK(dcrf::is_binary(scene.model(), scene.image()));
    std::vector<float> first;
    for (int threads : {1, 2, 3, 7}) {
      CHECK(scene.run(threads));
      if (first.empty()) first = scene.refined;
      CHECK(scene.refined == first);
    }
  }
}

TEST(invalid_logits_of_two_labels_are_reported) {
  const float infinity = std::numeric_limits<float>::infinity();
  Scene<float> scene(131, 2, 2, 6);
  scene.marginals = true;
  scene.add({lattice<float>(131, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}}, true);
  CHECK(scene.run(2));
  const auto good = scene.logits;
  for (const std::int64_t p : {0, 70, 130}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity}) {
      for (const int label : {0, 1}) {
        scene.logits = good;
        scene.logits[label * 131 + p] = bad;
        CHECK(!scene.run(2));
      }
    }
    scene.logits = good;
    scene.logits[p] = scene.logits[131 + p] = -infinity;
    CHECK(!scene.run(2));
    scene.logits[131 + p] = 0;  // one label of the pixel is possible
    CHECK(scene.run(2) && scene.refined[131 + p] == 1 && scene.refined[p] == 0);
  }
}
