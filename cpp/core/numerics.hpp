// Constants of the lattice filter and of row layouts. Those shared with Python are defined in
// densecrf_rnn/_limits.py; those that follow from them are derived here, for all C++ engines.
#pragma once

#include <cmath>

#include <generated/limits.hpp>  // written by CMake from densecrf_rnn/_limits.py
#include "portable.hpp"

namespace dcrf {

// Return the scale of feature `i` (counted from 0) that makes splat, blur and slice together a
// Gaussian of unit standard deviation in every feature: sqrt(2/3) (d+1) / sqrt((i+1)(i+2)). The
// first factor, sqrt(2/3) (d+1), is rounded to T before the division, as in pydensecrf, so that
// points on faces of simplices get the same simplex as there.
template <typename T>
DCRF_HOST_DEVICE inline T elevation_scale(int dims, int i) {
  const T common = T(std::sqrt(kFilterVariance) * (dims + 1));
  return T(double(common) / std::sqrt(double(i + 1) * double(i + 2)));
}

// Return the factor of the sliced values, 1 / (1 + 2^-d), which normalises the weight that the blur
// gives to a vertex's own value. That weight is 1 plus kBlurSide^(d+1) for each of two closed
// paths: one step forward along every axis, or one step backward along every axis.
template <typename T>
DCRF_HOST_DEVICE inline T slice_scale(int dims) {
  T loop = 1;
  for (int axis = 0; axis <= dims; ++axis) loop *= T(kBlurSide);
  return T(1) / (T(1) + T(2) * loop);
}

// Maximum |coordinate| of an elevated point that engines accept.
template <typename T>
constexpr double kMaxElevated = sizeof(T) == 4 ? kMaxElevatedFloat32 : kMaxElevatedFloat64;

// Return the width to which rows of L label values are padded with zeros (row_width in
// engines/contract.py).
DCRF_HOST_DEVICE inline int row_width(int labels) {
  const int step = labels <= kNarrowLabels ? kNarrowStep : kWideStep;
  return (labels + step - 1) / step * step;
}

}  // namespace dcrf
