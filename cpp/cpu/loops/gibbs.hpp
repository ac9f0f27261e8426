// The hot loop of the Gibbs sweep: pixels of one colour in some rows. Compiled without fused
// multiply-adds for every instruction set, so that all give the same bits.
#pragma once

#include "../../core/gibbs.hpp"

namespace dcrf {

// The pixels of one colour in a row: first, first + step, ... ; none if step is 0.
struct GibbsStripe {
  std::int64_t first = 0, step = 0;
};

// One image, one colour, one sweep, as the loop sees them.
struct GibbsPass {
  Neighbours neighbours;                 // width: a multiple of kGibbsLanes, as that of the logits
  const float* columns = nullptr;        // [2 C, L, kGibbsLanes]: of the same tables, the columns,
                                         // if a column fits
  const float* logits = nullptr;         // [H, W, width]; -infinity beyond the labels
  Label* labels = nullptr;               // of the first pixel, with the margin around
  std::int64_t stride = 0;               // from a row of labels to the next
  std::int64_t width = 0;                // W
  const GibbsStripe* stripes = nullptr;  // [m], of the rows from the first on; then again
  int m = 1;
  double* marginals = nullptr;  // [H, W, L], added to; null: not wanted
  std::uint64_t seed = 0, chain = 0;
  std::uint32_t sweep = 0;
  float beta = 1;  // inverse temperature; infinity: the likeliest label
  float scale = 1;
};

constexpr int kGibbsLanes = 8;  // labels in one vector; rows of up to 4 labels have half of one

struct GibbsLoops {
  // Draws the labels of a range of rows; how many changed. Scratch: scores [width], weights
  // [width].
  std::int64_t (*rows)(const GibbsPass& pass, std::int64_t begin, std::int64_t end, float* scores,
                       std::uint32_t* weights);
};

// The table for this processor.
const GibbsLoops& gibbs_loops();

}  // namespace dcrf
