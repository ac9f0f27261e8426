// Slice: interpolates the values at the vertices of a lattice or the cells of a grid to the points.
// Used by the filter and the mean field.
#pragma once

#include "spread.hpp"

namespace dcrf::cuda {

// The corners of one point (the d+1 vertices of its simplex): the rows of their values and their
// barycentric weights.
template <typename T>
class Corners {
 public:
  DCRF_DEVICE Corners(const KernelView<T>& kernel, const Shape& shape, std::int64_t point,
                      std::int64_t in_image)
      : count(kernel.lattice.dims + 1) {
    const LatticeView<T>& lattice = kernel.lattice;
    const std::int64_t own = kernel.own(point, in_image) * count;
    weight = lattice.weight + own;
    vertex_ = lattice.vertex + own;
    // If images share a lattice, the values of each image follow the values of the image before.
    first_row_ = lattice.images == 1 ? point / shape.points * lattice.links.vertices : 0;
  }
  DCRF_DEVICE std::int64_t row(int k) const { return first_row_ + vertex_[k]; }

  const int count;
  const T* weight;

 private:
  const std::int32_t* vertex_;
  std::int64_t first_row_;
};

// Add to `sum` scale times the slice of `values` at one point, for the block of channels at `c`.
template <typename T, typename S>
DCRF_DEVICE void slice_lattice(const Lanes& lanes, const KernelView<T>& k, const Shape& shape,
                               std::int64_t point, std::int64_t in_image, int c, const S* values,
                               T scale, BlockSum<T>& sum) {
  const Corners<T> corners(k, shape, point, in_image);
  for (int j = 0; j < corners.count; ++j) {
    sum.add(lanes, c, shape.channels, scale * corners.weight[j],
            values + corners.row(j) * shape.width);
  }
}

// The same for a grid; slice with the splat weights if `transpose`.
template <typename T, typename S>
DCRF_DEVICE void slice_grid(const Lanes& lanes, const KernelView<T>& k, const Shape& shape,
                            std::int64_t point, std::int64_t in_image, int c, const S* values,
                            bool transpose, T scale, BlockSum<T>& sum) {
  const int width = shape.width;
  const GridView<T>& g = k.grid;
  const T* const* const taps = transpose ? g.splat : g.slice;
  const int rows = g.axes - 2, columns = g.axes - 1;
  const std::int64_t line = in_image / g.size[columns], x = in_image - line * g.size[columns];
  const std::int64_t layer = line / g.size[rows], y = line - layer * g.size[rows];
  const std::int64_t layers = g.axes == 3 ? g.cells[0] : 1;
  const std::int64_t first_layer = g.axes == 3 ? g.cell[0][layer] : 0;
  const int depth = g.axes == 3 ? kTaps : 1;
  const std::int64_t image = point / shape.points;
  for (int i = 0; i < depth; ++i) {
    const T layer_weight = g.axes == 3 ? scale * taps[0][kTaps * layer + i] : scale;
    const std::int64_t z = image * layers + first_layer + i;
    for (int j = 0; j < kTaps; ++j) {
      const T row_weight = layer_weight * taps[rows][kTaps * y + j];
      const std::int64_t row = z * g.cells[rows] + g.cell[rows][y] + j;
      const S* const from = values + (row * g.cells[columns] + g.cell[columns][x]) * width;
      for (int h = 0; h < kTaps; ++h)
        sum.add(lanes, c, shape.channels, row_weight * taps[columns][kTaps * x + h],
                from + h * width);
    }
  }
}

// The same for a kernel of either kind.
template <typename T, typename S>
DCRF_DEVICE void slice(const Lanes& lanes, const KernelView<T>& k, const Shape& shape,
                       std::int64_t point, std::int64_t in_image, int c, const S* values,
                       bool transpose, T scale, BlockSum<T>& sum) {
  if (k.is_grid()) {
    slice_grid(lanes, k, shape, point, in_image, c, values, transpose, scale, sum);
  } else {
    slice_lattice(lanes, k, shape, point, in_image, c, values, scale, sum);
  }
}

}  // namespace dcrf::cuda
