// The permutohedral lattice on CPUs: build once, then filter, transpose, differentiate or read the
// diagonal any number of times. Works on raw rows; knows nothing of Python, images or labels. Every
// result is bit-identical for any number of threads: points are cut into strips by their number
// alone, each strip splats into rows of its own, and those are added up in a fixed order.
#pragma once

#include <cstdint>

#include "../core/simplex.hpp"
#include "loops.hpp"

namespace dcrf {

enum class Quality { kStandard = 0, kSymmetric = 1, kFilled = 2 };

// A built lattice of N points and d features, in arrays that the caller owns. A vertex has one row
// of values in every strip that touches it: the first strip's is the vertex's own, the others are
// its ghosts. Rows are numbered by strip and, within one, in order of first touch.
template <typename T>
struct LatticeView {
  std::int64_t points = 0;               // N
  int dims = 0;                          // d
  const std::int32_t* vertex = nullptr;  // [N, d+1], rows relative to the strip's first
  const T* weight = nullptr;             // [N, d+1], barycentric
  const std::int32_t* links = nullptr;   // see Links
};

// What hangs together in a lattice, as it lies in the array `links`.
struct Links {
  static constexpr int kVertices = 0, kQuality = 1, kRows = 2, kGhosts = 3, kFirstRow = 8,
                       kChain = 32, kData = 64;

  explicit Links(const std::int32_t* links, int dims);

  // Whether an array of `size` can be that of a built lattice of these points.
  static bool fits(const std::int32_t* links, std::int64_t size, std::int64_t points, int dims);

  std::int64_t vertices, rows, ghosts;
  std::int64_t used;  // how many elements of the array hold anything
  Quality quality;
  const std::int32_t* first_row;             // [strips]
  const std::int32_t* own_row;               // [vertices]
  const std::int32_t* ghost;                 // [ghosts], rows, by owner
  const std::int32_t* owner;                 // [ghosts], the row of each ghost's vertex
  const std::uint32_t* chain[kMaxDims + 1];  // per axis: runs of neighbours, kChainEnd at each end
  std::int64_t chain_length[kMaxDims + 1];
};

// Length of `links`, whatever the features.
std::int64_t links_size(std::int64_t points, int dims, Quality quality);

// N points of d features; feature i of point p lies at p point_stride + i feature_stride.
template <typename T>
struct FeatureView {
  const T* data = nullptr;
  std::int64_t point_stride = 0, feature_stride = 0;
  std::int64_t points = 0;
  int dims = 0;
};

// Builds a lattice into vertex, weight [N, d+1] and links [links_size]. Wants 1 <= d <= 16 and
// N (d+1) < 2^31. False: a feature is not finite, or too large for its dtype to index (the same
// bound as in checks.indexable); the arrays then mean nothing.
template <typename T>
bool build(const FeatureView<T>& features, Quality quality, std::int32_t* vertex, T* weight,
           std::int32_t* links, int threads);

// out = K values, both [N, channels]; the transpose blurs the axes in reverse order. The answer
// does not overlap `values`.
template <typename T>
void filter(const LatticeView<T>& lattice, const T* values, int channels, bool transpose, T* out,
            int threads);

// d_weight [N, d+1] of <cotangent, K values>, or of <cotangent, K' values>; both [N, channels].
template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const T* values, const T* cotangent,
                            int channels, bool transpose, T* d_weight, int threads);

// d_feature [N, d] from d_weight [N, d+1].
template <typename T>
void feature_gradient(const FeatureView<T>& features, const T* d_weight, T* d_feature, int threads);

// out [N] = the diagonal of K: what each point receives of its own value.
template <typename T>
void self_response(const LatticeView<T>& lattice, T* out, int threads);

// d_weight [N, d+1] of <cotangent, diagonal>; cotangent [N].
template <typename T>
void self_response_gradient(const LatticeView<T>& lattice, const T* cotangent, T* d_weight,
                            int threads);

// Adds every ghost's row to its vertex's own and leaves it zero.
template <typename T>
void fold(const Links& links, T* rows, int width, int threads);

// The blur of all axes, on rows [rows, width] that were folded; `work`, of the same size, is used
// for qualities other than the standard. Returns whether the answer is the mean of `rows` and
// `work`, or else `rows` alone.
template <typename T>
bool blur(const Links& links, int dims, bool transpose, T* rows, T* work, int width, int threads);

// Copies each vertex's own row to its ghosts.
template <typename T>
void share(const Links& links, T* rows, int width, int threads);

}  // namespace dcrf
