// Programs on one lattice: filter, its gradient for the weights, the diagonal and its gradient, the
// gradient for the features.
#pragma once

#include "spread.hpp"

namespace dcrf {
namespace cuda {

template <typename T>
DCRF_DEVICE void run_spread(World& world, const Lanes& lanes, const KernelView<T>& kernel,
                            const Spread<T>& spread, const Shape& shape, const T* from) {
  for (int step = 0; step < spread.steps(kernel); ++step) {
    spread_step(world, lanes, kernel, spread, shape, from, step);
    world.sync();
  }
}

// out = K values, or K' values.
template <typename T>
struct Filter {
  KernelView<T> kernel;
  Spread<T> spread;
  Shape shape;
  const T* values = nullptr;
  T* out = nullptr;
  int lane_count = 1;

  DCRF_DEVICE void operator()(World& world) const {
    const Lanes lanes(world, lane_count);
    run_spread(world, lanes, kernel, spread, shape, values);
    const LatticeView<T>& lattice = kernel.lattice;
    const T* const blurred = spread.values(kernel);
    const int corners = lattice.dims + 1;
    for_items(world, lanes, shape.images * shape.points, [&](std::int64_t point) {
      const std::int64_t image = point / shape.points;
      const std::int64_t own = kernel.own(point, point - image * shape.points);
      const std::int64_t base = lattice.images == 1 ? image * lattice.links.vertices : 0;
      for_blocks(lanes, shape.channels, [&](int c) {
        Together<T> sum;
        for (int k = 0; k < corners; ++k) {
          const std::int64_t v = base + lattice.vertex[own * corners + k];
          sum.add(lanes, c, shape.channels, lattice.weight[own * corners + k],
                  blurred + v * shape.width);
        }
        sum.store(lanes, c, shape.channels, out + point * shape.width);
      });
    });
  }
};

// d_weight [images N, d+1] of <cotangent, K values> or <cotangent, K' values>: the weights that
// slice what came of `values`, and those that splat what goes into `cotangent`.
template <typename T>
struct FilterWeightGradient {
  KernelView<T> kernel;
  Spread<T> sliced;    // of values
  Spread<T> splatted;  // of cotangent, transposed
  Shape shape;
  const T* values = nullptr;
  const T* cotangent = nullptr;
  T* d_weight = nullptr;
  int lane_count = 1;

  DCRF_DEVICE void operator()(World& world) const {
    const Lanes lanes(world, lane_count);
    run_spread(world, lanes, kernel, sliced, shape, values);
    run_spread(world, lanes, kernel, splatted, shape, cotangent);
    const LatticeView<T>& lattice = kernel.lattice;
    const int corners = lattice.dims + 1;
    for_items(world, lanes, shape.images * shape.points * corners, [&](std::int64_t item) {
      const std::int64_t point = item / corners, image = point / shape.points;
      const int k = int(item - point * corners);
      const std::int64_t own = kernel.own(point, point - image * shape.points);
      const std::int64_t base = lattice.images == 1 ? image * lattice.links.vertices : 0;
      const std::int64_t v = base + lattice.vertex[own * corners + k];
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

// Either the diagonal of K, or with `cotangent` the gradient of <cotangent, diagonal> for the
// weights: what each point hears of itself, by way of each pair of its corners. A step along every
// axis in one sense closes, so between two corners there are just two routes: the axes that
// separate them in one sense, or all the others in the opposite one. Blurring the axes in reverse
// order walks the same routes the other way, so all qualities share this.
template <typename T>
struct SelfResponse {
  LatticeView<T> lattice;
  std::int64_t points = 0;  // of all images of the lattice
  T scale = 1;
  const T* cotangent = nullptr;  // [points] or null
  T* out = nullptr;              // [points], or [points, d+1]

  DCRF_DEVICE void operator()(World& world) const {
    const int corners = lattice.dims + 1;
    for_each(world, points, [&](std::int64_t point) {
      std::int32_t corner[kMaxDims + 1];
      std::uint32_t leads[kMaxDims + 1] = {};  // the axis from corner k to corner k + 1, as a bit
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
          // There and back. Half of it each way: the sum is the same, and so is the gradient.
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
  DCRF_DEVICE std::int32_t step(std::int64_t from, int axis, int sense) const {
    return lattice.links.neighbour[2 * (axis * lattice.links.vertices + from) + sense];
  }
  // The product of a walk along some axes; 0 where a vertex is missing.
  DCRF_DEVICE T route(std::int32_t at, std::uint32_t along, int sense) const {
    T product = 1;
    for (int axis = 0; axis <= lattice.dims && at >= 0; ++axis) {
      if ((along >> axis & 1) == 0) continue;
      at = step(at, axis, sense);
      product *= T(0.5);
    }
    return at < 0 ? T(0) : product;
  }
};

}  // namespace cuda
}  // namespace dcrf
