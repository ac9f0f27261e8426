// Slice and splat of lattice and grid kernels for passes over one number per point.
#pragma once

#include "grid_points.hpp"

namespace dcrf::DCRF_ISA {

// Slice a lattice kernel: add its values, interpolated at the points of the tile, to `sums`.
template <int Corners, typename T>
DCRF_INLINE void slice_lattice_numbers(const PointKernel<T>& k, int strip, const Tile& tile,
                                       T* sums) {
  const int corners = Corners > 0 ? Corners : k.corners;
  const T* const values = k.values + k.first_row[strip];
  const std::int32_t* vertex = k.vertex + tile.begin * corners;
  const T* weight = k.weight + tile.begin * corners;
  T found[kTile];
  for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners) {
    prefetch_corners(vertex, weight);
    T sum = weight[0] * values[vertex[0]];
    DCRF_UNROLL
    for (int c = 1; c < corners; ++c) sum += weight[c] * values[vertex[c]];
    found[p] = sum;
  }
  if (k.out_of != nullptr) {
    const T* const out_of = k.out_of + tile.begin;
    for (int p = 0; p < tile.count; ++p) sums[p] += out_of[p] * found[p];
  } else {
    for (int p = 0; p < tile.count; ++p) sums[p] += found[p];
  }
}

// Splat the numbers of a tile into a lattice kernel. All sums of a point are loaded before one is
// stored: its vertices differ, which the compiler does not know.
template <int Corners, bool First, typename T>
DCRF_INLINE void splat_lattice_numbers(const PointKernel<T>& k, int strip, const Tile& tile,
                                       const T* numbers) {
  T* const sums = k.sums + k.first_row[strip];
  const int corners = Corners > 0 ? Corners : k.corners;
  const std::int32_t* vertex = k.vertex + tile.begin * corners;
  const T* weight = k.weight + tile.begin * corners;
  for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners) {
    if (First) prefetch_corners(vertex, weight);  // as slicing does in other passes
    T sum[Corners > 0 ? Corners : kMaxDims + 1];
    DCRF_UNROLL
    for (int c = 0; c < corners; ++c) sum[c] = sums[vertex[c]] + weight[c] * numbers[p];
    DCRF_UNROLL
    for (int c = 0; c < corners; ++c) sums[vertex[c]] = sum[c];
  }
}

// `splat` and `slice` of Loops for one number per point, of a lattice without normaliser.
template <typename T>
void splat_numbers(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride) {
  const PointKernel<T>& k = pass.kernels[0];
  const Strips strips(pass.points);
  T numbers[kTile];
  for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
    const Tile& tile = tiles.tile;
    for (int p = 0; p < tile.count; ++p) numbers[p] = from[(tile.begin + p) * stride];
    if (k.corners == 6)
      splat_lattice_numbers<6, true>(k, strip, tile, numbers);
    else
      splat_lattice_numbers<0, true>(k, strip, tile, numbers);
  }
}

template <typename T>
void slice_numbers(const PointPass<T>& pass, int strip, T* to, std::int64_t stride) {
  const PointKernel<T>& k = pass.kernels[0];
  const Strips strips(pass.points);
  for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
    const Tile& tile = tiles.tile;
    T numbers[kTile] = {};
    if (k.corners == 6)
      slice_lattice_numbers<6>(k, strip, tile, numbers);
    else
      slice_lattice_numbers<0>(k, strip, tile, numbers);
    for (int p = 0; p < tile.count; ++p) to[(tile.begin + p) * stride] = numbers[p];
  }
}

// Lines of a grid kernel: rows of cells, interpolated or splatted along the row only, so that they
// hold a number per column of pixels. Rows of pixels share them.
template <typename T>
struct GridLines {
  static constexpr int kSlots = 9;
  std::int64_t row[kSlots];  // row of cells of each line; -1: none
  T* values[kSlots];
  T* sums[kSlots];
  std::int64_t pixel_row = -1;
  int count = 0;             // lines that this row of pixels touches
  int slot[kSlots];          // [count]
  T slice[kSlots], splat[kSlots];
  T* weight[3];              // [columns] each, weights from the three cells to each column

