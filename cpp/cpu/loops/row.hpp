// One row of W label values in registers, with the arithmetic that the loops need. A row consists
// of as many packs of the widest size as fit, then packs of half that size, and so on.
#pragma once

#include "../../core/numerics.hpp"
#include "pack.hpp"

namespace dcrf::DCRF_ISA {

template <typename T, int W, int N = kLanes<T>>
struct Row {
  static_assert(N >= 1, "W must be a multiple of the smallest pack");
  static constexpr int kCount = W / N;
  using P = Pack<T, N>;
  P part[kCount > 0 ? kCount : 1];
  Row<T, W % N, (N > 1 ? N / 2 : 1)> rest;

  DCRF_INLINE void load(const T* from) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = dcrf::DCRF_ISA::load<T, N>(from + i * N);
    rest.load(from + kCount * N);
  }
  DCRF_INLINE void store(T* to) const {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) dcrf::DCRF_ISA::store<T, N>(to + i * N, part[i]);
    rest.store(to + kCount * N);
  }
  DCRF_INLINE void clear() {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = P{};
    rest.clear();
  }
  DCRF_INLINE void clear_if(bool condition) {  // without a branch
    using Index = typename IntOf<T>::Type;
    const Pack<Index, N> kept = Index(condition) - 1 - Pack<Index, N>{};
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = (P)((Pack<Index, N>)part[i] & kept);
    rest.clear_if(condition);
  }
  // set_scaled: this = w * row; add_scaled: this += w * row; add: this += row. `row` is in memory.
  DCRF_INLINE void set_scaled(T w, const T* row) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = w * dcrf::DCRF_ISA::load<T, N>(row + i * N);
    rest.set_scaled(w, row + kCount * N);
  }
  DCRF_INLINE void add_scaled(T w, const T* row) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] += w * dcrf::DCRF_ISA::load<T, N>(row + i * N);
    rest.add_scaled(w, row + kCount * N);
  }
  DCRF_INLINE void add(const T* row) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] += dcrf::DCRF_ISA::load<T, N>(row + i * N);
    rest.add(row + kCount * N);
  }
  DCRF_INLINE void add_scaled(T w, const Row& row) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] += w * row.part[i];
    rest.add_scaled(w, row.rest);
  }
  DCRF_INLINE void scale(T w) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] *= w;
    rest.scale(w);
  }
  DCRF_INLINE void multiply(const Row& row) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] *= row.part[i];
    rest.multiply(row.rest);
  }
  DCRF_INLINE void subtract(T x) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] -= x;
    rest.subtract(x);
  }
  DCRF_INLINE void clip(T least) {  // set elements below -least to 0
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = part[i] < -least ? P{} : part[i];
    rest.clip(least);
  }
  DCRF_INLINE void exponentiate() {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = exponential<N>(part[i]);
    rest.exponentiate();
  }
  DCRF_INLINE T sum() const {
    if constexpr (kCount == 0) {
      return rest.sum();
    } else {
      P total = part[0];
      DCRF_UNROLL
      for (int i = 1; i < kCount; ++i) total += part[i];
      const T own = sum_lanes<T, N>(total)[0];
      if constexpr (W % N == 0)
        return own;
      else
        return own + rest.sum();
    }
  }
  DCRF_INLINE T max() const {
    if constexpr (kCount == 0) {
      return rest.max();
    } else {
      P top = part[0];
      DCRF_UNROLL
      for (int i = 1; i < kCount; ++i) top = larger<T, N>(top, part[i]);
      const T own = max_lanes<T, N>(top)[0];
      if constexpr (W % N == 0) {
        return own;
      } else {
        const T other = rest.max();
        return own > other ? own : other;
      }
    }
  }
  // Compute the elementwise maximum of this row and `row`.
  DCRF_INLINE void raise_to(const Row& row) {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = larger<T, N>(part[i], row.part[i]);
    rest.raise_to(row.rest);
  }
  // Replace every element by its absolute value.
  DCRF_INLINE void drop_sign() {
    DCRF_UNROLL
    for (int i = 0; i < kCount; ++i) part[i] = part[i] < T(0) ? -part[i] : part[i];
    rest.drop_sign();
  }
  DCRF_INLINE T dot(const T* row) const {
    Row product;
    product.load(row);
    product.multiply(*this);
    return product.sum();
  }
};

// The empty row, which ends the recursion.
template <typename T, int N>
struct Row<T, 0, N> {
  DCRF_INLINE void load(const T*) {}
  DCRF_INLINE void store(T*) const {}
  DCRF_INLINE void clear() {}
  DCRF_INLINE void clear_if(bool) {}
  DCRF_INLINE void set_scaled(T, const T*) {}
  DCRF_INLINE void add_scaled(T, const T*) {}
  DCRF_INLINE void add(const T*) {}
  DCRF_INLINE void add_scaled(T, const Row&) {}
  DCRF_INLINE void scale(T) {}
  DCRF_INLINE void multiply(const Row&) {}
  DCRF_INLINE void subtract(T) {}
  DCRF_INLINE void clip(T) {}
  DCRF_INLINE void drop_sign() {}
  DCRF_INLINE void raise_to(const Row&) {}
  DCRF_INLINE void exponentiate() {}
  DCRF_INLINE T sum() const { return T(0); }
};

// A width as a type, for generic lambdas.
template <int W>
struct Width {
  static constexpr int value = W;
};

// Call body(Width<block>(), offset) for blocks that cover a row. If W > 0, it is the width of the
// row and there is one block; if W = 0, `width` is a multiple of 8 and blocks of 32 and 8 are used.
template <int W, class Body>
DCRF_INLINE void in_blocks(int width, const Body& body) {
  if constexpr (W > 0) {
    body(Width<W>(), 0);
  } else {
    int at = 0;
    for (; at + 32 <= width; at += 32) body(Width<32>(), at);
    for (; at < width; at += 8) body(Width<8>(), at);
  }
}

// Call body(Width<W>()) with W = width for rows of up to 32 elements, otherwise with W = 0.
template <class Body>
DCRF_INLINE void with_width(int width, const Body& body) {
  switch (width) {
    case 4:
      return body(Width<4>());
    case 8:
      return body(Width<8>());
    case 12:
      return body(Width<12>());
    case 16:
      return body(Width<16>());
    case 20:
      return body(Width<20>());
    case 24:
      return body(Width<24>());
    case 28:
      return body(Width<28>());
    case 32:
      return body(Width<32>());
    default:
      return body(Width<0>());
  }
}

// The same for rows that may also hold a single number.
template <class Body>
DCRF_INLINE void with_row(int width, const Body& body) {
  if (width == 1) return body(Width<1>());
  with_width(width, body);
}

// Prefetch a row, one cache line (64 bytes) at a time.
template <typename T>
DCRF_INLINE void prefetch(const T* row, int width) {
  for (int c = 0; c < width; c += int(64 / sizeof(T))) __builtin_prefetch(row + c);
}

}  // namespace dcrf::DCRF_ISA
