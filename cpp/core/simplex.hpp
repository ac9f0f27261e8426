// Where a point lies in the permutohedral lattice: its enclosing simplex and its barycentric
// weights [Adams10, section 3]. Per-element maths only; knows nothing of tables, loops or threads.
// The order of operations and both tie rules are part of the numerics that all engines share
// (docs/architecture.md), so densecrf_rnn/reference/lattice.py repeats them line by line.
#pragma once

#include <cmath>
#include <cstdint>

#include "portable.hpp"

namespace dcrf {

constexpr int kMaxDims = 16;

// Scale of feature `i` (counted from 0) that makes splat + blur + slice a Gaussian of unit
// deviation in every feature: sqrt(2/3) (d+1) / sqrt((i+1)(i+2)). The first factor is rounded to T
// by itself, as in pydensecrf: points on faces of simplices then fall to the side they do there.
template <typename T>
DCRF_HOST_DEVICE inline T elevation_scale(int dims, int i) {
  const T common = T(std::sqrt(2.0 / 3.0) * (dims + 1));
  return T(double(common) / std::sqrt(double(i + 1) * double(i + 2)));
}

// The nearest whole number, ties to even, for |x| below 2^21 (double: 2^50): at `magic` the numbers
// of T lie 1 apart. Compiles to two additions where a call of rint would stop vector code.
template <typename T>
DCRF_HOST_DEVICE inline T round_to_even(T x) {
  constexpr T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^23, 2^52
  return (x + magic) - magic;
}

// The simplex of one point. Its vertex k (0 <= k <= d) has the coordinates
// (d+1) (quotient_j - [rank_j > d-k]) + k, j = 0..d, so k is also the remainder of vertex k.
template <typename T>
struct Simplex {
  std::int32_t quotient[kMaxDims + 1];
  std::int32_t rank[kMaxDims + 1];  // a permutation of 0..d
  T weight[kMaxDims + 1];           // barycentric; sums to 1
};

// `Dims` is the number of features when known at compile time, else 0 and `runtime_dims` counts.
template <typename T, int Dims>
DCRF_HOST_DEVICE inline void locate(const T* feature, const T* scale, int runtime_dims,
                                    Simplex<T>& out) {
  const int d = Dims > 0 ? Dims : runtime_dims;
  const T up = T(d + 1);
  const T down = T(1) / up;

  T elevated[kMaxDims + 1];  // on the plane sum = 0
  T sum = 0;
  for (int j = d; j > 0; --j) {
    const T scaled = feature[j - 1] * scale[j - 1];
    elevated[j] = sum - T(j) * scaled;
    sum += scaled;
  }
  elevated[0] = sum;

  std::int32_t excess = 0;  // of the rounded point over the plane, in units of d+1
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
      const bool below = delta[i] < delta[j];  // ties: the lower axis ranks first
      out.rank[i] += below;
      out.rank[j] += !below;
    }
  }
  T sorted[kMaxDims + 1] = {};  // deltas in units of d+1, by rank
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

// The derivative of the weights: from d_weight [d+1] of one point to d_feature [d], given its
// ranks. Defined away from simplex faces; on a face it is that of the simplex which `locate` chose.
template <typename T>
DCRF_HOST_DEVICE inline void weight_gradient(const std::int32_t* rank, const T* scale, int d,
                                             const T* d_weight, T* d_feature) {
  const T down = T(1) / T(d + 1);
  T d_elevated_sum = 0;  // over the axes below j
  for (int j = 0; j <= d; ++j) {
    // weight[d-r] rises with the delta of rank r, weight[d-r+1] falls.
    const int rise = d - rank[j], fall = rise == d ? 0 : rise + 1;
    const T d_elevated = (d_weight[rise] - d_weight[fall]) * down;
    if (j > 0) d_feature[j - 1] = scale[j - 1] * (d_elevated_sum - T(j) * d_elevated);
    d_elevated_sum += d_elevated;
  }
}

}  // namespace dcrf
