// Logits of other layouts and dtypes than planes of T, read into the rows of a tile; and the argmax
// of rows, written as labels.
#pragma once

#include <limits>

#include "planes.hpp"

namespace dcrf::DCRF_ISA {

// Copy stored logits of type S to the rows [count, width] of a tile, each by value(stored).
template <int W, typename S, typename T, class Value>
DCRF_INLINE void load_stored(const LogitsView<T>& from, int labels, const Tile& tile, T* rows,
                             int width, const Value& value) {
  const int stride = row_stride<W>(width);
  const S* const first = static_cast<const S*>(from.data) + tile.begin * from.point_stride;
  if (from.label_stride == 1) {
    for (int p = 0; p < tile.count; ++p) {
      const S* const point = first + p * from.point_stride;
      for (int l = 0; l < labels; ++l) rows[p * stride + l] = value(point[l]);
    }
  } else {
    for (int l = 0; l < labels; ++l) {
      const S* const label = first + l * from.label_stride;
      for (int p = 0; p < tile.count; ++p)
        rows[p * stride + l] = value(label[p * from.point_stride]);
    }
  }
}

// Read the logits of a tile of any layout and dtype; the padding of the rows is set to -infinity.
template <int W, typename T>
void load_logits(const LogitsView<T>& from, int labels, const Tile& tile, T* rows, int width) {
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  if (from.dtype == LogitsDtype::kHalf && from.point_stride == 1) {
    const auto* const halves = static_cast<const std::uint16_t*>(from.data);
    return load_planes<W>(halves, from.label_stride, labels, tile, rows, width, kNothing);
  }
  if (from.dtype == LogitsDtype::kHalf) {
    load_stored<W, std::uint16_t>(from, labels, tile, rows, width,
                                  [](std::uint16_t bits) { return T(of_half(bits)); });
  } else if (from.dtype == LogitsDtype::kByte) {
    const T scale = from.scale, zero = from.zero;
    load_stored<W, std::uint8_t>(from, labels, tile, rows, width,
                                 [=](std::uint8_t stored) { return (T(stored) - zero) * scale; });
  } else {
    load_stored<W, T>(from, labels, tile, rows, width, [](T stored) { return stored; });
  }
  const int stride = row_stride<W>(width);
  for (int p = 0; p < tile.count; ++p) {
    for (int l = labels; l < stride; ++l) rows[p * stride + l] = kNothing;
  }
}

// Write the label of the maximum of each row of a tile; of equal ones the lowest.
template <int W, typename Label, typename T>
void store_labels(const T* rows, int width, const Tile& tile, int labels, Label* to) {
  constexpr int N = kBlock<T, W>;
  const int stride = row_stride<W>(width), whole = tile.count / N * N;
  to += tile.begin;
  for (int p = 0; p < whole; p += N) {
    Pack<T, N> most = broadcast<T, N>(-std::numeric_limits<T>::infinity()), best = Pack<T, N>{};
    for (int l = 0; l < labels; l += N) {
      Pack<T, N> block[N];
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) block[i] = load<T, N>(rows + (p + i) * stride + l);
      transpose<T, N>(block);
      DCRF_UNROLL
      for (int i = 0; i < N; ++i) {  // the padding is -infinity
        best = block[i] > most ? broadcast<T, N>(T(l + i)) : best;
        most = block[i] > most ? block[i] : most;
      }
    }
    for (int i = 0; i < N; ++i) to[p + i] = Label(best[i]);
  }
  for (int p = whole; p < tile.count; ++p) {
    int best = 0;
    for (int l = 1; l < labels; ++l)
      if (rows[p * stride + l] > rows[p * stride + best]) best = l;
    to[p] = Label(best);
  }
}

template <int W, typename T>
void store_labels(const T* rows, int width, const Tile& tile, int labels, const LabelMap& to) {
  if (to.bytes == 1) {
    store_labels<W>(rows, width, tile, labels, static_cast<std::uint8_t*>(to.data));
  } else if (to.bytes == 2) {
    store_labels<W>(rows, width, tile, labels, static_cast<std::uint16_t*>(to.data));
  } else {
    store_labels<W>(rows, width, tile, labels, static_cast<std::uint32_t*>(to.data));
  }
}

}  // namespace dcrf::DCRF_ISA
