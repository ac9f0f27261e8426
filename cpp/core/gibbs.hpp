// One Gibbs conditional of a grid CRF, as every engine computes it to the bit: scores in float32 in
// one order of operations (so without fused multiply-adds), weights and their sums in whole
// numbers. densecrf_rnn/reference/gibbs.py is its definition.
#pragma once

#include <cstdint>

#include "softmax.hpp"

namespace dcrf {

// What a pixel's conditional is made of. Labels lie in an image with a margin of "nothing", the
// label L, whose row in every table is 0: so neither borders nor masks need a branch.
struct Neighbours {
  int classes = 0, labels = 0;
  int width = 0;  // numbers from one row of a table to the next, at least L
  // [2 C, L + 1, width]: rows of edges that begin at the pixel, psi_c(., l), then of those that end
  // there, psi_c(l, .).
  const float* rows = nullptr;
  const std::int64_t* step = nullptr;  // [C], from a pixel to its neighbour, with the margin

  DCRF_HOST_DEVICE inline const float* row(int index, int label) const {
    return rows + (std::int64_t(index) * (labels + 1) + label) * width;
  }
};

using Label = std::uint16_t;

// The score of one label of the pixel at `here`.
DCRF_HOST_DEVICE inline float score(const Neighbours& of, float logit, const Label* here,
                                    int label) {
  float outward = logit, inward = 0;
  for (int c = 0; c < of.classes; ++c) {
    outward += of.row(c, here[of.step[c]])[label];
    inward += of.row(of.classes + c, here[-of.step[c]])[label];
  }
  return outward + inward;
}

// The weight of the likeliest label: so large that the weights of all sum to below 2^32.
DCRF_HOST_DEVICE inline float weight_scale(int labels) {
  int length = 0;
  while (labels >> length != 0) ++length;
  return float(std::uint32_t(1) << (length <= 8 ? 24 : 32 - length));
}

// What the random word falls on: between 0 and the sum of the weights.
DCRF_HOST_DEVICE inline std::uint32_t threshold(std::uint32_t word, std::uint32_t total) {
  return std::uint32_t((std::uint64_t(word) * total) >> 32);
}

DCRF_HOST_DEVICE inline std::uint32_t weight(float score, float greatest, float beta, float scale) {
  return std::uint32_t(exponential((score - greatest) * beta) * scale);
}

}  // namespace dcrf
