// The program of the Gibbs sweep, launched by gibbs.cu. Colours are drawn one after another, with a
// barrier between them; a group of lanes draws each pixel. The arithmetic is that of
// core/gibbs.hpp, so the labels are bit-identical to those of the CPU engine.
#pragma once

#include "../core/gibbs.hpp"
#include "../core/philox.hpp"
#include "engine.hpp"
#include "world.hpp"

namespace dcrf {
namespace cuda {

struct GibbsSweep {
  GibbsBatch batch;
  Label* padded = nullptr;  // [B, batch.padded_size], padded images of labels
  float* scores = nullptr;  // [groups of lanes, L], scratch for scores, then for weights
  int lane_count = 1;       // threads per pixel
  float scale = 1;          // weight_scale(L)

  DCRF_DEVICE void operator()(World& world) const {
    const Lanes lanes(world, lane_count);
    const std::int64_t pixels = batch.height * batch.width;
    const Label masked = Label(batch.neighbours.labels);
    for_each(world, batch.images * batch.padded_size, [&](std::int64_t i) { padded[i] = masked; });
    for_each(world, batch.images * batch.sweeps, [&](std::int64_t i) { batch.changes[i] = 0; });
    world.sync();
    for_each(world, batch.images * pixels, [&](std::int64_t p) {
      if (batch.labels[p] >= 0) *here(p / pixels, p % pixels) = Label(batch.labels[p]);
    });
    world.sync();
    const std::int64_t per_row = (batch.width + batch.step - 1) / batch.step;
    for (int sweep = 0; sweep < batch.sweeps; ++sweep) {
      for (int colour = 0; colour < batch.colours; ++colour) {
        for_items(world, lanes, batch.images * batch.height * per_row, [&](std::int64_t item) {
          const std::int64_t row = item / per_row % batch.height;
          const int first = batch.first[colour * batch.colours + int(row % batch.colours)];
          const std::int64_t x = first + item % per_row * batch.step;
          if (first >= 0 && x < batch.width)
            draw(world, lanes, item / per_row / batch.height, row * batch.width + x, sweep);
        });
        world.sync();
      }
    }
    for_each(world, batch.images * pixels, [&](std::int64_t p) {
      if (batch.labels[p] >= 0) batch.labels[p] = *here(p / pixels, p % pixels);
    });
  }

 private:
  // Return a pointer to the label of a pixel in its padded image.
  DCRF_DEVICE Label* here(std::int64_t image, std::int64_t pixel) const {
    return padded + image * batch.padded_size + batch.padded_first +
           pixel / batch.width * batch.padded_stride + pixel % batch.width;
  }

  // Draw one pixel by a group of lanes. Each lane handles a range of labels, in the order of ranks.
  DCRF_DEVICE void draw(const World& world, const Lanes& lanes, std::int64_t image,
                        std::int64_t pixel, int sweep) const {
    const Neighbours& of = batch.neighbours;
    Label* const own = here(image, pixel);
    const Label before = *own;
    if (before == Label(of.labels)) return;
    const int share = (of.labels + lanes.size() - 1) / lanes.size();
    const int begin = lanes.rank() * share;
    const int end = begin + share < of.labels ? begin + share : of.labels;
    float* const score_of = scores + world.rank() / lanes.size() * of.labels;
    const float* const logits =
        batch.logits + (image * batch.height * batch.width + pixel) * of.labels;
    float greatest = -FLT_MAX;
    for (int l = begin; l < end; ++l) {
      const float found = score(of, logits[l], own, l);
      score_of[l] = found;
      greatest = found > greatest ? found : greatest;
    }
    greatest = lanes.greatest(greatest);
    const float beta = batch.inverse_temperature[sweep];
    const bool greedy = is_greedy(beta);
    int lowest = of.labels;  // lowest of the most probable labels
    std::uint32_t sum = 0;
    for (int l = begin; l < end; ++l) {
      if (greedy) {
        if (score_of[l] == greatest && l < lowest) lowest = l;
        continue;
      }
      const std::uint32_t w = weight(score_of[l], greatest, beta, scale);
      score_of[l] = float(w);  // exact: w is at most 2^kWeightBits
      sum += w;
    }
    int drawn = -1;
    std::uint32_t total = 1;
    if (greedy) {
      drawn = -lanes.greatest(-lowest);
      for (int l = begin; l < end; ++l) score_of[l] = l == drawn;
    } else {
      std::uint32_t below = lanes.before(sum, total);
      const auto number = std::uint32_t(batch.first_sweep[image] + std::uint64_t(sweep));
      const std::uint32_t at = threshold(
          random_word(batch.seed, batch.chain[image], number, std::uint32_t(pixel)), total);
      for (int l = begin; l < end; ++l) {
        const std::uint32_t next = below + std::uint32_t(score_of[l]);
        if (below <= at && at < next) drawn = l;
        below = next;
      }
      drawn = lanes.greatest(drawn);
    }
    if (batch.marginals != nullptr) {
      const double each = 1.0 / double(total);
      double* const to = batch.marginals + (image * batch.height * batch.width + pixel) * of.labels;
      for (int l = begin; l < end; ++l) to[l] += double(score_of[l]) * each;
    }
    if (lanes.rank() == 0) {
      *own = Label(drawn);
      if (Label(drawn) != before) add(&batch.changes[image * batch.sweeps + sweep], 1);
    }
  }
};

}  // namespace cuda
}  // namespace dcrf
