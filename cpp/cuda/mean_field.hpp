// Mean-field inference of a batch as one program: T iterations of message passing, weighting,
// compatibility, unary and softmax, and its gradient. One launch each, whatever T is.
#pragma once

#include "../core/softmax.hpp"
#include "spread.hpp"

namespace dcrf {
namespace cuda {

// What a kernel removes of a point's own message: after diagonal before.
template <typename T>
DCRF_DEVICE T self_scale(const KernelView<T>& k, std::int64_t own) {
  T scale = k.diagonal[own];
  if (k.before != nullptr) scale *= k.before[own];
  return k.after == nullptr ? scale : scale * k.after[own];
}

// sum += scale times the slice of `values` at a point.
template <typename T, typename S>
DCRF_DEVICE void slice(const Lanes& lanes, const KernelView<T>& k, const Shape& shape,
                       std::int64_t point, std::int64_t in_image, int c, const S* values,
                       bool transpose, T scale, Together<T>& sum) {
  const int width = shape.width;
  if (!k.is_grid()) {
    const LatticeView<T>& lattice = k.lattice;
    const int corners = lattice.dims + 1;
    const std::int64_t own = k.own(point, in_image) * corners;
    if (lattice.images == 1) values += (point / shape.points) * lattice.links.vertices * width;
    for (int j = 0; j < corners; ++j) {
      const std::int64_t v = lattice.vertex[own + j];
      sum.add(lanes, c, shape.channels, scale * lattice.weight[own + j], values + v * width);
    }
    return;
  }
  const GridView<T>& g = k.grid;
  const T* const* const taps = transpose ? g.splat : g.slice;
  const int rows = g.axes - 2, columns = g.axes - 1;
  const std::int64_t line = in_image / g.size[columns], x = in_image - line * g.size[columns];
  const std::int64_t layer = line / g.size[rows], y = line - layer * g.size[rows];
  const std::int64_t layers = g.axes == 3 ? g.cells[0] : 1;
  const std::int64_t first_layer = g.axes == 3 ? g.cell[0][layer] : 0;
  const int depth = g.axes == 3 ? 3 : 1;
  const std::int64_t image = point / shape.points;
  for (int i = 0; i < depth; ++i) {
    const T of_layer = g.axes == 3 ? scale * taps[0][3 * layer + i] : scale;
    const std::int64_t z = image * layers + first_layer + i;
    for (int j = 0; j < 3; ++j) {
      const T of_row = of_layer * taps[rows][3 * y + j];
      const std::int64_t row = z * g.cells[rows] + g.cell[rows][y] + j;
      const S* const from = values + (row * g.cells[columns] + g.cell[columns][x]) * width;
      for (int h = 0; h < 3; ++h)
        sum.add(lanes, c, shape.channels, of_row * taps[columns][3 * x + h], from + h * width);
    }
  }
}

// sum += scale C row, or C' row, for a row of all labels.
template <typename T>
DCRF_DEVICE void add_coupled(const Lanes& lanes, int labels, int c, const T* coupling,
                             bool transposed, const T* row, T scale, Together<T>& sum) {
  for (int l = 0; l < labels; ++l) {
    const T x = scale * row[l];
    for (int i = 0; i < kTogether; ++i) {
      const int at = c + i * lanes.size();
      if (at < labels) sum.x[i] += x * coupling[transposed ? l * labels + at : at * labels + l];
    }
  }
}

// S: what values at vertices and cells are kept in.
template <typename T, typename S>
struct Forward {
  Model<T> model;
  int lane_count = 1;
  Spread<T, S> spread[kMaxKernels];
  const T* logits = nullptr;  // planes
  T* refined = nullptr;       // planes
  T* marginals = nullptr;     // [slots, points, width]
  int slots = 1;  // T: all are kept; else 2 if there are self terms, which read while others write

  DCRF_DEVICE void operator()(World& world) const {
    const Lanes lanes(world, lane_count);
    for (int t = 0;; ++t) {
      update(world, lanes, t);
      if (t == model.iterations) return;
      world.sync();
      int steps = 0;
      for (int m = 0; m < model.kernels; ++m) {
        const int own = spread[m].steps(model.kernel[m]);
        steps = own > steps ? own : steps;
      }
      for (int step = 0; step < steps; ++step) {
        for (int m = 0; m < model.kernels; ++m)
          spread_step(world, lanes, model.kernel[m], spread[m], model.shape, slot(t), step);
        world.sync();
      }
    }
  }

 private:
  DCRF_DEVICE T* slot(int t) const {
    return marginals + std::int64_t(t % slots) * model.points() * model.shape.width;
  }

