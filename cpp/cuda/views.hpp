// Views of lattices, grids and mean-field problems of a batch of images, as the CUDA programs take
// them. The arrays are in device memory and belong to the caller. Points are numbered through the
// batch: point p of image b has index b N + p. The views are plain data, which nvcc and the host
// compiler lay out alike.
#pragma once

#include <cstdint>

#include "../core/simplex.hpp"

namespace dcrf {
namespace cuda {

// The CUDA device and stream on which a program runs; ignored by the serial launcher.
struct Stream {
  int device = 0;
  void* handle = nullptr;
};

// Features [images, points, dims] with any strides, in elements (not bytes).
template <typename T>
struct FeatureView {
  const T* data = nullptr;
  std::int64_t image_stride = 0, point_stride = 0, feature_stride = 0;
  std::int64_t images = 0, points = 0;
  int dims = 0;
  const bool* inside = nullptr;  // [images points], whether a mask keeps the point; null: all
};

// Maximum number of entries of a vertex that one group of lanes sums. Vertices with more entries
// are divided into chunks, whose sums are added as a tree of this arity, so that a few vertices with
// very many entries do not serialise the splat.
constexpr int kSegmentChunk = 64;

// Links between points and vertices, for the lattice of one image (shared by the batch) or of all
// images (under one numbering of the vertices). An entry is one corner of one point (a vertex of
// the point's simplex); entries are grouped by vertex, and ordered by point within a vertex.
struct Links {
  std::int64_t vertices = 0, entries = 0;      // entries = points * (d+1)
  const std::int32_t* entry = nullptr;         // [entries], point * (d+1) + corner
  const std::int32_t* segment = nullptr;       // [vertices + 1], first entry of each vertex
  const std::int32_t* chunk_first = nullptr;   // [vertices + 1], first chunk of each vertex
  const std::int32_t* chunk_vertex = nullptr;  // [most_chunks()], vertex of each chunk
  // [d+1, vertices, 2], per axis: KeyMaths::neighbour and neighbour_back of each vertex; -1: none.
  const std::int32_t* neighbour = nullptr;

  // Return an upper bound on the number of chunks.
  DCRF_HOST_DEVICE std::int64_t most_chunks() const { return vertices + entries / kSegmentChunk; }
  // Return the length of the array that holds the links.
  static std::int64_t size(std::int64_t vertices, std::int64_t entries, int corners) {
    return entries + 2 * (vertices + 1) + vertices + entries / kSegmentChunk +
           2 * corners * vertices;
  }

  Links() = default;
  Links(const std::int32_t* links, std::int64_t vertices_, std::int64_t entries_)
      : vertices(vertices_), entries(entries_) {
    entry = links;
    segment = entry + entries;
    chunk_first = segment + vertices + 1;
    chunk_vertex = chunk_first + vertices + 1;
    neighbour = chunk_vertex + most_chunks();
  }
};

// A lattice with N points per image.
template <typename T>
struct LatticeView {
  Links links;
  int dims = 0;                          // d; 0 if the kernel is not a lattice
  bool symmetric = false;                // average the blurs in both axis orders
  std::int64_t images = 1;               // 1 (shared by the batch) or the batch size
  const std::int32_t* vertex = nullptr;  // [images N, d+1], vertex of each corner
  const T* weight = nullptr;             // [images N, d+1], barycentric weights
};

// A regular grid over the pixels of an image, the same for all images. The last axis is the column.
// Along each axis, a pixel is splatted to and sliced from three consecutive cells. Arrays of 3 have
// one element per axis.
template <typename T>
struct GridView {
  int axes = 0;                       // 2 or 3; 0 if the kernel is not a grid
  std::int64_t size[3] = {};          // pixels per axis
  std::int64_t cells[3] = {};         // cells per axis
  int radius[3] = {};                 // support radius of the blur, in cells
  const std::int32_t* cell[3] = {};   // [size], first of the pixel's three cells
  const std::int32_t* first[3] = {};  // [cells + 1], number of pixels with a smaller first cell
  const T* splat[3] = {};             // [size, 3], weights from a pixel to its cells
  const T* slice[3] = {};             // [size, 3], weights from its cells to a pixel
  const T* band[3] = {};              // [2 radius + 1], blur weights
};

// A kernel of a mean field, on a lattice or a grid: message = after (K - diag(diagonal)) (before
// q). Each of the scales before, after and diagonal may be null. They are [N] if all images share
// them (with a shared lattice, or a grid unless grid_scales_per_image), otherwise [images N].
template <typename T>
struct KernelView {
  LatticeView<T> lattice;
  GridView<T> grid;
  const T* before = nullptr;
  const T* after = nullptr;
  const T* diagonal = nullptr;
  bool grid_scales_per_image = false;

  DCRF_HOST_DEVICE bool is_grid() const { return grid.axes > 0; }
  // Return the index of a point in the arrays of the kernel; `in_image` is the index of the point
  // within its image.
  DCRF_HOST_DEVICE std::int64_t own(std::int64_t point, std::int64_t in_image) const {
    return (is_grid() ? grid_scales_per_image : lattice.images > 1) ? point : in_image;
  }
  // Return the number of rows of values (vertices or cells) of a batch.
  DCRF_HOST_DEVICE std::int64_t rows(std::int64_t images) const {
    if (is_grid()) {
      std::int64_t cells = images;
      for (int a = 0; a < grid.axes; ++a) cells *= grid.cells[a];
      return cells;
    }
    return lattice.links.vertices * (images / lattice.images);
  }
};

// Shape of a batch of rows, [images * points, width]; the first `channels` columns are used.
struct Shape {
  std::int64_t points = 0;  // per image
  std::int64_t images = 0;
  int channels = 0;
  int width = 0;
};

// A mean-field problem of a batch. Arrays that are called planes are [images, L, N]; arrays that
// are called rows are [images N, width].
template <typename T>
struct Model {
  Shape shape;  // shape.channels is L
  int kernels = 0;
  int iterations = 0;
  const T* coupling = nullptr;  // [kernels, L, L], mu W; row: the pixel's own label
  const T* coupling_columns = nullptr;  // the same transposed, so that lanes read along a column
  KernelView<T> kernel[kMaxKernels];

  DCRF_HOST_DEVICE std::int64_t points() const { return shape.images * shape.points; }
  // Return the index in planes of a label of a point.
  DCRF_HOST_DEVICE std::int64_t in_planes(std::int64_t point, std::int64_t in_image,
                                          int label) const {
    return (point - in_image) * shape.channels + label * shape.points + in_image;
  }
  // Return whether the diagonal (i = j) term of a kernel is to be removed.
  DCRF_HOST_DEVICE bool has_self_terms() const {
    for (int m = 0; m < kernels; ++m) {
      if (kernel[m].diagonal != nullptr) return true;
    }
    return false;
  }
};

// Output arrays for the gradients of one lattice kernel; `weight` is null if these gradients are
// not wanted.
template <typename T>
struct PointGradient {
  T* weight = nullptr;    // [images N, d+1]
  T* before = nullptr;    // [images N]; null if the kernel's is null
  T* after = nullptr;     // likewise
  T* diagonal = nullptr;  // likewise
};

}  // namespace cuda
}  // namespace dcrf
