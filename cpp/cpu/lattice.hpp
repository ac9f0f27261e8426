// The permutohedral lattice on CPUs: build it, apply it as a filter or as the transposed filter,
// and compute its diagonal and gradients. Used by the mean field and the bindings. Results are
// bit-identical for any number of threads: the points are divided into strips that depend only on
// the number of points, each strip splats into its own rows, and these rows are added up in a fixed
// order.
#pragma once

#include <cstdint>

#include "../core/simplex.hpp"
#include "loops.hpp"

namespace dcrf {

// How a lattice is built and blurred. kStandard: one blur, along the axes in order. kSymmetric: the
// mean of the blurs in order and in reverse order. kFilled: as kSymmetric, and the lattice also
// contains all neighbours of the vertices that the points touch.
enum class Quality { kStandard = 0, kSymmetric = 1, kFilled = 2 };

// A built lattice of N points and d features; the caller owns the arrays. A corner is one of the
// d+1 vertices of the simplex of a point. A vertex has one row of values in every strip of points
// that touches it: the row in the first of these strips is its own row, the rows in the others are
// its ghosts. Rows are numbered by strip and, within a strip, in order of first touch.
template <typename T>
struct LatticeView {
  std::int64_t points = 0;  // N
  int dims = 0;             // d
  // [N, d+1], row of each corner, relative to the first row of the strip.
  const std::int32_t* vertex = nullptr;
  const T* weight = nullptr;            // [N, d+1], barycentric weights
  const std::int32_t* links = nullptr;  // see Links
};

// A view of the array `links`, which contains a header, the own row of each vertex, the ghosts with
// the own rows of their vertices (owners), and the chains of neighbours along each axis.
struct Links {
  // Positions in the array: of the numbers in the header, then of `first_row`, `chain_length` and
  // the remaining arrays.
  static constexpr int kVertices = 0, kQuality = 1, kRows = 2, kGhosts = 3, kFirstRow = 8,
                       kChain = 32, kData = 64;

  explicit Links(const std::int32_t* links, int dims);

  // Return whether an array of `size` elements can be the links of a lattice of `points` points.
  static bool fits(const std::int32_t* links, std::int64_t size, std::int64_t points, int dims);

  std::int64_t vertices, rows, ghosts;
  std::int64_t used;  // number of elements of the array that are in use
  Quality quality;
  const std::int32_t* first_row;             // [strips], first row of each strip
  const std::int32_t* own_row;               // [vertices], own row of each vertex
  const std::int32_t* ghost;                 // [ghosts], rows of the ghosts, sorted by owner
  const std::int32_t* owner;                 // [ghosts], own row of each ghost's vertex
  const std::uint32_t* chain[kMaxDims + 1];  // per axis: own rows of consecutive neighbours;
                                             // kChainEnd marks the last of each chain
  std::int64_t chain_length[kMaxDims + 1];   // per axis: number of rows in all chains
};

// Return the length of the array `links`, which suffices for any features.
std::int64_t links_size(std::int64_t points, int dims, Quality quality);

// Return the view of a lattice for the loops over points; the caller sets its `values` and `sums`.
template <typename T>
PointKernel<T> point_kernel(const LatticeView<T>& lattice, const Links& links) {
  PointKernel<T> kernel;
  kernel.corners = lattice.dims + 1;
  kernel.vertex = lattice.vertex;
  kernel.weight = lattice.weight;
  kernel.first_row = links.first_row;
  return kernel;
}

// N points of d features; feature i of point p is data[p * point_stride + i * feature_stride].
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

// Compute out = K values, or out = K' values (axes blurred in reverse order) if `transpose`. Both
// arrays are [N, channels]; `out` must not overlap `values`.
template <typename T>
void filter(const LatticeView<T>& lattice, const T* values, int channels, bool transpose, T* out,
            int threads);

// Write to d_weight [N, d+1] the gradient of <cotangent, K values>, or of <cotangent, K' values>,
// with respect to the barycentric weights; values and cotangent are [N, channels].
template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const T* values, const T* cotangent,
                            int channels, bool transpose, T* d_weight, int threads);

// Backpropagate from d_weight [N, d+1] to d_feature [N, d].
template <typename T>
void feature_gradient(const FeatureView<T>& features, const T* d_weight, T* d_feature, int threads);

// Write the diagonal of K to out [N].
template <typename T>
void self_response(const LatticeView<T>& lattice, T* out, int threads);

// Write to d_weight [N, d+1] the gradient of <cotangent, diagonal of K> with respect to the
// barycentric weights; cotangent is [N].
template <typename T>
void self_response_gradient(const LatticeView<T>& lattice, const T* cotangent, T* d_weight,
                            int threads);

// Add the row of every ghost to its owner, and set the ghost to 0.
template <typename T>
void fold(const Links& links, T* rows, int width, int threads);

// Blur the folded rows [rows, width] in place along all axes, in reverse order if `transpose`.
// Return false for standard quality. For other qualities, also blur a copy in `work` with the axes
// in reverse order and return true: the result is the mean of `rows` and `work`.
template <typename T>
bool blur(const Links& links, int dims, bool transpose, T* rows, T* work, int width, int threads);

// Copy the row of each owner to its ghosts.
template <typename T>
void share(const Links& links, T* rows, int width, int threads);

}  // namespace dcrf