  // U' of iteration t, and its softmax if it is not the last.
  DCRF_DEVICE void update(const World& world, const Lanes& lanes, int t) const {
    const Shape& shape = model.shape;
    const int labels = shape.channels;
    const bool last = t == model.iterations, one_block = labels <= kTogether * lanes.size();
    for_items(world, lanes, model.points(), [&](std::int64_t point) {
      const std::int64_t in_image = point % shape.points;
      T* const row = slot(last ? 0 : t) + point * shape.width;
      T greatest = -INFINITY;
      for_blocks(lanes, labels, [&](int c) {
        Together<T> u;
        if (t > 0) subtract_messages(lanes, t, point, in_image, c, u);
        for (int i = 0; i < kTogether; ++i) {
          const int label = c + i * lanes.size();
          if (label >= labels) break;
          const std::int64_t at = model.in_planes(point, in_image, label);
          u.x[i] += logits[at];
          if (last) refined[at] = u.x[i];
          greatest = u.x[i] > greatest ? u.x[i] : greatest;
        }
        if (last) return;
        if (one_block) {
          normalize(lanes, c, labels, u, row, greatest);
        } else {
          u.store(lanes, c, labels, row);
        }
      });
      if (last) return;
      if (!one_block) normalize_row(lanes, labels, row, greatest);
      for (int at = labels + lanes.rank(); at < shape.width; at += lanes.size()) row[at] = 0;
    });
  }

  DCRF_DEVICE void subtract_messages(const Lanes& lanes, int t, std::int64_t point,
                                     std::int64_t in_image, int c, Together<T>& u) const {
    const Shape& shape = model.shape;
    for (int m = 0; m < model.kernels; ++m) {
      const KernelView<T>& k = model.kernel[m];
      const std::int64_t own = k.own(point, in_image);
      const T scale = k.after == nullptr ? T(-1) : -k.after[own];
      slice(lanes, k, shape, point, in_image, c, spread[m].values(k), false, scale, u);
      if (k.diagonal == nullptr) continue;
      const std::int64_t matrix = std::int64_t(shape.channels) * shape.channels;
      add_coupled(lanes, shape.channels, c, model.coupling + m * matrix, false,
                  slot(t - 1) + point * shape.width, self_scale(k, own), u);
    }
  }

  // The softmax of numbers that the lanes hold.
  DCRF_DEVICE void normalize(const Lanes& lanes, int c, int labels, Together<T>& u, T* row,
                             T greatest) const {
    greatest = lanes.greatest(greatest);
    T sum = 0;
    for (int i = 0; i < kTogether; ++i) {
      if (c + i * lanes.size() >= labels) break;
      u.x[i] = exponential(u.x[i] - greatest);
      sum += u.x[i];
    }
    sum = T(1) / lanes.sum(sum);
    for (int i = 0; i < kTogether; ++i) u.x[i] *= sum;
    u.store(lanes, c, labels, row);
  }

  // The same for numbers in memory. Each lane reads what it wrote itself.
  DCRF_DEVICE void normalize_row(const Lanes& lanes, int labels, T* row, T greatest) const {
    greatest = lanes.greatest(greatest);
    T sum = 0;
    for_blocks(lanes, labels, [&](int c) {
      for (int i = 0; i < kTogether; ++i) {
        const int at = c + i * lanes.size();
        if (at >= labels) break;
        row[at] = exponential(row[at] - greatest);
        sum += row[at];
      }
    });
    sum = T(1) / lanes.sum(sum);
    for (int at = lanes.rank(); at < labels; at += lanes.size()) row[at] *= sum;
  }
};

template <typename T>
struct Backward {
  Model<T> model;
  int lane_count = 1;
  Spread<T> adjoint[kMaxKernels];  // of the gradient of U': transposed kernel and coupling
  Spread<T> forward[kMaxKernels];  // of the marginals; blurred where `wanted`
  PointGradient<T> wanted[kMaxKernels];
  const T* marginals = nullptr;  // [T, points, width]
  const T* d_refined = nullptr;  // planes
  T* d_logits = nullptr;         // planes
  T* gradient = nullptr;         // [slots, points, width], of U' of the iterations
  int slots = 1;                 // 2 if there are self terms
  T* outer = nullptr;            // [kernels, chunks, L, L]
  std::int64_t chunks = 0, chunk_rows[kMaxKernels] = {}, chunk_points = 0;
  T* d_coupling = nullptr;  // [kernels, L, L]

  DCRF_DEVICE void operator()(World& world) const {
    const Lanes lanes(world, lane_count);
    read(world, lanes);
    world.sync();
    for (int t = model.iterations - 1; t >= 0; --t) {  // the iteration that starts from marginals t
      int steps = 0;
      for (int m = 0; m < model.kernels; ++m) {
        const int one = adjoint[m].steps(model.kernel[m]), two = forward[m].steps(model.kernel[m]);
        steps = one > steps ? one : steps;
        steps = two > steps ? two : steps;
      }
      for (int step = 0; step < steps; ++step) {
        for (int m = 0; m < model.kernels; ++m) {
          const KernelView<T>& k = model.kernel[m];
          spread_step(world, lanes, k, adjoint[m], model.shape, slot(t + 1), step);
          spread_step(world, lanes, k, forward[m], model.shape, q(t), step);
        }
        world.sync();
      }
      for (int m = 0; m < model.kernels; ++m) add_outer(world, lanes, m, t);
      update(world, lanes, t);
      world.sync();
    }
    reduce_outer(world, lanes);
  }

