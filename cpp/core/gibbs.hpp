// The Gibbs conditional (the distribution of one pixel's label given its neighbours' labels) of a
// grid CRF. All engines compute it bit-identically: scores in float32 in a fixed order of
// operations, without fused multiply-adds; probabilities as unnormalised integer weights, whose sum
// does not depend on the order. densecrf_rnn/reference/gibbs.py defines it.
#pragma once

#include <cfloat>
#include <cstdint>

#include "softmax.hpp"

namespace dcrf {

// Edge classes and their tables. Class c joins every pixel to the pixel at the offset of the class,
// with the potentials psi_c. The image of labels is padded: pixels outside the image or the mask
// have the extra label L, whose table rows are 0, so that borders and masks need no branch.
struct Neighbours {
  int classes = 0, labels = 0;  // C, L
  int width = 0;                // stride of the table rows in elements, at least L
  // [2 C, L + 1, width], indexed by edge class and the neighbour's label l: C tables psi_c(., l)
  // for the neighbour at +offset, then C tables psi_c(l, .) for the one at -offset.
  const float* rows = nullptr;
  const std::int64_t* step = nullptr;  // [C], the offsets as steps in the padded image of labels

  DCRF_HOST_DEVICE inline const float* row(int index, int label) const {
    return rows + (std::int64_t(index) * (labels + 1) + label) * width;
  }
};

using Label = std::uint16_t;

// Return the score of one label at a pixel: its logit plus the potentials of the pixel's edges;
// `here` points to the pixel's label in the padded image.
DCRF_HOST_DEVICE inline float score(const Neighbours& of, float logit, const Label* here,
                                    int label) {
  float outward = logit, inward = 0;
  for (int c = 0; c < of.classes; ++c) {
    outward += of.row(c, here[of.step[c]])[label];
    inward += of.row(of.classes + c, here[-of.step[c]])[label];
  }
  return outward + inward;
}

constexpr int kWeightBits = 24;  // log2 of the maximum weight, which a float32 represents exactly

// Return the weight of the most probable label: 2^kWeightBits, or less with more than 255 labels so
// that the sum of all weights stays below 2^32.
DCRF_HOST_DEVICE inline float weight_scale(int labels) {
  int length = 0;
  while (labels >> length != 0) ++length;
  const int room = 32 - length;
  return float(std::uint32_t(1) << (room < kWeightBits ? room : kWeightBits));
}

// Return whether the inverse temperature is infinite, so that sweeps take the most probable label
// (ICM).
DCRF_HOST_DEVICE inline bool is_greedy(float beta) { return beta > FLT_MAX; }

// Map a random word to 0..total - 1. The drawn label is the first whose cumulative weight is larger
// than the result.
DCRF_HOST_DEVICE inline std::uint32_t threshold(std::uint32_t word, std::uint32_t total) {
  return std::uint32_t((std::uint64_t(word) * total) >> 32);
}

// Return the integer weight of a label, rounded towards 0; `greatest` is the largest score.
DCRF_HOST_DEVICE inline std::uint32_t weight(float score, float greatest, float beta, float scale) {
  return std::uint32_t(exponential((score - greatest) * beta) * scale);
}

}  // namespace dcrf
