// The hot loop of the Gibbs sweep: pixels of one colour in one row. Compiled without fused
// multiply-adds for every instruction set, so that all give the same bits.
#pragma once

#include "../../core/gibbs.hpp"

namespace dcrf {

// One image in one sweep, as the loop sees it.
struct GibbsRow {
  Neighbours neighbours;          // width: a multiple of kGibbsLanes, as that of the logits
  const float* logits = nullptr;  // [W, width] of this row; -infinity beyond the labels
  Label* labels = nullptr;        // of this row, with the margin around
  double* marginals = nullptr;    // [W, L], added to; null: not wanted
  std::uint64_t seed = 0, chain = 0;
  std::uint32_t sweep = 0;
  std::uint32_t first_pixel = 0;  // number of the row's first pixel
  float beta = 1;                 // inverse temperature; infinity: the likeliest label
  float scale = 1;
};

constexpr int kGibbsLanes = 8;  // labels in one vector; rows of up to 4 labels have half of one

struct GibbsLoops {
  // Draws the labels of the pixels begin, begin + step, ... below `end`; how many changed.
  // Scratch: scores [width], weights [2, width].
  std::int64_t (*row)(const GibbsRow& row, std::int64_t begin, std::int64_t end, std::int64_t step,
                      float* scores, std::uint32_t* weights);
};

// The table for this processor.
const GibbsLoops& gibbs_loops();

}  // namespace dcrf
