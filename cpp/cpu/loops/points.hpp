// The loops over points: a strip in tiles, each tile sliced, updated and splatted while it lies in
// the first-level cache.
#pragma once

#include <limits>

#include "coupling.hpp"

namespace dcrf::DCRF_ISA {

// Points [begin, begin + count) of one strip, and the pixel row they lie in if there is a grid.
struct Tile {
  std::int64_t begin = 0;
  int count = 0;
  std::int64_t pixel_row = 0;
};

// The tiles of a strip in order. With a grid no tile leaves its row of pixels.
template <typename T>
struct Tiles {
  const GridView<T>* grid = nullptr;
  std::int64_t end;
  Tile tile;

  DCRF_INLINE Tiles(const PointPass<T>& pass, std::int64_t first, std::int64_t last) : end(last) {
    for (int m = 0; m < pass.kernel_count; ++m) {
      if (pass.kernels[m].vertex == nullptr) grid = &pass.kernels[m].grid;
    }
    tile.begin = first;
  }
  DCRF_INLINE bool next() {
    tile.begin += tile.count;
    if (tile.begin >= end) return false;
    std::int64_t last = tile.begin + kTile < end ? tile.begin + kTile : end;
    if (grid != nullptr) {
      const std::int64_t length = grid->size[2];
      if (grid->pixel == nullptr) {
        tile.pixel_row = tile.begin / length;
        const std::int64_t row_end = (tile.pixel_row + 1) * length;
        if (row_end < last) last = row_end;
      } else {
        tile.pixel_row = grid->pixel[tile.begin] / length;
        while (grid->pixel[last - 1] / length != tile.pixel_row) --last;
      }
    }
    tile.count = int(last - tile.begin);
    return true;
  }
};

// A grid kernel at one row of pixels: the grid's rows gathered into one, and one on its way back.
template <typename T>
struct GridRow {
  std::int64_t row = -1;  // of pixels; -1: none yet
  T* values = nullptr;    // [cells, width]
  T* sums = nullptr;      // [cells, width], zero when none
};

template <typename T>
DCRF_INLINE const T* tap(const GridView<T>& g, const T* const* table, int axis, std::int64_t i) {
  return table[axis] + i * g.taps[axis];
}

// Calls body(row of cells, weight) for each row of cells that a row of pixels touches.
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

// Calls body(Width<n>(), at) for blocks that cover a row of cells; its length is a multiple of 4.
template <class Body>
DCRF_INLINE void along_cells(std::int64_t length, const Body& body) {
  std::int64_t at = 0;
  for (; at + 16 <= length; at += 16) body(Width<16>(), at);
  for (; at < length; at += 4) body(Width<4>(), at);
}

constexpr int kMaxTaps = 9;  // rows of cells that a row of pixels touches

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

template <typename T>
DCRF_INLINE std::int64_t column(const GridView<T>& g, const Tile& tile, int p) {
  const std::int64_t pixel = g.pixel != nullptr ? g.pixel[tile.begin + p] : tile.begin + p;
  return pixel - tile.pixel_row * g.size[2];
}

// The width of rows, as a constant where W says it.
template <int W>
DCRF_INLINE int row_stride(int width) {
  return W > 0 ? W : width;
}

// rows [count, width] += what the kernel's values say at the points of the tile. `Corners` is their
// number where it is a common one, else 0.
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

// Where the run of points from p on ends that touch the same three cells, at column x.
template <typename T>
DCRF_INLINE int run_end(const GridView<T>& g, const Tile& tile, int p, std::int64_t x) {
  const std::int32_t cell = g.cell[2][x];
  int end = p + 1;
  while (end < tile.count && g.cell[2][column(g, tile, end)] == cell) ++end;
  return end;
}

// Neighbours share their cells, which then stay in registers.
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

// What the rows of a tile are to be multiplied with on the way in: the kernel's own factor, and the
// caller's. Null: nothing.
template <typename T>
DCRF_INLINE const T* row_scale(const PointKernel<T>& k, const Tile& tile, const T* factor,
                               T* room) {
  if (k.into == nullptr) return factor;
  if (factor == nullptr) return k.into + tile.begin;
  for (int p = 0; p < tile.count; ++p) room[p] = factor[p] * k.into[tile.begin + p];
  return room;
}

// All kernels of a pass in one strip.
template <int W, typename T>
struct StripKernels {
  const PointKernel<T>* kernels;
  int count, strip, width;
  GridRow<T> rows[kMaxKernels];

