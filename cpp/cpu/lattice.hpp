// The permutohedral lattice on CPUs: build once, then filter, transpose or read the diagonal any
// number of times. Works on raw rows; knows nothing of Python, images or labels. Every result is
// bit-identical for any number of threads: splat gathers over each vertex's sorted pixel list.
#pragma once

#include <cstdint>

namespace dcrf {

// A built lattice, in arrays that the caller owns. N points, d features, M vertices; vertices are
// numbered in order of first touch, points in order and corners k = 0..d within a point.
template <typename T>
struct LatticeView {
  std::int64_t points = 0;                   // N
  int dims = 0;                              // d
  std::int64_t vertices = 0;                 // M
  const std::int32_t* vertex = nullptr;      // [N, d+1], ids in [0, M)
  const T* weight = nullptr;                 // [N, d+1], barycentric
  const std::int32_t* neighbour = nullptr;   // [d+1, M, 2], ids in [0, M]; M means missing
  const std::int32_t* offset = nullptr;      // [M+1], where each vertex's entries begin
  const std::int32_t* entry = nullptr;       // [N (d+1)], pixel (d+1) + k, ascending per vertex
};

// Room for the output of build(); the last three hold M <= N (d+1) vertices.
template <typename T>
struct LatticeBuffers {
  std::int32_t* vertex;     // [N, d+1]
  T* weight;                // [N, d+1]
  std::int32_t* neighbour;  // at least [d+1, M, 2], 2 N (d+1)^2 at most
  std::int32_t* offset;     // at least [M+1], N (d+1) + 1 at most
  std::int32_t* entry;      // [N (d+1)]
};

// Builds the lattice of features [N, d] and returns M. Wants 1 <= d <= 16, N (d+1) < 2^31, and
// features so small that every quotient fits 32 bits (checked in Python, _checks.features).
template <typename T>
std::int64_t build(const T* features, std::int64_t points, int dims, const LatticeBuffers<T>& out,
                   int threads);

// out = K values, both [N, channels]; the transpose blurs the axes in reverse order. The answer
// does not overlap `values`.
template <typename T>
void filter(const LatticeView<T>& lattice, const T* values, int channels, bool transpose, T* out,
            int threads);

// out [N] = the diagonal of K: what each point receives of its own value.
template <typename T>
void self_response(const LatticeView<T>& lattice, T* out, int threads);

}  // namespace dcrf
