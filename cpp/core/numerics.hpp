// The constants of the lattice filter. What must agree with Python comes from
// densecrf_rnn/_limits.py; what follows from it is derived here, once for all engines.
#pragma once

#include <cmath>

#include <generated/limits.hpp>  // written by CMake from densecrf_rnn/_limits.py
#include "portable.hpp"

namespace dcrf {

// Scale of feature `i` (counted from 0) that makes splat, blur and slice together a Gaussian of
// unit standard deviation in every feature: sqrt(2/3) (d+1) / sqrt((i+1)(i+2)). The first factor is
// rounded to T by itself, as in pydensecrf: points on faces of simplices then fall to the side they
// do there.
template <typename T>
DCRF_HOST_DEVICE inline T elevation_scale(int dims, int i) {
  const T common = T(std::sqrt(kFilterVariance) * (dims + 1));
  return T(double(common) / std::sqrt(double(i + 1) * double(i + 2)));
}

// Factor of the sliced values, 1 / (1 + 2^-d). A step along every axis in the same direction leads
// back to a vertex, so the blur returns to it 1 of its own value, and side^(d+1) each way round.
template <typename T>
DCRF_HOST_DEVICE inline T slice_scale(int dims) {
  T loop = 1;
  for (int axis = 0; axis <= dims; ++axis) loop *= T(kBlurSide);
  return T(1) / (T(1) + T(2) * loop);
}

// Maximum |coordinate| of an elevated point that engines accept.
template <typename T>
constexpr double kMaxElevated = sizeof(T) == 4 ? kMaxElevatedFloat32 : kMaxElevatedFloat64;

// Rows of L label values are padded with zeros to this width (row_width in engines/contract.py).
DCRF_HOST_DEVICE inline int row_width(int labels) {
  const int step = labels <= kNarrowLabels ? kNarrowStep : kWideStep;
  return (labels + step - 1) / step * step;
}

}  // namespace dcrf