 private:
  DCRF_DEVICE T* slot(int t) const {
    return gradient + std::int64_t(t % slots) * model.points() * model.shape.width;
  }
  DCRF_DEVICE const T* q(int t) const {
    return marginals + std::int64_t(t) * model.points() * model.shape.width;
  }

  DCRF_DEVICE void read(const World& world, const Lanes& lanes) const {
    const Shape& shape = model.shape;
    for_items(world, lanes, model.points(), [&](std::int64_t point) {
      T* const row = slot(model.iterations) + point * shape.width;
      for (int label = lanes.rank(); label < shape.channels; label += lanes.size()) {
        const std::int64_t at = model.in_planes(point, point % shape.points, label);
        row[label] = d_logits[at] = d_refined[at];
      }
    });
    const std::int64_t matrix = std::int64_t(shape.channels) * shape.channels;
    clear(world, outer, model.kernels * chunks * matrix);
    for (int m = 0; m < model.kernels; ++m) {
      if (wanted[m].weight == nullptr) continue;
      clear(world, wanted[m].weight, model.points() * (model.kernel[m].lattice.dims + 1));
      for (T* const scale : {wanted[m].before, wanted[m].after, wanted[m].diagonal})
        clear(world, scale, scale == nullptr ? 0 : model.points());
    }
  }

  DCRF_DEVICE void clear(const World& world, T* numbers, std::int64_t count) const {
    for_each(world, count, [&](std::int64_t i) { numbers[i] = 0; });
  }

  // The gradient of the logits of iteration t, from that of iteration t + 1.
  DCRF_DEVICE void update(const World& world, const Lanes& lanes, int t) const {
    const Shape& shape = model.shape;
    const int labels = shape.channels;
    const bool one_block = labels <= kTogether * lanes.size();
    for_items(world, lanes, model.points(), [&](std::int64_t point) {
      const std::int64_t in_image = point % shape.points;
      const T* const old = slot(t + 1) + point * shape.width;
      const T* const marginal = q(t) + point * shape.width;
      T* const row = slot(t) + point * shape.width;
      for (int m = 0; m < model.kernels; ++m) {
        if (wanted[m].weight != nullptr) add_wanted(lanes, m, point, in_image, old, marginal);
      }
      T mean = 0;
      for_blocks(lanes, labels, [&](int c) {
        Together<T> d_q;
        for (int m = 0; m < model.kernels; ++m) {
          const KernelView<T>& k = model.kernel[m];
          const std::int64_t own = k.own(point, in_image);
          const T scale = k.before == nullptr ? T(-1) : -k.before[own];
          slice(lanes, k, shape, point, in_image, c, adjoint[m].values(k), true, scale, d_q);
          if (k.diagonal == nullptr) continue;
          add_coupled(lanes, labels, c, coupling(m), true, old, self_scale(k, own), d_q);
        }
        for (int i = 0; i < kTogether; ++i) {
          const int at = c + i * lanes.size();
          if (at < labels) mean += marginal[at] * d_q.x[i];
        }
        if (one_block) {
          mean = lanes.sum(mean);
          for (int i = 0; i < kTogether; ++i) {
            const int at = c + i * lanes.size();
            if (at < labels) finish(point, in_image, at, marginal[at], d_q.x[i] - mean, row);
          }
        } else {
          d_q.store(lanes, c, labels, row);
        }
      });
      if (one_block) return;
      mean = lanes.sum(mean);
      for (int at = lanes.rank(); at < labels; at += lanes.size())
        finish(point, in_image, at, marginal[at], row[at] - mean, row);
    });
  }

  DCRF_DEVICE const T* coupling(int m) const {
    return model.coupling + std::int64_t(m) * model.shape.channels * model.shape.channels;
  }

  DCRF_DEVICE void finish(std::int64_t point, std::int64_t in_image, int label, T marginal,
                          T excess, T* row) const {
    const T found = marginal * excess;
    row[label] = found;
    d_logits[model.in_planes(point, in_image, label)] += found;
  }

