// The loops over lattice vertices and grid cells for rows of one number: several rows at once.
#pragma once

#include "coupling.hpp"

namespace dcrf::DCRF_ISA {

// As `blur` of vertices.hpp. Each pack of rows is written after the next one has been read.
template <typename T>
void blur_numbers(const std::uint32_t* chain, std::int64_t count, T* rows) {
  using Index = typename IntOf<T>::Type;
  constexpr int N = 32 / int(sizeof(T));
  using P = Pack<T, N>;
  using Mask = Pack<Index, N>;
  const auto at = [&](std::int64_t i) { return chain[i] & ~kChainEnd; };
  const auto gather = [&](std::int64_t i) {
    T found[N];
    for (int lane = 0; lane < N; ++lane) found[lane] = rows[at(i + lane)];
    return load<T, N>(found);
  };
  const auto going_on = [&](std::int64_t i) {  // all bits set where a chain goes on
    Index found[N];
    for (int lane = 0; lane < N; ++lane) found[lane] = Index(std::int32_t(~chain[i + lane]) >> 31);
    Mask mask;
    __builtin_memcpy(&mask, found, sizeof mask);
    return mask;
  };
  T before = 0;
  std::int64_t i = 0;
  if (count >= 2 * N) {
    P here = gather(0), carried{};
    for (; i + 2 * N <= count; i += N) {
      const P ahead = gather(i + N);
      const Mask goes_on = going_on(i);
      const P kept = (P)((Mask)here & goes_on);
      const P left = rotate<T, N, N - 1>(kept), last = rotate<T, N, N - 1>(carried);
      const P right = rotate<T, N, 1>(here), first = rotate<T, N, 1>(ahead);
      P previous = left, next = right;
      previous[0] = last[0];
      next[N - 1] = first[N - 1];
      next = (P)((Mask)next & goes_on);
      const P sum = here + T(kBlurSide) * (previous + next);
      for (int lane = 0; lane < N; ++lane) rows[at(i + lane)] = sum[lane];
      carried = kept;
      here = ahead;
    }
    before = carried[N - 1];
  }
  for (; i < count; ++i) {
    const bool ends = chain[i] & kChainEnd;
    const T here = rows[at(i)], next = ends ? T(0) : rows[at(i + 1)];
    rows[at(i)] = here + T(kBlurSide) * (before + next);
    before = ends ? T(0) : here;
  }
}

// As `finish` of vertices.hpp, without the maximum; the coupling is a factor.
template <typename T>
void finish_numbers(T factor, const std::int32_t* row, std::int64_t count, T* a, const T* b,
                    T* values) {
  const auto one = [&](std::int64_t at) {
    values[at] = factor * (b != nullptr ? (a[at] + b[at]) * T(0.5) : a[at]);
    a[at] = T(0);
  };
  for (std::int64_t i = 0; i < count; ++i) one(row != nullptr ? row[i] : i);
}

// As `grid_columns` of vertices.hpp.
template <typename T>
void number_columns(T* const* rows, int count, const T* band, int radius, std::int64_t cells,
                    T* scratch, T* out) {
  for (std::int64_t x = 0; x < cells; ++x) scratch[x] = T(0);
  for (int i = 0; i < count; ++i) {
    T* const row = rows[i];
    for (std::int64_t x = 0; x < cells; ++x) {
      scratch[x] += row[x];
      row[x] = T(0);
    }
  }
  constexpr int N = kLanes<T>;
  for (std::int64_t x = 0; x < cells;) {
    if (x >= radius && x + N + radius <= cells) {
      Pack<T, N> sum{};
      for (int k = -radius; k <= radius; ++k)
        sum += band[k + radius] * load<T, N>(scratch + x + k);
      store<T, N>(out + x, sum);
      x += N;
      continue;
    }
    const std::int64_t low = x < radius ? -x : -radius;
    const std::int64_t high = x + radius < cells ? radius : cells - 1 - x;
    T sum = 0;
    for (std::int64_t k = low; k <= high; ++k) sum += band[k + radius] * scratch[x + k];
    out[x++] = sum;
  }
}

}  // namespace dcrf::DCRF_ISA
