// Find the simplex of the permutohedral lattice that encloses a point, the barycentric weights of
// the point [Adams10, section 3] and their gradient. Used by the CPU and the CUDA engine. The order
// of operations and both tie rules are part of the numerics that all engines share
// (docs/architecture.md); densecrf_rnn/reference/lattice.py repeats them line by line.
#pragma once

#include <cstdint>

#include "numerics.hpp"

namespace dcrf {

// Round to the nearest integer, ties to even, for |x| < 2^21 (double: 2^50): adding `magic` rounds,
// since the spacing of T is 1 there. Unlike a call of rint, two additions vectorise.
template <typename T>
DCRF_HOST_DEVICE inline T round_to_even(T x) {
  constexpr T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^23, 2^52
  return (x + magic) - magic;
}

// The simplex of one point. The coordinates of its vertex k (0 <= k <= d) are
// (d+1) (quotient_j - [rank_j > d-k]) + k, j = 0..d, so k is also the remainder of vertex k.
template <typename T>
struct Simplex {
  std::int32_t quotient[kMaxDims + 1];  // [d+1]
  std::int32_t rank[kMaxDims + 1];      // [d+1], a permutation of 0..d
  T weight[kMaxDims + 1];  // [d+1], barycentric weights of the vertices; their sum is 1
};

// Set a point to 0 if it is not finite or so far away that the integers of locate() would overflow.
// Such features are refused, but a GPU learns of them only after it has located them; and whoever
// owns the features may write into them after their check, as between forward and backward pass.
template <typename T>
DCRF_HOST_DEVICE inline void keep_within_reach(T* feature, const T* scale, int d) {
  // Above the bound of quotient_range(), which is computed in double precision.
  constexpr T kMaxReach = T(1.25 * kMaxElevated<T>);
  T reach = 0;
  for (int i = 0; i < d; ++i) {
    const T elevated = feature[i] * scale[i] * T(i + 1);
    reach += elevated < 0 ? -elevated : elevated;
  }
  if (!(reach <= kMaxReach)) {  // also for NaN
    for (int i = 0; i < d; ++i) feature[i] = 0;
  }
}

// Find the simplex of the point `feature` [d]; `scale` [d] holds elevation_scale of each feature.
// d is `Dims` if known at compile time; otherwise `Dims` is 0 and d is `runtime_dims`.
template <typename T, int Dims>
DCRF_HOST_DEVICE inline void locate(const T* feature, const T* scale, int runtime_dims,
                                    Simplex<T>& out) {
  const int d = Dims > 0 ? Dims : runtime_dims;
  const T up = T(d + 1);
  const T down = T(1) / up;

  T elevated[kMaxDims + 1];  // d+1 coordinates of the point, which sum to 0
  T sum = 0;
  for (int j = d; j > 0; --j) {
    const T scaled = feature[j - 1] * scale[j - 1];
    elevated[j] = sum - T(j) * scaled;
    sum += scaled;
  }
  elevated[0] = sum;

  std::int32_t excess = 0;  // sum of the rounded coordinates, in units of d+1
  T delta[kMaxDims + 1];
  for (int j = 0; j <= d; ++j) {
    const T rounded = round_to_even(elevated[j] * down);
    out.quotient[j] = std::int32_t(rounded);
    delta[j] = elevated[j] - rounded * up;
    excess += out.quotient[j];
    out.rank[j] = 0;
  }
  for (int i = 0; i < d; ++i) {
    for (int j = i + 1; j <= d; ++j) {
      const bool below = delta[i] < delta[j];  // ties: the lower axis gets the lower rank
      out.rank[i] += below;
      out.rank[j] += !below;
    }
  }
  T sorted[kMaxDims + 1] = {};  // deltas in units of d+1, sorted by rank
  for (int j = 0; j <= d; ++j) {
    std::int32_t rank = out.rank[j] + excess;
    T shift = 0;
    if (rank < 0) {
      rank += d + 1;
      out.quotient[j] += 1;
      shift = -up;
    } else if (rank > d) {
      rank -= d + 1;
      out.quotient[j] -= 1;
      shift = up;
    }
    out.rank[j] = rank;
    sorted[rank] = (delta[j] + shift) * down;
  }
  out.weight[0] = T(1) + (sorted[d] - sorted[0]);
  for (int k = 1; k <= d; ++k) out.weight[k] = sorted[d - k] - sorted[d - k + 1];
}

// Backpropagate through the barycentric weights of one point: d_weight [d+1] -> d_feature [d]. The
// weights are not differentiable on simplex faces; there, the simplex that `locate` chose is used.
template <typename T>
DCRF_HOST_DEVICE inline void weight_gradient(const std::int32_t* rank, const T* scale, int d,
                                             const T* d_weight, T* d_feature) {
  const T down = T(1) / T(d + 1);
  T d_elevated_sum = 0;  // sum over axes 0..j-1
  for (int j = 0; j <= d; ++j) {
    // The delta of rank r enters weight[d-r] with factor +1 and weight[d-r+1] with -1.
    const int rise = d - rank[j], fall = rise == d ? 0 : rise + 1;
    const T d_elevated = (d_weight[rise] - d_weight[fall]) * down;
    if (j > 0) d_feature[j - 1] = scale[j - 1] * (d_elevated_sum - T(j) * d_elevated);
    d_elevated_sum += d_elevated;
  }
}

}  // namespace dcrf
