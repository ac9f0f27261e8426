// Slice and splat of lattice and grid kernels for the points of a tile (tile_order.hpp), with rows
// of four label values.
#pragma once

#include "grid_points.hpp"
#include "quads.hpp"

namespace dcrf::DCRF_ISA {

constexpr int kQuad = 4;  // label values in a row

// Columns [column, column + count) of a band.
struct BandTile {
  const Band* band;
  std::int64_t column = 0;
  int count = 0;

  __attribute__((always_inline)) std::int64_t point(int row) const {
    return band->point(row, column);
  }
};

// Return the pointer. The compiler does not see that it is a sum, which it would compute anew for
// every element.
template <typename P>
DCRF_INLINE P* opaque(P* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

// Slice a lattice kernel for the points of a tile. Rows [kTileRows, kTileColumns, 4] are at their
// places; they are set if `first`, else added to. `Corners` is the number of corners if known at
// compile time, else 0.
template <int Corners, bool First, typename T>
DCRF_INLINE void slice_lattice_quads(const PointKernel<T>& k, int strip, const BandTile& tile,
                                     T* rows) {
  using R = Row<T, kQuad>;
  const int corners = Corners > 0 ? Corners : k.corners;
  const T* const values = opaque(k.values + std::int64_t(k.first_row[strip]) * kQuad);
  for (int r = 0; r < tile.band->rows; ++r, rows += kTileColumns * kQuad) {
    const std::int64_t begin = tile.point(r);
    const std::int32_t* vertex = k.vertex + begin * corners;
    const T* weight = k.weight + begin * corners;
    const T* const out_of = k.out_of != nullptr ? k.out_of + begin : nullptr;
    for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners) {
      prefetch_corners(vertex, weight);
      R sum;
      sum.set_scaled(weight[0], values + std::int64_t(vertex[0]) * kQuad);
      DCRF_UNROLL
      for (int c = 1; c < corners; ++c) {
        sum.add_scaled(weight[c], values + std::int64_t(vertex[c]) * kQuad);
      }
      if (out_of != nullptr) sum.scale(out_of[p]);
      T* const row = rows + kPlaces<T>.of[p] * kQuad;
      if (!First) sum.add(row);
      sum.store(row);
    }
  }
}

// Splat the rows of a tile, times the kernel's `into`, into its sums. All sums of a point are loaded
// before one is stored: its vertices differ, which the compiler does not know.
template <int Corners, typename T>
DCRF_INLINE void splat_lattice_quads(const PointKernel<T>& k, int strip, const BandTile& tile,
                                     const T* rows) {
  using R = Row<T, kQuad>;
  const int corners = Corners > 0 ? Corners : k.corners;
  T* const sums = opaque(k.sums + std::int64_t(k.first_row[strip]) * kQuad);
  for (int r = 0; r < tile.band->rows; ++r, rows += kTileColumns * kQuad) {
    const std::int64_t begin = tile.point(r);
    const std::int32_t* vertex = k.vertex + begin * corners;
    const T* weight = k.weight + begin * corners;
    for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners) {
      R value, sum[Corners > 0 ? Corners : kMaxDims + 1];
      value.load(rows + kPlaces<T>.of[p] * kQuad);
      if (k.into != nullptr) value.scale(k.into[begin + p]);
      DCRF_UNROLL
      for (int c = 0; c < corners; ++c) {
        sum[c].load(sums + std::int64_t(vertex[c]) * kQuad);
        sum[c].add_scaled(weight[c], value);
      }
      DCRF_UNROLL
      for (int c = 0; c < corners; ++c) sum[c].store(sums + std::int64_t(vertex[c]) * kQuad);
    }
  }
}

// Buffers of a grid kernel for the rows of pixels of a band: values, gathered from cells, and sums,
// to be added to cells; see GridRow.
template <typename T>
struct GridBand {
  T* values[kTileRows];
  T* sums[kTileRows];

  // Take the buffers from `scratch` and advance `scratch` past them; set the sums to 0.
  DCRF_INLINE void take(std::int64_t length, T*& scratch) {
    for (int r = 0; r < kTileRows; ++r) {
      values[r] = scratch;
      sums[r] = scratch + length;
      scratch += 2 * length;
      for (std::int64_t i = 0; i < length; ++i) sums[r][i] = T(0);
    }
  }
};

// Return the column of pixels of a point of the tile.
template <typename T>
DCRF_INLINE std::int64_t pixel_column(const GridView<T>& g, const BandTile& tile, int p) {
  const std::int64_t point = tile.point(0) + p;
  return (g.pixel != nullptr ? g.pixel[point] : point) - tile.band->pixel_row * g.size[2];
}

