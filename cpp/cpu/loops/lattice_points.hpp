// Slice and splat of a lattice kernel for the points of a tile, and the gradient with respect to
// its barycentric weights.
#pragma once

#include "tiles.hpp"

namespace dcrf::DCRF_ISA {

// Slice: add the kernel's values, interpolated at the points of the tile, to rows [count, width].
// `Corners` is the number of corners if known at compile time, else 0.
template <int W, int Corners, typename T>
DCRF_INLINE void slice_lattice(const PointKernel<T>& k, int strip, const Tile& tile, T* rows,
                               int width) {
  const int corners = Corners > 0 ? Corners : k.corners;
  const int stride = row_stride<W>(width);
  in_blocks<W>(width, [&](auto block, int at) {
    using R = Row<T, decltype(block)::value>;
    const T* const values = k.values + std::int64_t(k.first_row[strip]) * stride + at;
    const std::int32_t* vertex = k.vertex + tile.begin * corners;
    const T* weight = k.weight + tile.begin * corners;
    const T* const out_of = k.out_of != nullptr ? k.out_of + tile.begin : nullptr;
    T* row = rows + at;
    for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners, row += stride) {
      prefetch_corners(vertex, weight);
      R sum;
      sum.set_scaled(weight[0], values + std::int64_t(vertex[0]) * stride);
      DCRF_UNROLL
      for (int c = 1; c < corners; ++c) {
        sum.add_scaled(weight[c], values + std::int64_t(vertex[c]) * stride);
      }
      if (out_of != nullptr) sum.scale(out_of[p]);
      sum.add(row);
      sum.store(row);
    }
  });
}

// Splat: add the rows [count, width], times `scale` if it is not null, to the kernel's sums.
template <int W, int Corners, typename T>
DCRF_INLINE void splat_lattice(const PointKernel<T>& k, int strip, const Tile& tile, const T* rows,
                               const T* scale, int width) {
  const int corners = Corners > 0 ? Corners : k.corners;
  const int stride = row_stride<W>(width);
  in_blocks<W>(width, [&](auto block, int at) {
    using R = Row<T, decltype(block)::value>;
    T* const sums = k.sums + std::int64_t(k.first_row[strip]) * stride + at;
    const std::int32_t* vertex = k.vertex + tile.begin * corners;
    const T* weight = k.weight + tile.begin * corners;
    const T* row = rows + at;
    for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners, row += stride) {
      R value, sum;
      value.load(row);
      if (scale != nullptr) value.scale(scale[p]);
      DCRF_UNROLL
      for (int c = 0; c < corners; ++c) {
        T* const to = sums + std::int64_t(vertex[c]) * stride;
        sum.load(to);
        sum.add_scaled(weight[c], value);
        sum.store(to);
      }
    }
  });
}

// Slice and splat with a compile-time number of corners for 5 features (2-D colour images), which
// have 6 corners.
template <int W, typename T>
void slice_tile(const PointKernel<T>& k, int strip, const Tile& tile, T* rows, int width) {
  if (k.corners == 6)
    slice_lattice<W, 6>(k, strip, tile, rows, width);
  else
    slice_lattice<W, 0>(k, strip, tile, rows, width);
}

template <int W, typename T>
void splat_tile(const PointKernel<T>& k, int strip, const Tile& tile, const T* rows, const T* scale,
                int width) {
  if (k.corners == 6)
    splat_lattice<W, 6>(k, strip, tile, rows, scale, width);
  else
    splat_lattice<W, 0>(k, strip, tile, rows, scale, width);
}

// Add to d_weight the inner products of `rows` with the kernel's values at the corners: the
// gradient with respect to the weights as slice weights or, for the adjoint kernel, as splat
// weights. Add to d_scale, if it is not null, the gradient with respect to the factor `out_of`.
template <int W, typename T>
void add_weight_gradient(const PointKernel<T>& k, int strip, const Tile& tile, const T* rows,
                         int width, T* d_weight, T* d_scale) {
  const T* const values = k.values + std::int64_t(k.first_row[strip]) * width;
  for (int p = 0; p < tile.count; ++p) {
    const std::int64_t point = tile.begin + p;
    T total = 0;
    const T scale = k.out_of != nullptr ? k.out_of[point] : T(1);
    for (int c = 0; c < k.corners; ++c) {
      const std::int64_t corner = point * k.corners + c;
      T inner = 0;
      in_blocks<W>(width, [&](auto block, int at) {
        Row<T, decltype(block)::value> row;
        row.load(rows + p * width + at);
        inner += row.dot(values + std::int64_t(k.vertex[corner]) * width + at);
      });
      d_weight[corner] += scale * inner;
      total += k.weight[corner] * inner;
    }
    if (d_scale != nullptr) d_scale[point] += total;
  }
}

}  // namespace dcrf::DCRF_ISA