  // Takes its row buffers from `scratch` and moves it on.
  DCRF_INLINE StripKernels(const PointKernel<T>* list, int n, int s, int w, T*& scratch)
      : kernels(list), count(list != nullptr ? n : 0), strip(s), width(w) {
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex != nullptr) continue;
      const std::int64_t length = kernels[m].grid.cells[2] * width;
      rows[m].values = scratch;
      rows[m].sums = scratch + length;
      scratch += 2 * length;
      for (std::int64_t i = 0; i < length; ++i) rows[m].sums[i] = T(0);
    }
  }
  // Slices and splats of one tile stand together: both see the tile's row of pixels come up.
  DCRF_INLINE void slice(const Tile& tile, T* out) {
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex != nullptr)
        slice_tile<W>(kernels[m], strip, tile, out, width);
      else
        slice_tile<W>(kernels[m], rows[m], tile, out, width);
    }
  }
  DCRF_INLINE void splat(const Tile& tile, const T* in, const T* factor) {
    T scale[kTile];
    for (int m = 0; m < count; ++m) {
      const T* const by = row_scale(kernels[m], tile, factor, scale);
      if (kernels[m].vertex != nullptr)
        splat_tile<W>(kernels[m], strip, tile, in, by, width);
      else
        splat_tile<W>(kernels[m], strip, rows[m], tile, in, by, width);
    }
  }
  DCRF_INLINE void end_tile(const Tile& tile) {
    for (int m = 0; m < count; ++m) rows[m].row = tile.pixel_row;
  }
  DCRF_INLINE void flush() {
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex == nullptr && rows[m].row >= 0) {
        flush_grid_row(kernels[m], strip, rows[m].row, rows[m].sums, width);
      }
    }
  }
};

// Side of the blocks in which tiles are turned round: it divides the width.
template <typename T, int W>
constexpr int kBlock = W == 0                         ? 4
                       : W % 8 == 0 && kLanes<T> >= 8 ? 8
                                                      : 4;

// rows [count, width], `beyond` beyond the labels, from planes [labels, points].
template <int W, typename T>
void load_planes(const T* planes, std::int64_t points, int labels, const Tile& tile, T* rows,
                 int width, T beyond) {
  constexpr int N = kBlock<T, W>;
  const int stride = row_stride<W>(width), whole = tile.count / N * N;
  const T* const from = planes + tile.begin;
  for (int l = 0; l < stride; l += N) {
    for (int p = 0; p < whole; p += N) {
      Pack<T, N> block[N];
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) {
        block[i] =
            l + i < labels ? load<T, N>(from + (l + i) * points + p) : broadcast<T, N>(beyond);
      }
      transpose<T, N>(block);
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) store<T, N>(rows + (p + i) * stride + l, block[i]);
    }
  }
  for (int p = whole; p < tile.count; ++p) {
    for (int l = 0; l < labels; ++l) rows[p * stride + l] = from[l * points + p];
    for (int l = labels; l < stride; ++l) rows[p * stride + l] = beyond;
  }
}

template <int W, typename T>
void store_planes(const T* rows, int width, const Tile& tile, int labels, T* planes,
                  std::int64_t points) {
  constexpr int N = kBlock<T, W>;
  const int stride = row_stride<W>(width), whole = tile.count / N * N;
  T* const to = planes + tile.begin;
  for (int l = 0; l < labels; l += N) {
    for (int p = 0; p < whole; p += N) {
      Pack<T, N> block[N];
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) block[i] = load<T, N>(rows + (p + i) * stride + l);
      transpose<T, N>(block);
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) {
        if (l + i < labels) store<T, N>(to + (l + i) * points + p, block[i]);
      }
    }
  }
  for (int p = whole; p < tile.count; ++p) {
    for (int l = 0; l < labels; ++l) to[l * points + p] = rows[p * stride + l];
  }
}

// rows = logits, from the copy by points [points, labels], and -infinity beyond the labels. A row
// reads on into the next point's logits, which `padding` then overrules; the last points are copied
// number by number.
template <int W, typename T>
void load_unary(const ForwardPass<T>& pass, const Tile& tile, T* rows) {
  const int stride = row_stride<W>(pass.width), labels = pass.labels;
  const T* const padding = pass.padding;
  const T* from = pass.unary + tile.begin * labels;
  const std::int64_t last = pass.points * labels - stride;  // where a whole row can still be read
  for (int p = 0; p < tile.count; ++p, from += labels, rows += stride) {
    if (from - pass.unary > last) {
      for (int l = 0; l < labels; ++l) rows[l] = from[l];
      for (int l = labels; l < stride; ++l) rows[l] = -std::numeric_limits<T>::infinity();
      continue;
    }
    prefetch(from + 1024 / sizeof(T), stride);
    in_blocks<W>(stride, [&](auto block, int at) {
      Row<T, decltype(block)::value> row;
      row.load(from + at);
      row.add(padding + at);
      row.store(rows + at);
    });
  }
}

