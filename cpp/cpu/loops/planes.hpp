// Copies label values between label-major planes [L, N], a point-major array [N, L] and the padded
// rows of a tile.
#pragma once

#include <limits>
#include <type_traits>

#include "halves.hpp"
#include "tiles.hpp"

namespace dcrf::DCRF_ISA {

template <typename T, int N>
DCRF_INLINE Pack<T, N> load_plane(const T* from) {
  return load<T, N>(from);
}
template <typename T, int N>
DCRF_INLINE Pack<T, N> load_plane(const std::uint16_t* from) {  // halves
  return load_halves<T, N>(from, N);
}

// Transpose planes [labels, points] of T, or of halves, to the rows [count, width] of a tile; the
// padding is set to `beyond`. `apart`: from one plane to the next.
template <int W, typename T, typename S>
void load_planes(const S* planes, std::int64_t apart, int labels, const Tile& tile, T* rows,
                 int width, T beyond) {
  constexpr int N = kBlock<T, W>;
  const int stride = row_stride<W>(width), whole = tile.count / N * N;
  const S* const from = planes + tile.begin;
  for (int l = 0; l < stride; l += N) {
    for (int p = 0; p < whole; p += N) {
      Pack<T, N> block[N];
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) {
        block[i] = l + i < labels ? load_plane<T, N>(from + (l + i) * apart + p)
                                  : broadcast<T, N>(beyond);
      }
      transpose<T, N>(block);
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) store<T, N>(rows + (p + i) * stride + l, block[i]);
    }
  }
  for (int p = whole; p < tile.count; ++p) {
    for (int l = 0; l < labels; ++l) {
      if constexpr (std::is_same_v<S, T>)
        rows[p * stride + l] = from[l * apart + p];
      else
        rows[p * stride + l] = T(of_half(from[l * apart + p]));
    }
    for (int l = labels; l < stride; ++l) rows[p * stride + l] = beyond;
  }
}

// Transpose the rows of a tile to planes [labels, points].
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

// Load the logits of a tile from the point-major copy `pass.unary` [points, labels]; the padding is
// set to -infinity. A whole padded row is read, so its end holds logits of the next point until
// `padding` (-infinity there) is added; rows that would end beyond the array are copied label by
// label.
template <int W, typename T>
void load_unary(const ForwardPass<T>& pass, const Tile& tile, T* rows) {
  const int stride = row_stride<W>(pass.width), labels = pass.labels;
  const T* const padding = pass.padding;
  const T* from = pass.unary + tile.begin * labels;
  // Offset of the last padded row that ends within the array.
  const std::int64_t last = pass.points * labels - stride;
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

// Write the rows of a tile to the point-major copy that load_unary reads. Whole padded rows are
// stored; the end of each overwrites the start of the next point's row, which is stored afterwards;
// the last rows of a tile are copied label by label.
template <int W, typename T>
void store_unary(const T* rows, const Tile& tile, const ForwardPass<T>& pass) {
  const int stride = row_stride<W>(pass.width), labels = pass.labels;
  T* to = pass.unary + tile.begin * labels;
  const int whole = tile.count - (stride - 1) / labels - 1;  // padded rows that end within the tile
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

}  // namespace dcrf::DCRF_ISA
