// Programs on one lattice: the filter, its gradient with respect to the barycentric weights, and
// the diagonal of the kernel with its gradient.
#pragma once

#include "slice.hpp"

namespace dcrf::cuda {

// Slice the result of a spread at all points.
template <typename T>
struct Filter {
  KernelView<T> kernel;
  Spread<T> spread;
  Shape shape;
  T* out = nullptr;
  int lane_count = 1;

  DCRF_DEVICE void operator()(const World& world) const {
    const Lanes lanes(world, lane_count);
    for_items(world, lanes, shape.images * shape.points, [&](std::int64_t point) {
      for_blocks(lanes, shape.channels, [&](int c) {
        BlockSum<T> sum;
        slice_lattice(lanes, kernel, shape, point, point % shape.points, c, spread.values(kernel),
                      T(1), sum);
        sum.store(lanes, c, shape.channels, out + point * shape.width);
      });
    });
  }
};

// Compute the gradient of <cotangent, K values> or <cotangent, K' values> with respect to the
// barycentric weights. The gradient has two terms, since each weight is used twice: to slice the
// blurred `values`, and to splat `values`, whose adjoint is the blurred `cotangent`. Both spreads
// have run before.
template <typename T>
struct FilterWeightGradient {
  KernelView<T> kernel;
  Spread<T> sliced;  // splats and blurs `values`, to be sliced
  // Splats `cotangent` and blurs it in the opposite direction: the gradient with respect to the
  // splatted `values`.
  Spread<T> splatted;
  Shape shape;
  const T* values = nullptr;
  const T* cotangent = nullptr;
  T* d_weight = nullptr;  // [images N, d+1]
  int lane_count = 1;

  DCRF_DEVICE void operator()(const World& world) const {
    const Lanes lanes(world, lane_count);
    const int count = kernel.lattice.dims + 1;
    for_items(world, lanes, shape.images * shape.points * count, [&](std::int64_t item) {
      const std::int64_t point = item / count;
      const Corners<T> corners(kernel, shape, point, point % shape.points);
      const std::int64_t v = corners.row(int(item - point * count));
      const T* const forward = sliced.values(kernel) + v * shape.width;
      const T* const adjoint = splatted.values(kernel) + v * shape.width;
      const std::int64_t row = point * shape.width;
      T sum = 0;
      for (int c = lanes.rank(); c < shape.channels; c += lanes.size())
        sum += cotangent[row + c] * forward[c] + values[row + c] * adjoint[c];
      sum = lanes.sum(sum);
      if (lanes.rank() == 0) d_weight[item] = sum;
    });
  }
};

// Compute the diagonal of K or, with `cotangent`, the gradient of <cotangent, diagonal> with
// respect to the barycentric weights. K_ii is the sum over pairs of vertices (a, b) of the simplex
// of point i of weight_a * weight_b * (blur weight from a to b). One step along every axis in the
// same direction leads back to the start, so exactly two routes connect a and b: steps along the
// axes that separate them in one direction, or steps along all other axes in the opposite
// direction. Blurring the axes in reverse order takes the same routes in the opposite direction, so
// the result is the same for all qualities.
template <typename T>
struct SelfResponse {
  LatticeView<T> lattice;
  std::int64_t points = 0;  // over all images of the lattice
  T scale = 1;
  const T* cotangent = nullptr;  // [points] or null
  T* out = nullptr;              // [points], or [points, d+1]

  DCRF_DEVICE void operator()(const World& world) const {
    const int corners = lattice.dims + 1;
    for_each(world, points, [&](std::int64_t point) {
      std::int32_t corner[kMaxDims + 1];
      std::uint32_t leads[kMaxDims + 1] = {};  // bit of the axis from corner k to corner k + 1
      // Half the derivative of the diagonal (without `scale`) with respect to each weight.
      T sums[kMaxDims + 1] = {};
      const T* const weight = lattice.weight + point * corners;
      for (int k = 0; k < corners; ++k) corner[k] = lattice.vertex[point * corners + k];
      for (int k = 0; k + 1 < corners; ++k) {
        for (int axis = 0; axis < corners; ++axis) {
          if (step(corner[k], axis, 1) == corner[k + 1]) leads[k] = std::uint32_t(1) << axis;
        }
      }
      for (int a = 0; a < corners; ++a) {
        std::uint32_t between = 0;
        sums[a] +=
            weight[a] * (T(1) + route(corner[a], ~between, 0) + route(corner[a], ~between, 1));
        for (int b = a + 1; b < corners; ++b) {
          between |= leads[b - 1];
          // Mean of the blur weights a -> b and b -> a: the sum over both directions, halved since
          // `share` enters the sums of both corners.
          const T share = T(0.5) * (route(corner[a], between, 1) + route(corner[a], ~between, 0) +
                                    route(corner[b], between, 0) + route(corner[b], ~between, 1));
          sums[a] += weight[b] * share;
          sums[b] += weight[a] * share;
        }
      }
      if (cotangent == nullptr) {
        T total = 0;
        for (int a = 0; a < corners; ++a) total += weight[a] * sums[a];
        out[point] = scale * total;
      } else {
        for (int a = 0; a < corners; ++a)
          out[point * corners + a] = T(2) * scale * cotangent[point] * sums[a];
      }
    });
  }

 private:
  // Return the neighbour of a vertex along an axis, or -1 if it is missing. Direction 0 is
  // KeyMaths::neighbour, direction 1 is KeyMaths::neighbour_back, which leads from a corner to the
  // next.
  DCRF_DEVICE std::int32_t step(std::int64_t from, int axis, int direction) const {
    return lattice.links.neighbour[2 * (axis * lattice.links.vertices + from) + direction];
  }
  // Return the blur weight of one step along each axis in the bit set `along`; 0 if a vertex is
  // missing.
  DCRF_DEVICE T route(std::int32_t at, std::uint32_t along, int direction) const {
    T product = 1;
    for (int axis = 0; axis <= lattice.dims && at >= 0; ++axis) {
      if ((along >> axis & 1) == 0) continue;
      at = step(at, axis, direction);
      product *= T(kBlurSide);
    }
    return at < 0 ? T(0) : product;
  }
};

}  // namespace dcrf::cuda