// The copy by points that load_unary reads. Rows overlap: each is as wide as padded ones, and the
// next one overwrites what was too much; the last of the tile is written number by number.
template <int W, typename T>
void store_unary(const T* rows, const Tile& tile, const ForwardPass<T>& pass) {
  const int stride = row_stride<W>(pass.width), labels = pass.labels;
  T* to = pass.unary + tile.begin * labels;
  const int whole = tile.count - (stride - 1) / labels - 1;  // rows that end within the tile
  for (int p = 0; p < tile.count; ++p, to += labels, rows += stride) {
    if (p >= whole) {
      for (int l = 0; l < labels; ++l) to[l] = rows[l];
      continue;
    }
    in_blocks<W>(stride, [&](auto block, int at) {
      Row<T, decltype(block)::value> row;
      row.load(rows + at);
      row.store(to + at);
    });
  }
}

// Each row becomes exp(row), and inverse[p] the reciprocal of its sum: their product is the
// softmax. Padding holds -infinity before and 0 after. Rows whose greatest number is at least -40
// and at most 40 are `safe`: they need no shift by the greatest, as nothing overflows and what
// underflows is nothing beside it.
template <int W, typename T>
void exponentiate(T* rows, int count, int width, bool safe, T* inverse) {
  constexpr int N = kBlock<T, W>;
  // Rows that are not made of whole packs are worked on as one long row: a tile has no gaps, and
  // has room for whole groups of rows and of numbers.
  constexpr bool kWhole = W > 0 && W % kLanes<T> == 0;
  const int stride = row_stride<W>(width);
  for (int p = 0; p < count && !safe; ++p) {
    T peak = -std::numeric_limits<T>::infinity();
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> x;
      x.load(rows + p * stride + at);
      const T own = x.max();
      peak = own > peak ? own : peak;
    });
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> x;
      x.load(rows + p * stride + at);
      x.subtract(peak);
      x.store(rows + p * stride + at);
    });
  }
  for (int at = 0; at < count * stride && !kWhole; at += kLanes<T>) {
    store<T, kLanes<T>>(rows + at, exponential<kLanes<T>>(load<T, kLanes<T>>(rows + at)));
  }
  for (int p = 0; p < count; p += N) {
    Pack<T, N> part[N];
    DCRF_UNROLL
    for (int i = 0; i < N; ++i) {
      T* const row = rows + (p + i) * stride;
      if constexpr (kWhole) {
        Row<T, W> x;
        x.load(row);
        x.exponentiate();
        x.store(row);
      }
      part[i] = load<T, N>(row);
      for (int c = N; c < stride; c += N) part[i] += load<T, N>(row + c);
    }
    store<T, N>(inverse + p, T(1) / sum_each<T, N>(part));
  }
}

// out row = row times its factor; out may be rows.
template <int W, typename T>
void scale_rows(const T* rows, int count, int width, const T* factor, T* out) {
  const int stride = row_stride<W>(width);
  for (int p = 0; p < count; ++p) {
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> x;
      x.load(rows + p * stride + at);
      x.scale(factor[p]);
      x.store(out + p * stride + at);
    });
  }
}

// Takes back what each point told itself.
template <int W, typename T>
void add_self_terms(const SelfTerm<T>* self, int count, const T* before, const Tile& tile, T* rows,
                    int width, T* scratch) {
  for (int m = 0; m < count; ++m) {
    if (self[m].scale == nullptr) continue;
    for (int p = 0; p < tile.count; ++p) {
      couple<W>(self[m].coupling, before + (tile.begin + p) * width, scratch, width);
      const T scale = self[m].scale[tile.begin + p];
      for (int c = 0; c < width; ++c) rows[p * width + c] += scale * scratch[c];
    }
  }
}

// If asked to, subtracts from each row its greatest number. False if a row has a NaN, +infinity, or
// nothing above -infinity.
template <int W, typename T>
bool shift_to_peak(T* rows, int count, int width, bool shift) {
  constexpr T kHuge = std::numeric_limits<T>::max();
  bool good = true;
  for (int p = 0; p < count; ++p) {
    T* const row = rows + p * width;
    T peak = -std::numeric_limits<T>::infinity(), poison = 0;
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> x;
      x.load(row + at);
      const T own = x.max();
      peak = own > peak ? own : peak;
      x.clip(kHuge);  // takes out -infinity; 0 x is NaN where x is not finite
      x.scale(T(0));
      poison += x.sum();
    });
    good &= peak >= -kHuge && poison == T(0);
    if (!shift) continue;
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> x;
      x.load(row + at);
      x.subtract(peak);
      x.store(row + at);
    });
  }
  return good;
}

