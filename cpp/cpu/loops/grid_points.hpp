// Slice and splat of a grid kernel for the points of a tile. Neighbouring points share cells, so a
// row of pixels is interpolated in two steps: first between the rows of cells, then along the row.
#pragma once

#include "tiles.hpp"

namespace dcrf::DCRF_ISA {

// Buffers of a grid kernel for one row of pixels: one row of values, interpolated between the rows
// of cells that the row of pixels touches (gather_grid_row), and one row of splatted values, which
// flush_grid_row adds to the cells.
template <typename T>
struct GridRow {
  std::int64_t row = -1;  // row of pixels that the buffers belong to; -1: none yet
  T* values = nullptr;    // [cells, width]
  T* sums = nullptr;      // [cells, width], zeros after a flush
};

// Return the weights of pixel i along an axis; `table` is `splat` or `slice` of the grid.
template <typename T>
DCRF_INLINE const T* tap(const GridView<T>& g, const T* const* table, int axis, std::int64_t i) {
  return table[axis] + i * g.taps[axis];
}

// Call body(index, weight) for each row of cells that a row of pixels touches.
template <typename T, class Body>
DCRF_INLINE void grid_rows_of(const GridView<T>& g, const T* const* table, std::int64_t pixel_row,
                              const Body& body) {
  const std::int64_t y = pixel_row % g.size[1], z = pixel_row / g.size[1];
  const T* const ty = tap(g, table, 1, y);
  const T* const tz = tap(g, table, 0, z);
  for (int i = 0; i < g.taps[0]; ++i) {
    for (int k = 0; k < g.taps[1]; ++k) {
      body((g.cell[0][z] + i) * g.cells[1] + g.cell[1][y] + k, tz[i] * ty[k]);
    }
  }
}

// Call body(Width<n>(), offset) for blocks of 16 and 4 elements that cover a row of cells, whose
// length is a multiple of 4.
template <class Body>
DCRF_INLINE void along_cells(std::int64_t length, const Body& body) {
  std::int64_t at = 0;
  for (; at + 16 <= length; at += 16) body(Width<16>(), at);
  for (; at < length; at += 4) body(Width<4>(), at);
}

constexpr int kMaxTaps = 9;  // maximum number of rows of cells that a row of pixels touches

// Interpolate the rows of cells that a row of pixels touches into one row `values`.
template <typename T>
void gather_grid_row(const PointKernel<T>& k, std::int64_t pixel_row, T* values, int width) {
  const std::int64_t length = k.grid.cells[2] * width;
  const T* from[kMaxTaps];
  T weight[kMaxTaps];
  int count = 0;
  grid_rows_of(k.grid, k.grid.slice, pixel_row, [&](std::int64_t row, T w) {
    from[count] = k.values + row * length;
    weight[count++] = w;
  });
  along_cells(length, [&](auto block, std::int64_t at) {
    Row<T, decltype(block)::value> sum;
    sum.set_scaled(weight[0], from[0] + at);
    for (int i = 1; i < count; ++i) sum.add_scaled(weight[i], from[i] + at);
    sum.store(values + at);
  });
}

// Add the row `sums` to the rows of cells that the row of pixels touches, and set it to 0.
template <typename T>
void flush_grid_row(const PointKernel<T>& k, int strip, std::int64_t pixel_row, T* sums,
                    int width) {
  const std::int64_t length = k.grid.cells[2] * width;
  T* const base = k.sums + (k.slab_offset[strip] - k.first_slab[strip]) * k.grid.slab() * width;
  T* to[kMaxTaps];
  T weight[kMaxTaps];
  int count = 0;
  grid_rows_of(k.grid, k.grid.splat, pixel_row, [&](std::int64_t row, T w) {
    to[count] = base + row * length;
    weight[count++] = w;
  });
  along_cells(length, [&](auto block, std::int64_t at) {
    Row<T, decltype(block)::value> value, sum, zero;
    value.load(sums + at);
    for (int i = 0; i < count; ++i) {
      sum.load(to[i] + at);
      sum.add_scaled(weight[i], value);
      sum.store(to[i] + at);
    }
    zero.clear();
    zero.store(sums + at);
  });
}

// Return the column of pixels in which point p of a tile is.
template <typename T>
DCRF_INLINE std::int64_t column(const GridView<T>& g, const Tile& tile, int p) {
  const std::int64_t pixel = g.pixel != nullptr ? g.pixel[tile.begin + p] : tile.begin + p;
  return pixel - tile.pixel_row * g.size[2];
}

// Return the end of the run of points that starts with point p, in column x, and touches the same
// three cells of a row.
template <typename T>
DCRF_INLINE int run_end(const GridView<T>& g, const Tile& tile, int p, std::int64_t x) {
  const std::int32_t cell = g.cell[2][x];
  int end = p + 1;
  while (end < tile.count && g.cell[2][column(g, tile, end)] == cell) ++end;
  return end;
}

// Slice a grid kernel: add its values at the points of the tile to `rows`. The cells of a run of
// points stay in registers.
template <int W, typename T>
void slice_tile(const PointKernel<T>& k, GridRow<T>& row, const Tile& tile, T* rows, int width) {
  if (row.row != tile.pixel_row) gather_grid_row(k, tile.pixel_row, row.values, width);
  const int stride = row_stride<W>(width);
  in_blocks<W>(width, [&](auto block, int at) {
    using R = Row<T, decltype(block)::value>;
    for (int p = 0; p < tile.count;) {
      std::int64_t x = column(k.grid, tile, p);
      const int end = run_end(k.grid, tile, p, x);
      const T* const values = row.values + k.grid.cell[2][x] * std::int64_t(stride) + at;
      R cell[3];
      DCRF_UNROLL
      for (int c = 0; c < 3; ++c) cell[c].load(values + c * stride);
      for (; p < end; ++p) {
        x = column(k.grid, tile, p);
        const T* const weight = k.grid.slice[2] + x * 3;
        const T scale = k.out_of != nullptr ? k.out_of[tile.begin + p] : T(1);
        R sum;
        sum.load(rows + p * stride + at);
        DCRF_UNROLL
        for (int c = 0; c < 3; ++c) sum.add_scaled(weight[c] * scale, cell[c]);
        sum.store(rows + p * stride + at);
      }
    }
  });
}

// Splat `rows`, times `scale` if it is not null, into a grid kernel, also by runs of points.
template <int W, typename T>
void splat_tile(const PointKernel<T>& k, int strip, GridRow<T>& row, const Tile& tile,
                const T* rows, const T* scale, int width) {
  if (row.row != tile.pixel_row && row.row >= 0) flush_grid_row(k, strip, row.row, row.sums, width);
  const int stride = row_stride<W>(width);
  in_blocks<W>(width, [&](auto block, int at) {
    using R = Row<T, decltype(block)::value>;
    for (int p = 0; p < tile.count;) {
      std::int64_t x = column(k.grid, tile, p);
      const int end = run_end(k.grid, tile, p, x);
      T* const sums = row.sums + k.grid.cell[2][x] * std::int64_t(stride) + at;
      R cell[3];
      DCRF_UNROLL
      for (int c = 0; c < 3; ++c) cell[c].load(sums + c * stride);
      for (; p < end; ++p) {
        x = column(k.grid, tile, p);
        const T* const weight = k.grid.splat[2] + x * 3;
        const T by = scale != nullptr ? scale[p] : T(1);
        R value;
        value.load(rows + p * stride + at);
        DCRF_UNROLL
        for (int c = 0; c < 3; ++c) cell[c].add_scaled(weight[c] * by, value);
      }
      DCRF_UNROLL
      for (int c = 0; c < 3; ++c) cell[c].store(sums + c * stride);
    }
  });
}

}  // namespace dcrf::DCRF_ISA
