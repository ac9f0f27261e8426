// Random batches of grid CRFs that own their arrays, and a serial sweep to compare with: one pixel
// after another, with the scalar functions of core/gibbs.hpp.
#pragma once

#include <limits>
#include <vector>

#include "../core/gibbs.hpp"
#include "../core/philox.hpp"
#include "../cpu/gibbs.hpp"
#include "check.hpp"

namespace tests {

struct GibbsScene {
  std::vector<float> logits, tables;
  std::vector<std::int32_t> labels, offsets;
  std::vector<std::uint64_t> chain, first_sweep;
  std::vector<float> inverse_temperature{1.0f, 0.4f, std::numeric_limits<float>::infinity()};
  dcrf::GibbsBatch batch;

  // Create a random batch; about a fifth of the pixels are masked out.
  GibbsScene(std::int64_t images, std::int64_t height, std::int64_t width, int count,
             std::vector<std::int32_t> vectors, int a, int b, int m)
      : offsets(std::move(vectors)) {
    const std::int64_t pixels = images * height * width, classes = std::int64_t(offsets.size()) / 2;
    logits = random_numbers<float>(pixels * count, 3.0, unsigned(count));
    tables = random_numbers<float>(classes * count * count, 1.0, unsigned(count) + 1);
    for (const float x : random_numbers<float>(pixels, 1.0, unsigned(count) + 2))
      labels.push_back(x < -1 ? -1 : std::int32_t(x * x * 1000) % count);
    for (std::int64_t image = 0; image < images; ++image) {
      chain.push_back((std::uint64_t(1) << 33) + std::uint64_t(image));
      first_sweep.push_back(std::uint64_t(7 * image));
    }
    batch.images = images;
    batch.height = height;
    batch.width = width;
    batch.labels = count;
    batch.classes = int(classes);
    batch.a = a;
    batch.b = b;
    batch.m = m;
    batch.seed = 0x123456789abcdef;
    batch.sweeps = int(inverse_temperature.size());
    batch.logits = logits.data();
    batch.tables = tables.data();
    batch.offsets = offsets.data();
    batch.chain = chain.data();
    batch.first_sweep = first_sweep.data();
    batch.inverse_temperature = inverse_temperature.data();
  }
  GibbsScene(const GibbsScene&) = delete;

  struct Result {
    std::vector<std::int32_t> labels;
    std::vector<double> marginals;
    std::vector<std::int64_t> changes;
    bool operator==(const Result& other) const {
      return labels == other.labels && marginals == other.marginals && changes == other.changes;
    }
  };

  Result empty() const {
    return {labels, std::vector<double>(logits.size()),
            std::vector<std::int64_t>(batch.images * batch.sweeps, -1)};
  }

  Result run(int threads) const {
    Result out = empty();
    dcrf::gibbs_sweep(batch, out.labels.data(), out.marginals.data(), out.changes.data(), threads);
    return out;
  }

  // Draw one colour after another, the pixels of each colour in raster order or in the reverse
  // order.
  Result run_serially(bool backwards) const {
    Result out = empty();
    const std::int64_t pixels = batch.height * batch.width;
    for (std::int64_t image = 0; image < batch.images; ++image) {
      for (int sweep = 0; sweep < batch.sweeps; ++sweep) {
        std::int64_t& changed = out.changes[image * batch.sweeps + sweep] = 0;
        for (int colour = 0; colour < batch.m; ++colour) {
          for (std::int64_t i = 0; i < pixels; ++i) {
            const std::int64_t pixel = backwards ? pixels - 1 - i : i;
            const std::int64_t row = pixel / batch.width, column = pixel % batch.width;
            if ((batch.a * column + batch.b * row) % batch.m == colour)
              changed += draw(image, sweep, row, column, out);
          }
        }
      }
    }
    return out;
  }

 private:
  std::int32_t at(const Result& out, std::int64_t image, std::int64_t row,
                  std::int64_t column) const {
    if (row < 0 || row >= batch.height || column < 0 || column >= batch.width) return -1;
    return out.labels[(image * batch.height + row) * batch.width + column];
  }

  bool draw(std::int64_t image, int sweep, std::int64_t row, std::int64_t column,
            Result& out) const {
    const std::int64_t pixels = batch.height * batch.width, pixel = row * batch.width + column;
    const int count = batch.labels;
    std::int32_t& label = out.labels[image * pixels + pixel];
    if (label < 0) return false;
    std::vector<float> scores(count);
    float greatest = -std::numeric_limits<float>::infinity();
    for (int l = 0; l < count; ++l) {
      float outward = logits[(image * count + l) * pixels + pixel], inward = 0;
      for (int c = 0; c < batch.classes; ++c) {
        const std::int64_t down = offsets[2 * c], right = offsets[2 * c + 1];
        const float* const table = tables.data() + std::int64_t(c) * count * count;
        const std::int32_t ahead = at(out, image, row + down, column + right);
        const std::int32_t behind = at(out, image, row - down, column - right);
        if (ahead >= 0) outward += table[l * count + ahead];
        if (behind >= 0) inward += table[behind * count + l];
      }
      scores[l] = outward + inward;
      if (scores[l] > greatest) greatest = scores[l];
    }
    const float beta = inverse_temperature[sweep];
    std::vector<std::uint32_t> weights(count);
    std::uint32_t total = 0;
    for (int l = 0; l < count; ++l) {
      weights[l] = dcrf::is_greedy(beta)
                       ? total == 0 && scores[l] == greatest
                       : dcrf::weight(scores[l], greatest, beta, dcrf::weight_scale(count));
      total += weights[l];
    }
    const std::uint32_t word = dcrf::random_word(
        batch.seed, chain[image], std::uint32_t(first_sweep[image]) + std::uint32_t(sweep),
        std::uint32_t(pixel));
    const std::uint32_t where = dcrf::threshold(word, total);
    std::int32_t drawn = 0;
    for (std::uint32_t below = weights[0]; below <= where; below += weights[drawn]) ++drawn;
    for (int l = 0; l < count; ++l) {
      out.marginals[(image * pixels + pixel) * count + l] +=
          double(weights[l]) * (1.0 / double(total));
    }
    const bool changed = drawn != label;
    label = drawn;
    return changed;
  }
};

}  // namespace tests