  // Take the lines from `scratch`, and advance `scratch` past them.
  DCRF_INLINE void take(const GridView<T>& g, T*& scratch) {
    for (int c = 0; c < 3; ++c) {
      weight[c] = scratch;
      scratch += g.size[2];
      for (std::int64_t x = 0; x < g.size[2]; ++x) weight[c][x] = g.slice[2][x * 3 + c];
    }
    for (int i = 0; i < g.taps[0] * g.taps[1]; ++i) {
      row[i] = -1;
      values[i] = scratch;
      sums[i] = scratch + g.size[2];
      scratch += 2 * g.size[2];
      for (std::int64_t x = 0; x < g.size[2]; ++x) sums[i][x] = T(0);
    }
  }

  // Prepare the lines that a row of pixels touches; `slices`, `splats`: their values are read, or
  // their sums written.
  void begin_row(const PointKernel<T>& k, int strip, std::int64_t pixels, bool slices,
                 bool splats) {
    const GridView<T>& g = k.grid;
    const std::int64_t y = pixels % g.size[1], z = pixels / g.size[1];
    pixel_row = pixels;
    count = 0;
    for (int i = 0; i < g.taps[0]; ++i) {
      for (int j = 0; j < g.taps[1]; ++j, ++count) {
        const std::int64_t layer = g.cell[0][z] + i, line = g.cell[1][y] + j;
        const int at = int(layer % g.taps[0] * g.taps[1] + line % g.taps[1]);
        const std::int64_t wanted = layer * g.cells[1] + line;
        slot[count] = at;
        slice[count] = tap(g, g.slice, 0, z)[i] * tap(g, g.slice, 1, y)[j];
        splat[count] = tap(g, g.splat, 0, z)[i] * tap(g, g.splat, 1, y)[j];
        if (row[at] == wanted) continue;
        if (splats) flush(k, strip, at);
        row[at] = wanted;
        if (!slices) continue;
        fill(g, k.values + wanted * g.cells[2], values[at]);
      }
    }
  }

  // Interpolate a row of cells at all columns.
  void fill(const GridView<T>& g, const T* cells, T* to) const {
    constexpr int N = kLanes<T>;
    const std::int32_t* const cell = g.cell[2];
    std::int64_t x = 0;
    for (; x + N <= g.size[2]; x += N) {
      T found[3][N];
      for (int i = 0; i < N; ++i) {
        const T* const first = cells + cell[x + i];
        for (int c = 0; c < 3; ++c) found[c][i] = first[c];
      }
      Pack<T, N> sum = load<T, N>(weight[0] + x) * load<T, N>(found[0]);
      for (int c = 1; c < 3; ++c) sum += load<T, N>(weight[c] + x) * load<T, N>(found[c]);
      store<T, N>(to + x, sum);
    }
    for (; x < g.size[2]; ++x) {
      to[x] = weight[0][x] * cells[cell[x]];
      for (int c = 1; c < 3; ++c) to[x] += weight[c][x] * cells[cell[x] + c];
    }
  }

  // Add the sums of a line to its row of cells and set them to 0.
  void flush(const PointKernel<T>& k, int strip, int at) {
    const GridView<T>& g = k.grid;
    if (row[at] < 0) return;
    T* const cells = k.sums + (k.slab_offset[strip] - k.first_slab[strip]) * g.slab() +
                     row[at] * g.cells[2];
    T sum[3] = {};
    std::int32_t here = 0;
    for (std::int64_t x = 0; x < g.size[2];) {
      for (; here < g.cell[2][x]; ++here) {
        cells[here] += sum[0];
        sum[0] = sum[1];
        sum[1] = sum[2];
        sum[2] = T(0);
      }
      T run[3] = {};  // of the columns that touch the same cells
      for (; x < g.size[2] && g.cell[2][x] == here; ++x) {
        const T* const weight = g.splat[2] + x * 3;
        const T value = sums[at][x];
        sums[at][x] = T(0);
        for (int c = 0; c < 3; ++c) run[c] += weight[c] * value;
      }
      for (int c = 0; c < 3; ++c) sum[c] += run[c];
    }
    for (int c = 0; c < 3; ++c) cells[here + c] += sum[c];
  }
};

