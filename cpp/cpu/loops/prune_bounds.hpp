// Bounds of the messages to the points of a tile, from the vertices and cells that it reads: the
// mass that its points receive, and the extremes of each group's share of it.
#pragma once

#include "tile_points.hpp"

namespace dcrf::DCRF_ISA {

// Bounds of the mass that the points of a tile receive.
template <typename T>
struct Reach {
  T high = 0, low = kMost<T>;

  DCRF_INLINE void include(T x) {
    high = x > high ? x : high;
    low = x < low ? x : low;
  }
};

template <int Corners, typename T>
Reach<T> lattice_reach(const PointKernel<T>& k, int strip, const BandTile& tile, const T* mass) {
  const int corners = Corners > 0 ? Corners : k.corners;
  const T* const own = opaque(mass + k.first_row[strip]);
  Reach<T> reach;
  for (int r = 0; r < tile.band->rows; ++r) {
    const std::int64_t begin = tile.point(r);
    const std::int32_t* vertex = k.vertex + begin * corners;
    const T* weight = k.weight + begin * corners;
    for (int p = 0; p < tile.count; ++p, vertex += corners, weight += corners) {
      T sum = 0;
      DCRF_UNROLL
      for (int c = 0; c < corners; ++c) sum += weight[c] * own[vertex[c]];
      reach.include(k.out_of != nullptr ? sum * k.out_of[begin + p] : sum);
    }
  }
  return reach;
}

// The bounds of a lattice by the rows that the tile reads, of which a point's mass is a mean; wider
// than those by points.
template <typename T>
Reach<T> rows_reach(const PrunePass<T>& pass, int m, int strip, const BandTile& tile,
                    std::int64_t index) {
  const PointKernel<T>& k = pass.kernels_of[m];
  const T* const own = opaque(pass.mass[m] + k.first_row[strip]);
  const std::int32_t* row = pass.list[m] + pass.list_begin[m][index];
  const std::int32_t* const end = pass.list[m] + pass.list_end[m][index];
  Reach<T> rows, out_of;
  for (; row < end; ++row) rows.include(own[*row]);
  if (k.out_of == nullptr) return rows;
  for (int r = 0; r < tile.band->rows; ++r) {
    const T* const factor = k.out_of + tile.point(r);
    for (int p = 0; p < tile.count; ++p) out_of.include(factor[p]);
  }
  return {rows.high * out_of.high, rows.low * out_of.low};
}

// The bounds of a grid are products of those of the cells, of the taps and of `out_of`.
template <typename T>
Reach<T> grid_reach(const PointKernel<T>& k, const BandTile& tile, const T* mass) {
  const std::int64_t begin = k.grid.cell[2][pixel_column(k.grid, tile, 0)],
                     end = k.grid.cell[2][pixel_column(k.grid, tile, tile.count - 1)] + 3;
  Reach<T> cells, across, along, out_of;
  for (int p = 0; p < tile.count; ++p) {
    const T* const weight = k.grid.slice[2] + pixel_column(k.grid, tile, p) * 3;
    along.include(weight[0] + weight[1] + weight[2]);
  }
  for (int r = 0; r < tile.band->rows; ++r) {
    T sum = 0;
    grid_rows_of(k.grid, k.grid.slice, tile.band->pixel_row + r, [&](std::int64_t row, T w) {
      sum += w;
      for (std::int64_t x = begin; x < end; ++x) cells.include(mass[row * k.grid.cells[2] + x]);
    });
    across.include(sum);
    for (int p = 0; p < tile.count; ++p)
      out_of.include(k.out_of != nullptr ? k.out_of[tile.point(r) + p] : T(1));
  }
  return {cells.high * across.high * along.high * out_of.high,
          cells.low * across.low * along.low * out_of.low};
}

template <int N>
using Bytes = Pack<std::uint8_t, N>;

// The maximum and minimum of the shares of some rows.
template <int N>
struct Extremes {
  Bytes<N> high{}, low = ~Bytes<N>{};

  DCRF_INLINE void include(const std::uint8_t* share) {
    const Bytes<N> x = load<std::uint8_t, N>(share);
    high = x > high ? x : high;
    low = x < low ? x : low;
  }
};

// Write the extremes of the shares of all vertices or cells that the tile reads.
template <int N, typename T>
void find_extremes(const PrunePass<T>& pass, int m, int strip, const BandTile& tile,
                   std::int64_t index, std::uint8_t* high, std::uint8_t* low) {
  const PointKernel<T>& k = pass.kernels_of[m];
  Extremes<N> one, two;
  if (k.vertex != nullptr) {
    const std::uint8_t* const share = opaque(pass.share[m] + std::int64_t(k.first_row[strip]) * N);
    const std::int32_t* row = pass.list[m] + pass.list_begin[m][index];
    const std::int32_t* const end = pass.list[m] + pass.list_end[m][index];
    for (; row + 2 <= end; row += 2) {
      one.include(share + std::int64_t(row[0]) * N);
      two.include(share + std::int64_t(row[1]) * N);
    }
    if (row < end) one.include(share + std::int64_t(row[0]) * N);
  } else {
    const std::int32_t* const cell = k.grid.cell[2];
    const std::int64_t first = cell[pixel_column(k.grid, tile, 0)],
                       last = cell[pixel_column(k.grid, tile, tile.count - 1)] + 2;
    std::int64_t before = -1;  // of an image: rows of cells up to this one are done
    for (int r = 0; r < tile.band->rows; ++r) {
      grid_rows_of(k.grid, k.grid.slice, tile.band->pixel_row + r, [&](std::int64_t row, T) {
        if (row <= before) return;
        if (k.grid.taps[0] == 1) before = row;
        const std::uint8_t* const share = pass.share[m] + row * k.grid.cells[2] * N;
        for (std::int64_t x = first; x <= last; ++x) one.include(share + x * N);
      });
    }
  }
  one.high = two.high > one.high ? two.high : one.high;
  one.low = two.low < one.low ? two.low : one.low;
  store<std::uint8_t, N>(high, one.high);
  store<std::uint8_t, N>(low, one.low);
}

// See Loops::shares.
template <typename T>
void shares(const T* const* values, int groups, const T* inverse_mass, T scale, std::int64_t begin,
            std::int64_t end, std::uint8_t* out, int width) {
  using P = Pack<T, kQuad>;
  using Index = Pack<typename IntOf<T>::Type, kQuad>;
  const P zero{}, most = broadcast<T, kQuad>(T(254));
  // The byte of a value is 0 if it is not positive, else it is rounded up, at most 255.
  const auto bytes = [&](const P& x) {
    const P bounded = x < most ? x : most;
    const Index index = __builtin_convertvector(bounded, Index) + 1;
    return __builtin_convertvector(x > zero ? index : Index{}, Bytes<kQuad>);
  };
  for (std::int64_t row = begin; row < end; ++row) {
    std::uint8_t* const to = out + row * width;
    const T by = inverse_mass[row] * scale;
    for (int i = 0; i < width; i += 8) store<std::uint8_t, 8>(to + i, Bytes<8>{});
    if (values[0] != nullptr)
      store<std::uint8_t, kQuad>(to, bytes(load<T, kQuad>(values[0] + row * kQuad) * by));
    for (int g = 1; g < groups; ++g) {
      if (values[g] == nullptr) continue;
      const P x = max_lanes<T, kQuad>(load<T, kQuad>(values[g] + row * kQuad));
      const std::uint8_t found = bytes(x * by)[0];
      const int at = g + 3 < width ? g + 3 : width - 1;
      if (found > to[at]) to[at] = found;
    }
  }
}

}  // namespace dcrf::DCRF_ISA
