// SIMD vectors ("packs") and operations on their lanes, with the portable vector extensions of GCC
// and Clang. The compiler splits packs that are wider than the registers of the processor.
#pragma once

#include <cstdint>
#include <limits>

#define DCRF_INLINE inline __attribute__((always_inline))
#define DCRF_UNROLL _Pragma("GCC unroll 16")

// Bytes per pack; the build sets it for each instruction set.
#ifndef DCRF_PACK_BYTES
#define DCRF_PACK_BYTES 16
#endif

namespace dcrf::DCRF_ISA {

// A pack of N lanes of type T.
template <typename T, int N>
struct PackOf {
  typedef T Type __attribute__((vector_size(sizeof(T) * N)));
};
template <typename T, int N>
using Pack = typename PackOf<T, N>::Type;

// Number of elements of the widest pack.
template <typename T>
constexpr int kLanes = DCRF_PACK_BYTES / int(sizeof(T));

// Integer type of the same size as T, for shuffles and comparisons.
template <typename T>
struct IntOf;
template <>
struct IntOf<float> {
  using Type = std::int32_t;
};
template <>
struct IntOf<double> {
  using Type = std::int64_t;
};

// The greatest finite number, as a constant: the functions of numeric_limits must not be called
// (loops.cpp says why).
template <typename T>
constexpr T kMost = std::numeric_limits<T>::max();

template <typename T, int N>
DCRF_INLINE Pack<T, N> load(const T* from) {
  Pack<T, N> out;
  __builtin_memcpy(&out, from, sizeof out);
  return out;
}

template <typename T, int N>
DCRF_INLINE void store(T* to, const Pack<T, N>& pack) {
  __builtin_memcpy(to, &pack, sizeof pack);
}

template <typename T, int N>
DCRF_INLINE Pack<T, N> broadcast(T x) {
  return x - Pack<T, N>{};  // x - 0 is x for every x, -0 included
}

// Rotate the lanes: lane i of the result is lane (i + By) % N of `a`.
template <typename T, int N, int By>
DCRF_INLINE Pack<T, N> rotate(const Pack<T, N>& a) {
  using Index = typename IntOf<T>::Type;
  Pack<Index, N> from;
  for (int i = 0; i < N; ++i) from[i] = (i + By) % N;
#ifdef __clang__
  Pack<T, N> out;
  for (int i = 0; i < N; ++i) out[i] = a[(i + By) % N];
  return out;
#else
  return __builtin_shuffle(a, from);
#endif
}

// Return the sum of all lanes in every lane; max_lanes below returns the maximum likewise.
template <typename T, int N>
DCRF_INLINE Pack<T, N> sum_lanes(Pack<T, N> a) {
  if constexpr (N >= 16) a += rotate<T, N, 8>(a);
  if constexpr (N >= 8) a += rotate<T, N, 4>(a);
  if constexpr (N >= 4) a += rotate<T, N, 2>(a);
  if constexpr (N >= 2) a += rotate<T, N, 1>(a);
  return a;
}

// Return the larger of a and b in each lane.
template <typename T, int N>
DCRF_INLINE Pack<T, N> larger(const Pack<T, N>& a, const Pack<T, N>& b) {
  return a > b ? a : b;
}

template <typename T, int N>
DCRF_INLINE Pack<T, N> max_lanes(Pack<T, N> a) {
  if constexpr (N >= 16) a = larger<T, N>(a, rotate<T, N, 8>(a));
  if constexpr (N >= 8) a = larger<T, N>(a, rotate<T, N, 4>(a));
  if constexpr (N >= 4) a = larger<T, N>(a, rotate<T, N, 2>(a));
  if constexpr (N >= 2) a = larger<T, N>(a, rotate<T, N, 1>(a));
  return a;
}

// Add lanes i and i + Half of both packs and interleave the sums: one step of sum_each.
template <typename T, int N, int Half>
DCRF_INLINE Pack<T, N> add_neighbours(const Pack<T, N>& a, const Pack<T, N>& b) {
  using Index = typename IntOf<T>::Type;
  Pack<Index, N> low, high;
  for (int i = 0; i < N; ++i) {
    const int group = i / (2 * Half) * (2 * Half), within = i % Half;
    low[i] = group + within + (i / Half % 2) * N;
    high[i] = low[i] + Half;
  }
#ifdef __clang__
  Pack<T, N> out;
  for (int i = 0; i < N; ++i) {
    out[i] = (low[i] < N ? a[low[i]] : b[low[i] - N]) + (high[i] < N ? a[high[i]] : b[high[i] - N]);
  }
  return out;
#else
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
#endif
}

// Sum N packs: lane i of the result is the sum of the lanes of part[i]. Overwrites `part`.
template <typename T, int N>
DCRF_INLINE Pack<T, N> sum_each(Pack<T, N>* part) {
  static_assert(N == 4 || N == 8, "written for these");
  DCRF_UNROLL
  for (int i = 0; i < N / 2; ++i) part[i] = add_neighbours<T, N, 1>(part[2 * i], part[2 * i + 1]);
  DCRF_UNROLL
  for (int i = 0; i < N / 4; ++i) part[i] = add_neighbours<T, N, 2>(part[2 * i], part[2 * i + 1]);
  if constexpr (N == 8) part[0] = add_neighbours<T, N, 4>(part[0], part[1]);
  return part[0];
}

// Swap the off-diagonal blocks, Half lanes wide, of two packs: one step of `transpose`.
template <typename T, int N, int Half>
DCRF_INLINE void exchange(Pack<T, N>& a, Pack<T, N>& b) {
  using Index = typename IntOf<T>::Type;
  Pack<Index, N> first, second;
  for (int i = 0; i < N; ++i) {
    const bool upper = i / Half % 2 != 0;
    first[i] = upper ? N + i - Half : i;
    second[i] = upper ? N + i : i + Half;
  }
#ifdef __clang__
  Pack<T, N> x, y;
  for (int i = 0; i < N; ++i) {
    x[i] = first[i] < N ? a[first[i]] : b[first[i] - N];
    y[i] = second[i] < N ? a[second[i]] : b[second[i] - N];
  }
#else
  const Pack<T, N> x = __builtin_shuffle(a, b, first), y = __builtin_shuffle(a, b, second);
#endif
  a = x;
  b = y;
}

// Transpose N packs of N lanes in place.
template <typename T, int N>
DCRF_INLINE void transpose(Pack<T, N>* block) {
  static_assert(N == 4 || N == 8, "written for these");
  DCRF_UNROLL
  for (int i = 0; i < N; i += 2) exchange<T, N, 1>(block[i], block[i + 1]);
  DCRF_UNROLL
  for (int i = 0; i < N; ++i) {
    if (i % 4 < 2) exchange<T, N, 2>(block[i], block[i + 2]);
  }
  if constexpr (N == 8) {
    DCRF_UNROLL
    for (int i = 0; i < 4; ++i) exchange<T, N, 4>(block[i], block[i + 4]);
  }
}

// SIMD version of exponential in core/softmax.hpp, with the same accuracy: x <= 80, relative error
// < 4e-7 for x >= -87, exactly 0 for x <= -88. The constants are explained there.
template <int N>
DCRF_INLINE Pack<float, N> exponential(const Pack<float, N>& x) {
  using P = Pack<float, N>;
  constexpr float kMagic = 12583039.0f, kLowest = -88.0f;
  const P clamped = larger<float, N>(x, broadcast<float, N>(kLowest));
  const P shifted = clamped * 1.44269504f + kMagic;
  const P n = shifted - kMagic;
  const P r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  P p = r * 1.3981999e-3f + 8.3683203e-3f;
  p = p * r + 4.1666485e-2f;
  p = p * r + 1.6666521e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (P)((Pack<std::int32_t, N>)shifted << 23);
}

template <int N>
DCRF_INLINE Pack<double, N> exponential(const Pack<double, N>& x) {
  Pack<double, N> out{};  // compilers do not see that the loop sets all
  for (int i = 0; i < N; ++i) out[i] = __builtin_exp(x[i]);
  return out;
}

}  // namespace dcrf::DCRF_ISA
