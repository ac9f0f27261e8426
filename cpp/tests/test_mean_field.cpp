// Tests of mean-field inference on the CPU: results equal the dense definition at awkward sizes,
// and do not depend on the number of threads or on other images in the batch.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "../cpu/platform.hpp"
#include "../cpu/pool.hpp"
#include "problems.hpp"

using namespace tests;
using dcrf::Quality;

namespace {

template <typename T>
void check_definition(const Size& size, int labels, bool self_terms, bool potts) {
  const std::int64_t n = size.points;
  Scene<T> scene(n, labels, 3, unsigned(labels));
  const auto small = [&](unsigned seed) { return positive_numbers<T>(n, 0.02, 0.1, seed); };
  const auto diagonal = [&](unsigned seed) {
    return self_terms ? positive_numbers<T>(n, 0.2, 0.8, seed) : std::vector<T>();
  };
  scene.add({lattice<T>(n, 5, 1.0, kQualities[labels % 3], 1), nullptr, small(2), {}, diagonal(3)},
            potts);
  scene.add({lattice<T>(n, 2, 2.0, Quality::kStandard, 4), nullptr, {}, small(5), {}}, potts);
  auto grid = std::make_unique<Grid<T>>(size.depth, size.height, size.width, 2, size.masked, 6);
  scene.add({nullptr, std::move(grid), small(7), small(8), diagonal(9)}, potts);
  const double tolerance = sizeof(T) == 4 ? 2e-5 : 1e-12;
  for (const bool keeps : {false, true}) {
    scene.marginals = keeps;
    if (keeps) scene.keep();
    const auto want = defined_result(scene);
    CHECK(scene.run(2));
    for (std::size_t i = 0; i < want.size(); ++i)
      CHECK(std::abs(scene.refined[i] - want[i]) < tolerance);
  }
}

}  // namespace

TEST(mean_field_is_its_definition_at_awkward_sizes) {
  const Size sizes[] = {{0, 1, 1, false, 1},   {0, 7, 9, false, 63},    {2, 4, 8, false, 64},
                        {0, 5, 13, false, 65}, {0, 1, 127, false, 127}, {0, 19, 10, true, 127},
                        {3, 4, 8, true, 64}};
  for (const Size& size : sizes) {
    for (int labels : {1, 2, 3, 21, 33, 60}) {
      const bool self_terms = size.points % 2 == 1;
      check_definition<float>(size, labels, self_terms, labels % 2 == 0);
      check_definition<double>(size, labels, !self_terms, labels % 2 == 1);
    }
  }
}

TEST(rows_of_every_width_give_the_definition) {
  for (int width = 4; width <= 40; width += 4) {
    for (int labels : {width - 3, width})
      check_definition<float>({0, 3, 22, false, 66}, labels, false, true);
  }
}

TEST(mean_fields_do_not_depend_on_the_number_of_threads) {
  for (const bool masked : {false, true}) {
    FiveStrips image(masked);
    const std::int64_t n = image.grid->points();
    Scene<float> scene(n, 3, 2, 2);
    scene.add({std::move(image.lattice),
               nullptr,
               positive_numbers<float>(n, 0.001, 0.002, 3),
               {},
               {}},
              true);
    scene.add({nullptr,
               std::move(image.grid),
               {},
               positive_numbers<float>(n, 0.01, 0.02, 4),
               masked ? positive_numbers<float>(n, 0.1, 0.2, 5) : std::vector<float>()});
    CHECK(dcrf::Strips(n).count >= 5);
    CHECK(dcrf::Links(scene.kernels[0].lattice->links.data(), 2).ghosts > 100);
    scene.keep();
    const auto d_refined = random_numbers<float>(n * 3, 1.0, 6);
    std::vector<float> refined, saved, d_logits(n * 3), d_coupling(18), d_weight(n * 3),
        d_before(n);
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2, 3, 7}) {
      if (masked && threads == 2) continue;
      CHECK(scene.run(threads));
      dcrf::ImageGradient<float> to{d_refined.data(), d_logits.data(), d_coupling.data(), {}};
      to.kernels.resize(2);
      to.kernels[0].weight = d_weight.data();
      to.kernels[0].before = d_before.data();
      dcrf::mean_field_backward(scene.model(), {scene.image()}, {to}, threads);
      std::vector<std::vector<float>> all{scene.refined, scene.saved, d_logits,
                                          d_coupling,    d_weight,    d_before};
      if (first.empty())
        first = std::move(all);
      else
        CHECK(all == first);
    }
  }
}

