// What programs work on: lattices and grids of a batch of images, in device memory that the caller
// owns. Points are counted through the batch: point p of image b is b N + p. Plain data, the same
// for every compiler.
#pragma once

#include <cstdint>

#include "../core/simplex.hpp"

namespace dcrf {
namespace cuda {

// Where a program runs. The serial launcher takes no notice of it.
struct Stream {
  int device = 0;
  void* handle = nullptr;
};

// The features of `images` times `points` points; strides are in numbers.
template <typename T>
struct FeatureView {
  const T* data = nullptr;
  std::int64_t image_stride = 0, point_stride = 0, feature_stride = 0;
  std::int64_t images = 0, points = 0;
  int dims = 0;
};

constexpr int kSegmentChunk = 64;  // entries of a vertex that one group of lanes adds up

// The lattices of one image that serves all, or of every image, under one numbering of vertices.
// An entry is one corner of one point; those of a vertex lie together, by point.
struct Links {
  std::int64_t vertices = 0, entries = 0;      // entries: points times corners
  const std::int32_t* entry = nullptr;         // [entries], point times corners plus corner
  const std::int32_t* segment = nullptr;       // [vertices + 1], first entry of each vertex
  const std::int32_t* chunk_first = nullptr;   // [vertices + 1], first chunk of each vertex
  const std::int32_t* chunk_vertex = nullptr;  // [most_chunks]
  const std::int32_t* neighbour = nullptr;     // [d+1, vertices, 2], one step back and forth; or -1

  DCRF_HOST_DEVICE std::int64_t most_chunks() const { return vertices + entries / kSegmentChunk; }
  static std::int64_t size(std::int64_t vertices, std::int64_t entries, int corners) {
    return entries + 2 * (vertices + 1) + vertices + entries / kSegmentChunk +
           2 * corners * vertices;
  }

  // As it lies in an array of `length` numbers, which tells how many vertices there are and, by
  // what is left over, the quality.
  static int quality(std::int64_t length, std::int64_t entries, int corners) {
    return int((length - size(0, entries, corners)) % (3 + 2 * corners));
  }
  Links() = default;
  Links(const std::int32_t* links, std::int64_t length, std::int64_t entries_, int corners)
      : entries(entries_) {
    vertices = (length - size(0, entries, corners)) / (3 + 2 * corners);
    entry = links;
    segment = entry + entries;
    chunk_first = segment + vertices + 1;
    chunk_vertex = chunk_first + vertices + 1;
    neighbour = chunk_vertex + most_chunks();
  }
};

template <typename T>
struct LatticeView {
  Links links;
  int dims = 0;                          // d; 0: there is no lattice
  bool symmetric = false;                // the mean of the blurs in either order of the axes
  std::int64_t images = 1;               // 1, or all
  const std::int32_t* vertex = nullptr;  // [images N, d+1]
  const T* weight = nullptr;             // [images N, d+1]
};

// A regular grid over the pixels of an image, the same for all. The last axis is the column.
template <typename T>
struct GridView {
  int axes = 0;  // 2 or 3; 0: there is no grid
  std::int64_t size[3] = {};
  std::int64_t cells[3] = {};
  int radius[3] = {};
  const std::int32_t* cell[3] = {};   // [size], the first of three
  const std::int32_t* first[3] = {};  // [cells + 1], how many pixels have a lesser first cell
  const T* splat[3] = {};             // [size, 3]
  const T* slice[3] = {};             // [size, 3]
  const T* band[3] = {};              // [2 radius + 1]
};

// message = after (K - diag(diagonal)) (before q); scales, or null: of the images of its lattice,
// or of a grid for all images or for each.
template <typename T>
struct KernelView {
  LatticeView<T> lattice;
  GridView<T> grid;
  const T* before = nullptr;
  const T* after = nullptr;
  const T* diagonal = nullptr;
  bool grid_scales_per_image = false;

  DCRF_HOST_DEVICE bool is_grid() const { return grid.axes > 0; }
  // Where the scales, vertices and weights of a point lie, given its place in its image.
  DCRF_HOST_DEVICE std::int64_t own(std::int64_t point, std::int64_t in_image) const {
    return (is_grid() ? grid_scales_per_image : lattice.images > 1) ? point : in_image;
  }
  // Rows of values for a batch.
  DCRF_HOST_DEVICE std::int64_t rows(std::int64_t images) const {
    if (is_grid()) {
      std::int64_t cells = images;
      for (int a = 0; a < grid.axes; ++a) cells *= grid.cells[a];
      return cells;
    }
    return lattice.links.vertices * (images / lattice.images);
  }
};

// A batch of rows [images points, width] with `channels` numbers each.
struct Shape {
  std::int64_t points = 0;  // of one image
  std::int64_t images = 0;
  int channels = 0;
  int width = 0;
};

// The mean field of a batch. Planes are [images, L, N], rows [images N, width].
template <typename T>
struct Model {
  Shape shape;  // channels: labels
  int kernels = 0;
  int iterations = 0;
  const T* coupling = nullptr;  // [kernels, L, L], mu W: rows are the pixel's own label
  KernelView<T> kernel[kMaxKernels];

  DCRF_HOST_DEVICE std::int64_t points() const { return shape.images * shape.points; }
  // Where the number of a point and label lies in planes.
  DCRF_HOST_DEVICE std::int64_t in_planes(std::int64_t point, std::int64_t in_image,
                                          int label) const {
    return (point - in_image) * shape.channels + label * shape.points + in_image;
  }
  DCRF_HOST_DEVICE bool has_self_terms() const {
    for (int m = 0; m < kernels; ++m) {
      if (kernel[m].diagonal != nullptr) return true;
    }
    return false;
  }
};

// Where the gradient of one lattice kernel goes, for every image; weight null: not wanted.
template <typename T>
struct PointGradient {
  T* weight = nullptr;    // [images N, d+1]
  T* before = nullptr;    // [images N]; null exactly where the kernel's is
  T* after = nullptr;     // likewise
  T* diagonal = nullptr;  // likewise
};

}  // namespace cuda
}  // namespace dcrf