  // The gradients for the weights and scales of kernel m at one point.
  DCRF_DEVICE void add_wanted(const Lanes& lanes, int m, std::int64_t point, std::int64_t in_image,
                              const T* d_u, const T* marginal) const {
    const KernelView<T>& k = model.kernel[m];
    const LatticeView<T>& lattice = k.lattice;
    const PointGradient<T>& to = wanted[m];
    const Shape& shape = model.shape;
    const int corners = lattice.dims + 1;
    const std::int64_t own = k.own(point, in_image);
    const std::int64_t base =
        lattice.images == 1 ? point / shape.points * lattice.links.vertices : 0;
    const T before = k.before == nullptr ? T(1) : k.before[own];
    const T after = k.after == nullptr ? T(1) : k.after[own];
    T d_before = 0, d_after = 0;
    for (int j = 0; j < corners; ++j) {
      const std::int64_t v = (base + lattice.vertex[own * corners + j]) * shape.width;
      const T* const message = forward[m].values(k) + v;
      const T* const returned = adjoint[m].values(k) + v;
      T heard = 0, told = 0;
      for (int c = lanes.rank(); c < shape.channels; c += lanes.size()) {
        heard += d_u[c] * message[c];
        told += marginal[c] * returned[c];
      }
      heard = lanes.sum(heard);
      told = lanes.sum(told);
      const T weight = lattice.weight[own * corners + j];
      d_after += weight * heard;
      d_before += weight * told;
      if (lanes.rank() == 0) to.weight[point * corners + j] -= after * heard + before * told;
    }
    T to_itself = 0;  // <d_u, C marginal>
    if (k.diagonal != nullptr) {
      for (int c = lanes.rank(); c < shape.channels; c += lanes.size()) {
        T message = 0;
        for (int l = 0; l < shape.channels; ++l)
          message += coupling(m)[c * shape.channels + l] * marginal[l];
        to_itself += d_u[c] * message;
      }
      to_itself = lanes.sum(to_itself);
    }
    if (lanes.rank() != 0) return;
    const T diagonal = k.diagonal == nullptr ? T(0) : k.diagonal[own];
    if (to.before != nullptr) to.before[point] -= d_before - after * diagonal * to_itself;
    if (to.after != nullptr) to.after[point] -= d_after - before * diagonal * to_itself;
    if (to.diagonal != nullptr) to.diagonal[point] += after * before * to_itself;
  }

  // outer[m] -= the gradient of the coupling, chunk by chunk: at the vertices or cells the product
  // of what the adjoint blurred and what the forward pass splatted; at the points the self terms.
  DCRF_DEVICE void add_outer(const World& world, const Lanes& lanes, int m, int t) const {
    const KernelView<T>& k = model.kernel[m];
    const Shape& shape = model.shape;
    const int labels = shape.channels, width = shape.width;
    const std::int64_t rows = k.rows(shape.images);
    const T* const blurred = adjoint[m].blurred_rows(k);
    const T* const second = adjoint[m].other_blurred_rows(k);
    const T* const sums = forward[m].room.sums;
    const T scale = second == nullptr ? adjoint[m].scale : T(0.5) * adjoint[m].scale;
    for_items(world, lanes, chunks * labels, [&](std::int64_t item) {
      const std::int64_t chunk = item / labels;
      const int label = int(item - chunk * labels);
      const std::int64_t begin = chunk * chunk_rows[m];
      const std::int64_t end = begin + chunk_rows[m] < rows ? begin + chunk_rows[m] : rows;
      for_blocks(lanes, labels, [&](int c) {
        Together<T> sum;
        for (std::int64_t r = begin; r < end; ++r) {
          T x = blurred[r * width + label];
          if (second != nullptr) x += second[r * width + label];
          sum.add(lanes, c, labels, scale * x, sums + r * width);
        }
        if (k.diagonal != nullptr) {
          const std::int64_t first = chunk * chunk_points;
          for (std::int64_t p = first; p < first + chunk_points && p < model.points(); ++p) {
            const T self = self_scale(k, k.own(p, p % shape.points));
            sum.add(lanes, c, labels, -self * slot(t + 1)[p * width + label], q(t) + p * width);
          }
        }
        T* const out = outer + ((m * chunks + chunk) * labels + label) * labels;
        for (int i = 0; i < kTogether; ++i) {
          const int at = c + i * lanes.size();
          if (at < labels) out[at] += sum.x[i];
        }
      });
    });
  }

  DCRF_DEVICE void reduce_outer(const World& world, const Lanes& lanes) const {
    const std::int64_t matrix = std::int64_t(model.shape.channels) * model.shape.channels;
    for_items(world, lanes, model.kernels * matrix, [&](std::int64_t item) {
      const std::int64_t m = item / matrix, at = item - m * matrix;
      double sum = 0;
      for (std::int64_t chunk = lanes.rank(); chunk < chunks; chunk += lanes.size())
        sum += double(outer[(m * chunks + chunk) * matrix + at]);
      sum = lanes.sum(sum);
      if (lanes.rank() == 0) d_coupling[item] = T(-sum);
    });
  }
};

}  // namespace cuda
}  // namespace dcrf
