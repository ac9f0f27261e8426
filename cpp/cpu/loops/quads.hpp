// Rows of four label values and planes of one label each, for the points of a tile, in registers.
#pragma once

#include "tile_order.hpp"

namespace dcrf::DCRF_ISA {

// Lanes of a plane: the points of one label that are computed at once.
template <typename T>
constexpr int kPlane = kLanes<T> >= 8 ? 8 : 4;

// Position of the row of point x of a tile row. Transposing rows in groups of four lanes, which
// needs no instruction that crosses them, then gives planes in the order of the points.
template <typename T>
struct Places {
  int of[kTileColumns];
  constexpr Places() : of() {
    constexpr int N = kPlane<T>, kGroups = N / 4;
    for (int x = 0; x < kTileColumns; ++x) of[x] = x / N * N + x % 4 * kGroups + x % N / 4;
  }
};
template <typename T>
constexpr Places<T> kPlaces;

// Interleave pairs of lanes (Size = 1) or of lane pairs (Size = 2) of two packs, within groups of
// four lanes: from their lower or upper halves.
template <typename T, int N, int Size, bool Upper>
DCRF_INLINE Pack<T, N> interleave(const Pack<T, N>& a, const Pack<T, N>& b) {
  using Index = typename IntOf<T>::Type;
  Pack<Index, N> from;
  for (int i = 0; i < N; ++i) {
    const int within = i % 4, group = i / 4 * 4 + (Upper ? 2 : 0);
    from[i] = Size == 1 ? group + within / 2 + within % 2 * N : group + within % 2 + within / 2 * N;
  }
#ifdef __clang__
  Pack<T, N> out;
  for (int i = 0; i < N; ++i) out[i] = from[i] < N ? a[from[i]] : b[from[i] - N];
  return out;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// Transpose the 4 x 4 blocks that each group of four lanes of the packs holds: rows at their
// places to planes, or planes to rows.
template <typename T, int N>
DCRF_INLINE void transpose_groups(Pack<T, N>* pack) {
  const Pack<T, N> a = interleave<T, N, 1, false>(pack[0], pack[1]),
                   b = interleave<T, N, 1, true>(pack[0], pack[1]),
                   c = interleave<T, N, 1, false>(pack[2], pack[3]),
                   d = interleave<T, N, 1, true>(pack[2], pack[3]);
  pack[0] = interleave<T, N, 2, false>(a, c);
  pack[1] = interleave<T, N, 2, true>(a, c);
  pack[2] = interleave<T, N, 2, false>(b, d);
  pack[3] = interleave<T, N, 2, true>(b, d);
}

// Load up to N elements; the lanes beyond `count` are 0.
template <typename T, int N>
DCRF_INLINE Pack<T, N> load_some(const T* from, int count) {
  if (count >= N) return load<T, N>(from);
  T room[N] = {};
  for (int i = 0; i < count; ++i) room[i] = from[i];
  return load<T, N>(room);
}

// Store the first `count` lanes, or all if there are no more.
template <typename T, int N>
DCRF_INLINE void store_some(T* to, const Pack<T, N>& pack, int count) {
  if (count >= N) return store<T, N>(to, pack);
  T room[N];
  store<T, N>(room, pack);
  for (int i = 0; i < count; ++i) to[i] = room[i];
}

}  // namespace dcrf::DCRF_ISA
