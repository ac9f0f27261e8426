// Gibbs sweeps of a batch of images, colour by colour, and the statistics of labellings.
#pragma once

#include <cstdint>

namespace dcrf {

// A batch of grid CRFs that share tables and edge classes. A label below 0 marks a pixel that takes
// no part.
struct GibbsBatch {
  std::int64_t images = 0, height = 0, width = 0;
  int labels = 0, classes = 0;
  const float* logits = nullptr;          // [B, L, H, W]
  const float* tables = nullptr;          // [C, L, L]
  const std::int32_t* offsets = nullptr;  // [C, 2], rows and columns
  int a = 0, b = 0, m = 1;                // the colour of a pixel is (a column + b row) mod m
  std::uint64_t seed = 0;
  const std::uint64_t* chain = nullptr;        // [B]
  const std::uint64_t* first_sweep = nullptr;  // [B], the number of the first sweep of each
  int sweeps = 0;
  const float* inverse_temperature = nullptr;  // [sweeps]; infinity: the likeliest label
};

// Draws every pixel `sweeps` times: labels [B, H, W], changed in place. The conditionals that they
// were drawn from are added to marginals [B, H, W, L], if not null; changes [B, sweeps] receives
// how many labels changed.
void gibbs_sweep(const GibbsBatch& batch, std::int32_t* labels, double* marginals,
                 std::int64_t* changes, int threads);

// Adds to counts [C, L, L] how often each pair of labels stands at the ends of an edge.
void gibbs_statistics(const GibbsBatch& batch, const std::int32_t* labels, std::int64_t* counts,
                      int threads);

}  // namespace dcrf
