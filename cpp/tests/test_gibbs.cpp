// Tests of Gibbs sweeps on CPUs: the random numbers are the published ones, and all instruction
// sets and numbers of threads draw the labels of a serial scalar sweep.
#include "gibbs_problems.hpp"

using namespace tests;

TEST(philox_gives_the_published_numbers) {
  const auto check = [](std::uint32_t counter, std::uint32_t key, const dcrf::Philox& wanted) {
    const dcrf::Philox found = dcrf::philox(counter, counter, counter, counter, key, key);
    for (int i = 0; i < 4; ++i) CHECK(found.word[i] == wanted.word[i]);
  };
  check(0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  check(0xffffffff, 0xffffffff, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
}

TEST(weights_of_all_labels_sum_to_below_a_word) {
  for (int labels = 1; labels < 65536; labels = labels * 2 + (labels % 3)) {
    const double most = dcrf::weight(0, 0, 1, dcrf::weight_scale(labels));
    CHECK(most >= 65536 && most * labels < 4294967296.0);
  }
  CHECK(dcrf::weight(-90, 0, 1, dcrf::weight_scale(2)) == 0);
  // The difference of these scores does not overflow either.
  CHECK(dcrf::weight(-2e30f, 1e30f, 3e38f, dcrf::weight_scale(2)) == 0);
}

static void check_sweeps(const GibbsScene& scene) {
  const GibbsScene::Result wanted = scene.run_serially(false);
  CHECK(wanted == scene.run_serially(true));
  for (const int threads : {1, 2, 5}) CHECK(scene.run(threads) == wanted);
}

TEST(sweeps_are_those_of_a_serial_sweep_in_the_order_of_colours) {
  for (const int labels : {1, 2, 3, 4, 5, 6, 7, 8, 9, 23, 32, 33, 64, 65, 256})
    check_sweeps(GibbsScene(2, 5, 7, labels, {0, 1, 1, 0, 1, -1, 1, 1}, 1, 2, 4));
}

TEST(sweeps_of_odd_images_and_neighbourhoods) {
  check_sweeps(GibbsScene(1, 1, 2, 3, {0, 1}, 1, 0, 2));
  check_sweeps(GibbsScene(3, 1, 1, 2, {}, 0, 0, 1));
  check_sweeps(GibbsScene(1, 9, 4, 6, {8, -3, -1, 0}, 0, 1, 2));  // whole rows of one colour
  check_sweeps(GibbsScene(2, 13, 11, 3, {0, 2, 5, 1}, 1, 1, 4));
  check_sweeps(GibbsScene(1, 67, 150, 2, {0, 1, 1, 0}, 1, 1, 2));   // several parts of rows
  check_sweeps(GibbsScene(1, 67, 150, 3, {20, 3, 1, 0}, 1, 1, 2));  // edges that span several parts
}

TEST(statistics_count_each_edge_once) {
  const GibbsScene scene(2, 6, 5, 3, {0, 1, 2, -1}, 1, 1, 2);
  for (const int threads : {1, 3}) {
    std::vector<std::int64_t> counts(2 * 9), wanted(2 * 9);
    dcrf::gibbs_statistics(scene.batch, scene.labels.data(), counts.data(), threads);
    for (int image = 0; image < 2; ++image) {
      for (int c = 0; c < 2; ++c) {
        for (int row = 0; row < 6; ++row) {
          for (int column = 0; column < 5; ++column) {
            const int y = row + scene.offsets[2 * c], x = column + scene.offsets[2 * c + 1];
            if (y < 0 || y >= 6 || x < 0 || x >= 5) continue;
            const int i = scene.labels[(image * 6 + row) * 5 + column];
            const int j = scene.labels[(image * 6 + y) * 5 + x];
            if (i >= 0 && j >= 0) ++wanted[c * 9 + i * 3 + j];
          }
        }
      }
    }
    CHECK(counts == wanted);
  }
}
