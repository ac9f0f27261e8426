// The inner loop of the Gibbs sweep, called by cpu/gibbs.cpp: it draws the pixels of one colour in
// a range of rows. It is compiled once per instruction set, without fused multiply-adds, so that
// results are bit-identical on all of them.
#pragma once

#include "../../core/gibbs.hpp"

namespace dcrf {

// The columns of one colour in a row: first, first + step, ... ; none if step is 0.
struct GibbsStripe {
  std::int64_t first = 0, step = 0;
};

// Arguments of the inner loop for one image, colour and sweep.
struct GibbsPass {
  Neighbours neighbours;           // width is a multiple of kGibbsLanes, or kGibbsLanes / 2
  const float* columns = nullptr;  // [2 C, L, kGibbsLanes], the same tables with the neighbour's
                                   // label last; null if L + 1 labels do not fit into a vector
  const float* logits = nullptr;   // [H, W, neighbours.width]; -infinity from label L on
  Label* labels = nullptr;         // label of the first pixel in the padded image
  std::int64_t stride = 0;         // length of a row of the padded image, in elements
  std::int64_t width = 0;          // W
  const GibbsStripe* stripes = nullptr;  // [m], indexed by row mod m
  int m = 1;
  double* marginals = nullptr;  // [H, W, L], to which the conditionals are added; may be null
  std::uint64_t seed = 0, chain = 0;
  std::uint32_t sweep = 0;
  float beta = 1;   // inverse temperature; infinity takes the most probable label
  float scale = 1;  // integer weight of the most probable label: weight_scale(L)
};

constexpr int kGibbsLanes = 8;  // labels per vector; up to 4 labels use half a vector

// The inner loop for one instruction set.
struct GibbsLoops {
  // Draw the labels of a range of rows and return how many changed. `scores` and `weights` are
  // scratch of neighbours.width elements.
  std::int64_t (*rows)(const GibbsPass& pass, std::int64_t begin, std::int64_t end, float* scores,
                       std::uint32_t* weights);
};

// Return the loops compiled for this processor's instruction set.
const GibbsLoops& gibbs_loops();

}  // namespace dcrf
