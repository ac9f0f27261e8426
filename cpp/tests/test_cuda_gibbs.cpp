// Tests that the Gibbs program on the serial launcher draws the same labels as the CPU engine.
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
  cuda::GibbsBatch batch;
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
  batch.neighbours = {of.classes, count, count, rows.data(), steps.data()};

  std::vector<float> logits(scene.logits.size());
  for (std::int64_t image = 0; image < of.images; ++image) {
    for (int l = 0; l < count; ++l) {
      for (std::int64_t p = 0; p < pixels; ++p)
        logits[(image * pixels + p) * count + l] = of.logits[(image * count + l) * pixels + p];
    }
  }
  batch.logits = logits.data();
  while ((batch.step * of.a) % of.m != 0) ++batch.step;
  batch.colours = of.m;
  std::vector<std::int32_t> first(of.m * of.m, -1);
  for (int row = 0; row < of.m; ++row) {
    for (int x = 0; x < batch.step; ++x) first[(of.a * x + of.b * row) % of.m * of.m + row] = x;
  }
  batch.first = first.data();
  batch.seed = of.seed;
  batch.chain = of.chain;
  batch.first_sweep = of.first_sweep;
  batch.sweeps = of.sweeps;
  batch.inverse_temperature = of.inverse_temperature;

  GibbsScene::Result out = scene.empty();
  batch.labels = out.labels.data();
  batch.marginals = out.marginals.data();
  batch.changes = out.changes.data();
  auto workspace = unwritten<char>(std::int64_t(cuda::gibbs_workspace(batch)));
  cuda::gibbs_sweep(batch, workspace.data(), kStream);
  return out;
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
