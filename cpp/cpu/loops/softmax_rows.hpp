// The softmax and other operations on the rows of one tile.
#pragma once

#include <limits>

#include "tiles.hpp"

namespace dcrf::DCRF_ISA {

// Replace each row by exp(row) and write the reciprocal of its sum to inverse[p]; their product is
// the softmax. The padding is -infinity before and 0 after. If `safe`, the maximum of every row is
// within [-40, 40]: exp cannot overflow, and values that underflow are negligible, so the maximum
// need not be subtracted first.
template <int W, typename T>
void exponentiate(T* rows, int count, int width, bool safe, T* inverse) {
  constexpr int N = kBlock<T, W>;
  // If a row is not a whole number of packs, all rows of the tile are exponentiated as one long
  // row: they are contiguous, and their buffer holds a whole number of packs.
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

// Multiply each row by its factor; `out` may be `rows`.
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

// Remove the diagonal (i = j) terms from the messages in `rows`: add them with the coupling in
// `self`, which has the opposite sign. `before` [N, width] holds the marginals or gradients from
// which the messages were computed.
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

// If `shift`, subtract the maximum of each row from it. Return false if a row holds NaN or
// +infinity, or nothing but -infinity.
template <int W, typename T>
bool shift_to_peak(T* rows, int count, int width, bool shift) {
  bool good = true;
  for (int p = 0; p < count; ++p) {
    T* const row = rows + p * width;
    T peak = -std::numeric_limits<T>::infinity(), poison = 0;
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> x;
      x.load(row + at);
      const T own = x.max();
      peak = own > peak ? own : peak;
      x.clip(kMost<T>);  // -infinity becomes 0; then 0 * x is NaN if x is NaN or +infinity
      x.scale(T(0));
      poison += x.sum();
    });
    good &= peak >= -kMost<T> && poison == T(0);
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

}  // namespace dcrf::DCRF_ISA