template <int W, typename T>
bool forward_strip(const ForwardPass<T>& pass, int strip, T* scratch) {
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  const int width = row_stride<W>(pass.width), labels = pass.labels;
  const Strips strips(pass.points);
  T* const rows = scratch;  // [kTile, width]
  for (int i = 0; i < kTile * width; ++i) rows[i] = T(0);
  T inverse[kTile];
  T* const spare = rows + kTile * width;
  scratch = spare + width;
  StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, width, scratch);
  bool good = true;
  for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
    const Tile& tile = tiles.tile;
    if (pass.first || pass.last) {
      load_planes<W>(pass.logits, pass.points, labels, tile, rows, width, kLeast);
    } else {
      load_unary<W>(pass, tile, rows);
    }
    if (pass.first) {
      good &= shift_to_peak<W>(rows, tile.count, width, !pass.last);
      if (!pass.last) store_unary<W>(rows, tile, pass);
    } else {
      kernels.slice(tile, rows);
      if (pass.self != nullptr) {
        add_self_terms<W>(pass.self, pass.kernel_count, pass.q_before, tile, rows, width, spare);
      }
    }
    if (!pass.last || pass.marginals) {
      exponentiate<W>(rows, tile.count, width, pass.safe && !pass.last, inverse);
    }
    if (pass.last) {
      if (pass.marginals) scale_rows<W>(rows, tile.count, width, inverse, rows);
      store_planes<W>(rows, width, tile, labels, pass.refined, pass.points);
    } else {
      // The same bits go on whether or not they are saved.
      if (pass.saved_q != nullptr) {
        scale_rows<W>(rows, tile.count, width, inverse, pass.saved_q + tile.begin * width);
      }
      kernels.splat(tile, rows, inverse);
    }
    kernels.end_tile(tile);
  }
  if (!pass.last) kernels.flush();
  return good;
}

template <typename T>
bool forward(const ForwardPass<T>& pass, int strip, T* scratch) {
  bool good = true;
  with_width(pass.width,
             [&](auto w) { good = forward_strip<decltype(w)::value>(pass, strip, scratch); });
  return good;
}

// Adds to the gradient of a lattice's weights what one side of the message gives: inner products of
// `rows` with the values at the corners. `scale`, a factor of the message, has a gradient as well.
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