// Call body(position in the tile, column of pixels, number of columns) for each run of neighbours.
template <typename T, class Body>
DCRF_INLINE void over_columns(const GridView<T>& g, const Tile& tile, const Body& body) {
  if (g.pixel == nullptr) return body(0, tile.begin - tile.pixel_row * g.size[2], tile.count);
  for (int p = 0; p < tile.count;) {
    const std::int64_t first = column(g, tile, p);
    int end = p + 1;
    while (end < tile.count && column(g, tile, end) == first + end - p) ++end;
    body(p, first, end - p);
    p = end;
  }
}

// Call body(Width<lanes>(), offset) for packs that cover `count` numbers.
template <typename T, class Body>
DCRF_INLINE void over_lanes(int count, const Body& body) {
  constexpr int N = kLanes<T>;
  int at = 0;
  for (; at + N <= count; at += N) body(Width<N>(), at);
  for (; at < count; ++at) body(Width<1>(), at);
}

// `Lines`: number of lines if known at compile time, else 0.
template <int Lines, typename T>
DCRF_INLINE void slice_grid_numbers(const PointKernel<T>& k, const GridLines<T>& lines,
                                    const Tile& tile, T* sums) {
  const int count = Lines > 0 ? Lines : lines.count;
  const T* from[GridLines<T>::kSlots];
  T weight[GridLines<T>::kSlots];
  for (int i = 0; i < count; ++i) {
    from[i] = lines.values[lines.slot[i]];
    weight[i] = lines.slice[i];
  }
  const T* const out_of = k.out_of != nullptr ? k.out_of + tile.begin : nullptr;
  over_columns(k.grid, tile, [&](int begin, std::int64_t x, int columns) {
    over_lanes<T>(columns, [&](auto lanes, int p) {
      using R = Row<T, decltype(lanes)::value>;
      R sum;
      sum.set_scaled(weight[0], from[0] + x + p);
      DCRF_UNROLL
      for (int i = 1; i < count; ++i) sum.add_scaled(weight[i], from[i] + x + p);
      if (out_of != nullptr) {
        R scale;
        scale.load(out_of + begin + p);
        sum.multiply(scale);
      }
      sum.add(sums + begin + p);
      sum.store(sums + begin + p);
    });
  });
}

template <int Lines, typename T>
DCRF_INLINE void splat_grid_numbers(const GridLines<T>& lines, const GridView<T>& g,
                                    const Tile& tile, const T* numbers) {
  const int count = Lines > 0 ? Lines : lines.count;
  T* to[GridLines<T>::kSlots];
  T weight[GridLines<T>::kSlots];
  for (int i = 0; i < count; ++i) {
    to[i] = lines.sums[lines.slot[i]];
    weight[i] = lines.splat[i];
  }
  over_columns(g, tile, [&](int begin, std::int64_t x, int columns) {
    over_lanes<T>(columns, [&](auto lanes, int p) {
      using R = Row<T, decltype(lanes)::value>;
      R value, sum;
      value.load(numbers + begin + p);
      DCRF_UNROLL
      for (int i = 0; i < count; ++i) {
        sum.load(to[i] + x + p);
        sum.add_scaled(weight[i], value);
        sum.store(to[i] + x + p);
      }
    });
  });
}

}  // namespace dcrf::DCRF_ISA