TEST(images_of_a_batch_do_not_depend_on_each_other) {
  std::vector<std::unique_ptr<Scene<float>>> scenes;
  for (const Size& size :
       {Size{0, 9, 14, false, 126}, Size{0, 60, 90, false, 5400}, Size{0, 3, 6, true, 12}}) {
    auto scene = std::make_unique<Scene<float>>(size.points, 5, 3, unsigned(size.points));
    scene->add({lattice<float>(size.points, 2, 3.0, Quality::kStandard, 1),
                nullptr,
                {},
                positive_numbers<float>(size.points, 0.01, 0.02, 3),
                {}});
    auto grid = std::make_unique<Grid<float>>(0, size.height, size.width, 2, size.masked, 2);
    scene->add({nullptr, std::move(grid), {}, {}, {}});
    for (std::size_t i = 0; i < scene->coupling.size(); ++i)
      scene->coupling[i] = float(i % 5) * 0.01f;
    scenes.push_back(std::move(scene));
  }
  std::vector<std::vector<float>> alone;
  std::vector<dcrf::Image<float>> images;
  for (auto& scene : scenes) {
    CHECK(scene->run(1));
    alone.push_back(scene->refined);
    images.push_back(scene->image());
  }
  for (int threads : {1, 2, 3, 8}) {
    for (auto& scene : scenes) std::fill(scene->refined.begin(), scene->refined.end(), 0.0f);
    CHECK(dcrf::mean_field(scenes[0]->model(), images, threads));
    for (std::size_t i = 0; i < scenes.size(); ++i) CHECK(scenes[i]->refined == alone[i]);
  }
}

TEST(labels_of_logit_minus_infinity_keep_probability_zero) {
  const int points = 130, labels = 3;
  Scene<float> scene(points, labels, 4, 6);
  scene.add({lattice<float>(points, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}});
  scene.add({nullptr, std::make_unique<Grid<float>>(0, 10, 13, 2, false, 1), {}, {}, {}});
  const float infinity = std::numeric_limits<float>::infinity();
  for (int i = 0; i < points; ++i) scene.logits[(i % 3) * points + i] = -infinity;
  for (int i = 0; i < 18; ++i) scene.coupling[i] = i % 9 % 4 == 0 ? 0.0f : 90.0f;
  CHECK(scene.run(2));
  for (std::size_t i = 0; i < scene.logits.size(); ++i) {
    CHECK((scene.refined[i] == -infinity) == (scene.logits[i] == -infinity) &&
          !std::isnan(scene.refined[i]));
  }
  scene.marginals = true;
  CHECK(scene.run(2));
  for (std::size_t i = 0; i < scene.logits.size(); ++i) {
    CHECK(scene.logits[i] == -infinity ? scene.refined[i] == 0 : scene.refined[i] >= 0);
  }
}

TEST(large_logits_and_messages_do_not_overflow) {
  // exp() of these logits overflows unless the softmax subtracts the maximum first.
  for (const double spread : {30.0, 1e4, 1e30}) {
    Scene<float> scene(64, 3, 3, 1);
    scene.logits = random_numbers<float>(64 * 3, spread, 2);
    scene.add({nullptr, std::make_unique<Grid<float>>(0, 8, 8, 2, false, 3), {}, {}, {}});
    for (float& c : scene.coupling) c *= float(spread);
    CHECK(scene.run(1));
    for (const float x : scene.refined) CHECK(std::isfinite(x));
    scene.marginals = true;
    CHECK(scene.run(1));
    for (int p = 0; p < 64; ++p) {
      CHECK(std::abs(scene.refined[p] + scene.refined[64 + p] + scene.refined[128 + p] - 1) < 1e-6);
    }
  }
}

