// Multiplies one row of label values by a coupling matrix (CouplingView).
#pragma once

#include "../loops.hpp"
#include "row.hpp"

namespace dcrf::DCRF_ISA {

// Compute out = C in, for rows of `width` elements; `out` must not overlap `in`.
template <int W, typename T>
DCRF_INLINE void couple(const CouplingView<T>& c, const T* in, T* out, int width) {
  if (c.matrix == nullptr) {
    T inner = 0;
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> row;
      row.load(in + at);
      inner += row.dot(c.a + at);
    });
    in_blocks<W>(width, [&](auto block, int at) {
      Row<T, decltype(block)::value> row, extra;
      row.load(in + at);
      extra.load(c.extra + at);
      row.multiply(extra);
      row.add_scaled(inner, c.b + at);
      row.store(out + at);
    });
    return;
  }
  in_blocks<W>(width, [&](auto block, int at) {
    Row<T, decltype(block)::value> sum;
    sum.clear();
    for (int l = 0; l < c.labels; ++l)
      sum.add_scaled(in[l], c.matrix + std::int64_t(l) * width + at);
    sum.store(out + at);
  });
}

}  // namespace dcrf::DCRF_ISA