template <bool First, typename T>
DCRF_INLINE void slice_grid_quads(const PointKernel<T>& k, const GridBand<T>& buffers,
                                  const BandTile& tile, T* rows) {
  using R = Row<T, kQuad>;
  for (int p = 0; p < tile.count; ++p) {
    const std::int64_t x = pixel_column(k.grid, tile, p);
    const T* const weight = k.grid.slice[2] + x * 3;
    const std::int64_t at = std::int64_t(k.grid.cell[2][x]) * kQuad;
    for (int r = 0; r < tile.band->rows; ++r) {
      R sum;
      sum.set_scaled(weight[0], buffers.values[r] + at);
      sum.add_scaled(weight[1], buffers.values[r] + at + kQuad);
      sum.add_scaled(weight[2], buffers.values[r] + at + 2 * kQuad);
      if (k.out_of != nullptr) sum.scale(k.out_of[tile.point(r) + p]);
      T* const row = rows + (r * kTileColumns + kPlaces<T>.of[p]) * kQuad;
      if (!First) sum.add(row);
      sum.store(row);
    }
  }
}

template <typename T>
DCRF_INLINE void splat_grid_quads(const PointKernel<T>& k, const GridBand<T>& buffers,
                                  const BandTile& tile, const T* rows) {
  using R = Row<T, kQuad>;
  for (int i = 0; i < kTileColumns; ++i) {
    const int p = i % 2 * 8 + i / 2;
    if (p >= tile.count) continue;
    const std::int64_t x = pixel_column(k.grid, tile, p);
    const T* const weight = k.grid.splat[2] + x * 3;
    const std::int64_t at = std::int64_t(k.grid.cell[2][x]) * kQuad;
    for (int r = 0; r < tile.band->rows; ++r) {
      R value, sum;
      value.load(rows + (r * kTileColumns + kPlaces<T>.of[p]) * kQuad);
      if (k.into != nullptr) value.scale(k.into[tile.point(r) + p]);
      DCRF_UNROLL
      for (int c = 0; c < 3; ++c) {
        T* const to = buffers.sums[r] + at + c * kQuad;
        sum.load(to);
        sum.add_scaled(weight[c], value);
        sum.store(to);
      }
    }
  }
}

// All kernels of a pass for one strip, band by band.
template <typename T>
struct BandKernels {
  const PointKernel<T>* kernels;
  int count, strip;
  GridBand<T> grids[kMaxKernels];

  // Take the buffers of grids from `scratch`, and advance `scratch` past them.
  DCRF_INLINE void take(const PointKernel<T>* list, int n, int s, T*& scratch) {
    kernels = list;
    count = n;
    strip = s;
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex == nullptr) grids[m].take(kernels[m].grid.cells[2] * kQuad, scratch);
    }
  }
  // Gather the values of the grids for the rows of pixels of a band.
  void begin_band(const Band& band) {
    for (int m = 0; m < count; ++m) {
      for (int r = 0; r < band.rows && kernels[m].vertex == nullptr; ++r)
        gather_grid_row(kernels[m], band.pixel_row + r, grids[m].values[r], kQuad);
    }
  }
  // Add the sums of the grids to the cells.
  void end_band(const Band& band) {
    for (int m = 0; m < count; ++m) {
      for (int r = 0; r < band.rows && kernels[m].vertex == nullptr; ++r)
        flush_grid_row(kernels[m], strip, band.pixel_row + r, grids[m].sums[r], kQuad);
    }
  }
  template <bool First>
  DCRF_INLINE void slice_one(int m, const BandTile& tile, T* rows) {
    const PointKernel<T>& k = kernels[m];
    if (k.vertex == nullptr)
      slice_grid_quads<First>(k, grids[m], tile, rows);
    else if (k.corners == 6)
      slice_lattice_quads<6, First>(k, strip, tile, rows);
    else
      slice_lattice_quads<0, First>(k, strip, tile, rows);
  }
  // Write the messages of all kernels, of which there is at least one, to the rows of a tile.
  DCRF_INLINE void slice(const BandTile& tile, T* rows) {
    slice_one<true>(0, tile, rows);
    for (int m = 1; m < count; ++m) slice_one<false>(m, tile, rows);
  }
  // Splat the rows of a tile into all kernels.
  DCRF_INLINE void splat(const BandTile& tile, const T* rows) {
    for (int m = 0; m < count; ++m) {
      const PointKernel<T>& k = kernels[m];
      if (k.vertex == nullptr)
        splat_grid_quads(k, grids[m], tile, rows);
      else if (k.corners == 6)
        splat_lattice_quads<6>(k, strip, tile, rows);
      else
        splat_lattice_quads<0>(k, strip, tile, rows);
    }
  }
};

}  // namespace dcrf::DCRF_ISA