template <int W, typename T>
void backward_strip(const BackwardPass<T>& pass, int strip, T* scratch) {
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  const int width = row_stride<W>(pass.width), labels = pass.labels;
  const Strips strips(pass.points);
  T* const g = scratch;  // [kTile, width]
  T* const q_rows = g + kTile * width;
  T inverse[kTile];
  T* const spare = q_rows + kTile * width;
  for (int i = 0; i < kTile * width; ++i) q_rows[i] = T(0);
  scratch = spare + width;
  StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, width, scratch);
  StripKernels<W, T> forward(pass.forward, pass.kernel_count, strip, width, scratch);
  for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
    const Tile& tile = tiles.tile;
    const std::int64_t start = tile.begin * width;
    if (pass.first) {
      load_planes<W>(pass.d_refined, pass.points, labels, tile, g, width, T(0));
    } else {
      const T* q = q_rows;
      if (pass.q != nullptr) {
        q = pass.q + start;
      } else {
        load_planes<W>(pass.logits, pass.points, labels, tile, q_rows, width, kLeast);
        shift_to_peak<W>(q_rows, tile.count, width, true);  // as in the forward pass
        forward.slice(tile, q_rows);
        exponentiate<W>(q_rows, tile.count, width, false, inverse);
        scale_rows<W>(q_rows, tile.count, width, inverse, q_rows);
      }
      for (int i = 0; i < tile.count * width; ++i) g[i] = T(0);
      kernels.slice(tile, g);
      if (pass.self != nullptr) {
        add_self_terms<W>(pass.self, pass.kernel_count, pass.gradient, tile, g, width, spare);
      }
      for (int m = 0; m < pass.kernel_count && pass.wanted != nullptr; ++m) {
        const PointGradient<T>& to = pass.wanted[m];
        if (to.weight == nullptr) continue;
        add_weight_gradient<W>(pass.kernels[m], strip, tile, q, width, to.weight, to.before);
        if (to.diagonal == nullptr) continue;
        const PointKernel<T>& k = pass.kernels[m];  // `into` is after, `out_of` before
        for (int p = 0; p < tile.count; ++p) {
          const std::int64_t point = tile.begin + p;
          couple<W>(pass.forward_self[m].coupling, q + p * width, spare, width);
          T inner = 0;
          for (int c = 0; c < width; ++c) inner += spare[c] * pass.gradient[point * width + c];
          const T before = k.out_of != nullptr ? k.out_of[point] : T(1);
          const T after = k.into != nullptr ? k.into[point] : T(1);
          to.diagonal[point] += before * after * inner;
          if (to.before != nullptr) to.before[point] += after * pass.diagonal[m][point] * inner;
          if (to.after != nullptr) to.after[point] += before * pass.diagonal[m][point] * inner;
        }
      }
      for (int p = 0; p < tile.count; ++p) {  // the softmax's Jacobian
        T inner = 0;
        in_blocks<W>(width, [&](auto block, int at) {
          Row<T, decltype(block)::value> row;
          row.load(q + p * width + at);
          inner += row.dot(g + p * width + at);
        });
        in_blocks<W>(width, [&](auto block, int at) {
          Row<T, decltype(block)::value> row, marginal;
          row.load(g + p * width + at);
          row.subtract(inner);
          marginal.load(q + p * width + at);
          row.multiply(marginal);
          row.store(g + p * width + at);
          row.add(pass.sum + start + p * width + at);
          row.store(pass.last ? g + p * width + at : pass.sum + start + p * width + at);
        });
      }
    }
    if (pass.first) __builtin_memcpy(pass.sum + start, g, sizeof(T) * tile.count * width);
    if (pass.gradient != nullptr)
      __builtin_memcpy(pass.gradient + start, g, sizeof(T) * tile.count * width);
    if (pass.last) {
      store_planes<W>(g, width, tile, labels, pass.d_logits, pass.points);
    } else {
      for (int m = 0; m < pass.kernel_count && pass.wanted != nullptr; ++m) {
        const PointGradient<T>& to = pass.wanted[m];
        if (to.weight == nullptr) continue;
        add_weight_gradient<W>(pass.forward[m], strip, tile, g, width, to.weight, to.after);
      }
      kernels.splat(tile, g, nullptr);
    }
    kernels.end_tile(tile);
    forward.end_tile(tile);
  }
  if (!pass.last) kernels.flush();
}

template <typename T>
void backward(const BackwardPass<T>& pass, int strip, T* scratch) {
  with_width(pass.width, [&](auto w) { backward_strip<decltype(w)::value>(pass, strip, scratch); });
}

// The bare halves of a filter, for rows of `labels` channels that the caller owns.
template <typename T>
void splat(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride, T* scratch) {
  with_width(pass.width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    const Strips strips(pass.points);
    T* const rows = scratch;
    scratch += kTile * pass.width;
    StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, pass.width, scratch);
    for (int i = 0; i < kTile * pass.width; ++i) rows[i] = T(0);
    for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      for (int p = 0; p < tile.count; ++p) {
        const T* const row = from + (tile.begin + p) * stride;
        for (int l = 0; l < pass.labels; ++l) rows[p * pass.width + l] = row[l];
      }
      kernels.splat(tile, rows, nullptr);
      kernels.end_tile(tile);
    }
    kernels.flush();
  });
}

template <typename T>
void slice(const PointPass<T>& pass, int strip, T* to, std::int64_t stride, T* scratch) {
  with_width(pass.width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    const Strips strips(pass.points);
    T* const rows = scratch;
    scratch += kTile * pass.width;
    StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, pass.width, scratch);
    for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      for (int i = 0; i < tile.count * pass.width; ++i) rows[i] = T(0);
      kernels.slice(tile, rows);
      kernels.end_tile(tile);
      for (int p = 0; p < tile.count; ++p) {
        T* const row = to + (tile.begin + p) * stride;
        for (int l = 0; l < pass.labels; ++l) row[l] = rows[p * pass.width + l];
      }
    }
  });
}

template <typename T>
void weight_gradient(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride,
                     T* d_weight, T* scratch) {
  with_width(pass.width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    const Strips strips(pass.points);
    T* const rows = scratch;
    for (int i = 0; i < kTile * pass.width; ++i) rows[i] = T(0);
    for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      for (int p = 0; p < tile.count; ++p) {
        const T* const row = from + (tile.begin + p) * stride;
        for (int l = 0; l < pass.labels; ++l) rows[p * pass.width + l] = row[l];
      }
      T* const no_scale = nullptr;
      add_weight_gradient<W>(pass.kernels[0], strip, tile, rows, pass.width, d_weight, no_scale);
    }
  });
}

}  // namespace dcrf::DCRF_ISA
