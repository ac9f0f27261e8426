// Gibbs sweeps of grid CRFs on CPUs, and counts of label pairs; called by the bindings. Pixels of
// one colour are not neighbours, so each sweep draws the colours one after another and the pixels
// of a colour in parallel.
#pragma once

#include <cstdint>

namespace dcrf {

// A batch of grid CRFs that share tables and edge classes. Masked-out pixels have negative labels.
struct GibbsBatch {
  std::int64_t images = 0, height = 0, width = 0;
  int labels = 0, classes = 0;
  const float* logits = nullptr;          // [B, L, H, W]
  const float* tables = nullptr;          // [C, L, L]
  const std::int32_t* offsets = nullptr;  // [C, 2], rows and columns
  int a = 0, b = 0, m = 1;                // a pixel's colour is (a column + b row) mod m
  std::uint64_t seed = 0;
  const std::uint64_t* chain = nullptr;        // [B]
  const std::uint64_t* first_sweep = nullptr;  // [B], number of the first sweep of each chain
  int sweeps = 0;
  const float* inverse_temperature = nullptr;  // [sweeps]; infinity takes the most probable label
};

// Draw every pixel `sweeps` times, updating labels [B, H, W] in place. Add the conditionals that
// the labels were drawn from to marginals [B, H, W, L], if not null, and write the number of labels
// that each sweep changed to changes [B, sweeps].
void gibbs_sweep(const GibbsBatch& batch, std::int32_t* labels, double* marginals,
                 std::int64_t* changes, int threads);

// Add to counts [C, L, L] the number of edges of each class by the labels of their two pixels.
void gibbs_statistics(const GibbsBatch& batch, const std::int32_t* labels, std::int64_t* counts,
                      int threads);

}  // namespace dcrf