TEST(invalid_logits_are_reported) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (int labels : {1, 3, 21, 33}) {
    for (int iterations : {0, 1, 3}) {
      const std::int64_t points = 131;
      Scene<float> scene(points, labels, iterations, 6);
      scene.add({lattice<float>(points, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}}, true);
      CHECK(scene.run(2));
      const auto good = scene.logits;
      for (const std::int64_t p : {std::int64_t(0), std::int64_t(70), points - 1}) {
        for (const float bad : {std::numeric_limits<float>::quiet_NaN(), infinity}) {
          for (int l = 0; l < labels; ++l) {
            scene.logits = good;
            scene.logits[l * points + p] = bad;
            CHECK(!scene.run(2));
          }
        }
        scene.logits = good;
        for (int l = 0; l < labels; ++l) scene.logits[l * points + p] = -infinity;
        CHECK(!scene.run(2));
        if (labels > 1) {
          scene.logits[p] = 0;  // one label of the pixel is possible
          CHECK(scene.run(2));
          scene.logits[p] = std::numeric_limits<float>::quiet_NaN();
          CHECK(!scene.run(2));
        }
      }
    }
  }
}

TEST(no_iterations_leave_the_logits_as_they_are) {
  Scene<float> scene(131, 5, 0, 1);
  scene.add({lattice<float>(131, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}});
  CHECK(scene.run(1) && scene.refined == scene.logits);
}

TEST(image_without_points_is_refined_to_nothing) {
  Scene<float> scene(0, 3, 2, 1);
  scene.add({lattice<float>(0, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}});
  CHECK(scene.run(2));
}

TEST(callers_floating_point_mode_is_left_as_it_was) {
  namespace platform = dcrf::platform;
  Scene<float> scene(6000, 3, 2, 1);
  scene.add({lattice<float>(6000, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}});
  scene.keep();
  constexpr platform::FloatMode kStatus = 0x3f;  // on x86-64, the sticky exception flags
  const platform::FloatMode kept = platform::float_mode();
  const auto d_refined = random_numbers<float>(18000, 1.0, 1);
  std::vector<float> d_logits(18000), d_coupling(9);
  const dcrf::ImageGradient<float> to{d_refined.data(), d_logits.data(), d_coupling.data(), {}};
  for (const platform::FloatMode mode : {kept & ~platform::kFlush, kept | platform::kFlush}) {
    for (int threads : {1, 2}) {
      platform::set_float_mode(mode);
      const bool good = scene.run(threads);
      const platform::FloatMode after = platform::float_mode();
      dcrf::mean_field_backward(scene.model(), {scene.image()}, {to}, threads);
      const platform::FloatMode last = platform::float_mode();
      platform::set_float_mode(kept);
      CHECK(good && (after & ~kStatus) == (mode & ~kStatus) &&
            (last & ~kStatus) == (mode & ~kStatus));
    }
  }
  scene.logits[0] = std::numeric_limits<float>::quiet_NaN();
  platform::set_float_mode(kept & ~platform::kFlush);
  CHECK(!scene.run(1) && (platform::float_mode() & platform::kFlush) == 0);
  platform::set_float_mode(kept);
}

TEST(interrupted_mean_field_ends_and_the_next_one_works) {
  Scene<float> scene(3000, 3, 2, 1);
  scene.add({lattice<float>(3000, 2, 3.0, Quality::kStandard, 5), nullptr, {}, {}, {}});
  CHECK(scene.run(2));
  const auto want = scene.refined;
  for (int threads : {1, 2}) {
    bool caught = false;
    try {
      const dcrf::InterruptCheck check([] { throw std::runtime_error("interrupted"); });
      scene.iterations = 100000000;
      scene.run(threads);
    } catch (const std::runtime_error&) {
      caught = true;
    }
    scene.iterations = 2;
    CHECK(caught && scene.run(threads) && scene.refined == want);
  }
}
