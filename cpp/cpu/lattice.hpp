// The permutohedral lattice on CPUs: built once, then filtered, transposed, differentiated or asked
// for its diagonal. Results are bit-identical for any number of threads: the strips of points
// depend only on the number of points, each strip splats into rows of its own, and these are added
// up in a fixed order.
#pragma once

#include <cstdint>

#include "../core/simplex.hpp"
#include "loops.hpp"

namespace dcrf {

enum class Quality { kStandard = 0, kSymmetric = 1, kFilled = 2 };

// A built lattice of N points and d features; the caller owns the arrays. A vertex has one row of
// values in every strip that touches it: its own row in the first of them, ghosts in the others.
// Rows are numbered by strip and, within a strip, in order of first touch.
template <typename T>
struct LatticeView {
  std::int64_t points = 0;  // N
  int dims = 0;             // d
  const std::int32_t* vertex =
      nullptr;                // [N, d+1], row of each corner, relative to the first of the strip
  const T* weight = nullptr;  // [N, d+1], barycentric
  const std::int32_t* links = nullptr;  // see Links
};

// The contents of the array `links`: a header, the own row of each vertex, the ghosts with their
// owners, and the chains of neighbours along each axis.
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
  const std::int32_t* ghost;                 // [ghosts], rows, sorted by owner
  const std::int32_t* owner;                 // [ghosts], the row of each ghost's vertex
  const std::uint32_t* chain[kMaxDims + 1];  // per axis: runs of neighbours, kChainEnd at each end
  std::int64_t chain_length[kMaxDims + 1];
};

// Length of `links`, whatever the features.
std::int64_t links_size(std::int64_t points, int dims, Quality quality);

// The view of a lattice for the loops over points; its values and sums are to be set.
template <typename T>
PointKernel<T> point_kernel(const LatticeView<T>& lattice, const Links& links) {
  PointKernel<T> kernel;
  kernel.corners = lattice.dims + 1;
  kernel.vertex = lattice.vertex;
  kernel.weight = lattice.weight;
  kernel.first_row = links.first_row;
  return kernel;
}

// N points of d features; feature i of point p lies at p point_stride + i feature_stride.
template <typename T>
struct FeatureView {
  const T* data = nullptr;
  std::int64_t point_stride = 0, feature_stride = 0;
  std::int64_t points = 0;
  int dims = 0;
};

// Build a lattice into vertex, weight [N, d+1] and links [links_size]. Requires 1 <= d <= kMaxDims
// and N (d+1) < 2^31. Return false if a feature is not finite or its coordinates exceed
// kMaxElevated; the arrays are then undefined.
template <typename T>
bool build(const FeatureView<T>& features, Quality quality, std::int32_t* vertex, T* weight,
           std::int32_t* links, int threads);

// out = K values, or K' values (axes blurred in reverse order), both [N, channels]; `out` must not
// overlap `values`.
template <typename T>
void filter(const LatticeView<T>& lattice, const T* values, int channels, bool transpose, T* out,
            int threads);

// d_weight [N, d+1]: the gradient of <cotangent, K values>, or of <cotangent, K' values>, for the
// weights; values and cotangent are [N, channels].
template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const T* values, const T* cotangent,
                            int channels, bool transpose, T* d_weight, int threads);

// d_feature [N, d] from d_weight [N, d+1].
template <typename T>
void feature_gradient(const FeatureView<T>& features, const T* d_weight, T* d_feature, int threads);

// out [N] = the diagonal of K.
template <typename T>
void self_response(const LatticeView<T>& lattice, T* out, int threads);

// d_weight [N, d+1] of <cotangent, diagonal>; cotangent [N].
template <typename T>
void self_response_gradient(const LatticeView<T>& lattice, const T* cotangent, T* d_weight,
                            int threads);

// Add the row of every ghost to that of its owner, and clear it.
template <typename T>
void fold(const Links& links, T* rows, int width, int threads);

// Blur rows [rows, width], already folded, along all axes. Standard quality: in place, returns
// false. Other qualities: also into `work` with the axes in reverse order; returns true, as the
// result is the mean of `rows` and `work`.
template <typename T>
bool blur(const Links& links, int dims, bool transpose, T* rows, T* work, int width, int threads);

// Copy the row of each owner to its ghosts.
template <typename T>
void share(const Links& links, T* rows, int width, int threads);

}  // namespace dcrf
