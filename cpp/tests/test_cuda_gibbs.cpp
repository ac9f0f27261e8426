// Tests that the Gibbs program draws the same labels as the CPU engine, also on a GPU
// (test_cuda_device.cu): labels and marginals are bit-identical on all engines.
#include "cuda_problems.hpp"
#include "gibbs_problems.hpp"

using namespace tests;

namespace {

// Lay out the batch as nn/gibbs/sampling.py does and run the program.
GibbsScene::Result run_program(const GibbsScene& scene) {
  const dcrf::GibbsBatch& of = scene.batch;
  const std::int64_t pixels = of.height * of.width;
  const int count = of.labels;
  std::int64_t down = 0, right = 0;
  for (int c = 0; c < of.classes; ++c) {
    down = std::max<std::int64_t>(down, std::abs(of.offsets[2 * c]));
    right = std::max<std::int64_t>(right, std::abs(of.offsets[2 * c + 1]));
  }
  gpu::GibbsBatch batch;
  batch.images = of.images;
  batch.height = of.height;
  batch.width = of.width;
  batch.padded_stride = of.width + right;
  batch.padded_first = right + down * batch.padded_stride;
  batch.padded_size = (of.height + 2 * down) * batch.padded_stride + right;

  std::vector<float> rows(2 * of.classes * std::int64_t(count + 1) * count);
  std::vector<std::int64_t> steps;
  for (int c = 0; c < of.classes; ++c) {
    for (int l = 0; l < count; ++l) {
      for (int k = 0; k < count; ++k) {
        const std::int64_t table = std::int64_t(c) * count * count;
        rows[(std::int64_t(c) * (count + 1) + l) * count + k] = of.tables[table + k * count + l];
        rows[(std::int64_t(of.classes + c) * (count + 1) + l) * count + k] =
            of.tables[table + l * count + k];
      }
    }
    steps.push_back(of.offsets[2 * c] * batch.padded_stride + of.offsets[2 * c + 1]);
  }
  const auto row_array = put(rows);
  const auto step_array = put(steps);
  batch.neighbours = {of.classes, count, count, row_array.data(), step_array.data()};

  std::vector<float> logits(scene.logits.size());
  for (std::int64_t image = 0; image < of.images; ++image) {
    for (int l = 0; l < count; ++l) {
      for (std::int64_t p = 0; p < pixels; ++p)
        logits[(image * pixels + p) * count + l] = of.logits[(image * count + l) * pixels + p];
    }
  }
  const auto logit_array = put(logits);
  batch.logits = logit_array.data();
  while ((batch.step * of.a) % of.m != 0) ++batch.step;
  batch.colours = of.m;
  std::vector<std::int32_t> first(of.m * of.m, -1);
  for (int row = 0; row < of.m; ++row) {
    for (int x = 0; x < batch.step; ++x) first[(of.a * x + of.b * row) % of.m * of.m + row] = x;
  }
  const auto first_array = put(first);
  batch.first = first_array.data();
  batch.seed = of.seed;
  const auto chain = put(scene.chain), first_sweep = put(scene.first_sweep);
  batch.chain = chain.data();
  batch.first_sweep = first_sweep.data();
  batch.sweeps = of.sweeps;
  const auto inverse_temperature = put(scene.inverse_temperature);
  batch.inverse_temperature = inverse_temperature.data();

  const GibbsScene::Result initial = scene.empty();
  auto labels = put(initial.labels);
  auto marginals = put(initial.marginals);
  auto changes = put(initial.changes);
  batch.labels = labels.data();
  batch.marginals = marginals.data();
  batch.changes = changes.data();
  auto workspace = unwritten<char>(std::int64_t(gpu::gibbs_workspace(batch)));
  gpu::gibbs_sweep(batch, workspace.data(), kStream);
  return {get(labels), get(marginals), get(changes)};
}

void check_program(const GibbsScene& scene) {
  const GibbsScene::Result wanted = scene.run(1);
  for (const int lanes : {1, 2, 8}) {
    set_lanes(lanes);
    for (const int threads : {1, 3}) {
      set_threads(threads);
      CHECK(run_program(scene) == wanted);
    }
  }
  set_lanes(1);
  set_threads(1);
}

}  // namespace

TEST(gibbs_sweeps_equal_those_of_the_cpu_engine) {
  for (const int labels : {1, 2, 5, 9, 21, 33})
    check_program(GibbsScene(2, 4, 5, labels, {0, 1, 1, 0, 1, -1}, 1, 2, 4));
  check_program(GibbsScene(1, 9, 4, 6, {8, -3, -1, 0}, 0, 1, 2));
  check_program(GibbsScene(3, 2, 3, 4, {}, 0, 0, 1));
}

TEST(gibbs_sweeps_of_a_warp_of_lanes_equal_those_of_the_cpu_engine) {
  set_lanes(32);
  for (const int labels : {3, 21, 40}) {
    const GibbsScene scene(1, 3, 4, labels, {0, 1, 1, 0}, 1, 1, 2);
    CHECK(run_program(scene) == scene.run(1));
  }
  set_lanes(1);
}
