// Programs of the mean field of a batch and of its gradient, launched in turn by mean_field.cu with
// the spreads between them.
#pragma once

#include "../core/softmax.hpp"
#include "slice.hpp"

namespace dcrf::cuda {

// Return one element of the diagonal of the kernel with its normaliser, after * diagonal * before.
// Self terms, the diagonal (i = j) terms of the messages, are removed with this factor.
template <typename T>
DCRF_DEVICE T self_scale(const KernelView<T>& k, std::int64_t own) {
  T scale = k.diagonal[own];
  if (k.before != nullptr) scale *= k.before[own];
  return k.after == nullptr ? scale : scale * k.after[own];
}

// Computes the logits after t iterations from the spreads of the marginals before, and their softmax.
// S is the storage type of values at vertices and cells.
template <typename T, typename S>
struct Forward {
  Model<T> model;
  int lane_count = 1;
  Spread<T, S> spread[kMaxKernels];
  const T* logits = nullptr;  // planes
  T* refined = nullptr;       // planes
  T* marginals = nullptr;     // [slots, points, width]
  // Marginals of iteration t are in slot t % slots: one slot per iteration if they are saved.
  // Otherwise there is 1 slot, or 2 with self terms, which read the old marginals of a point while
  // the new ones are written.
  int slots = 1;

  int t = 0;

  DCRF_DEVICE void operator()(const World& world) const {
    update(world, Lanes(world, lane_count));
  }

  DCRF_HOST_DEVICE T* slot(int iteration) const {
    return marginals + std::int64_t(iteration % slots) * model.points() * model.shape.width;
  }

 private:
  // Compute the logits after t iterations and write their softmax; after the last iteration, write
  // the logits themselves.
  DCRF_DEVICE void update(const World& world, const Lanes& lanes) const {
    const Shape& shape = model.shape;
    const int labels = shape.channels;
    const bool last = t == model.iterations, one_block = labels <= kPerLane * lanes.size();
    for_items(world, lanes, model.points(), [&](std::int64_t point) {
      const std::int64_t in_image = point % shape.points;
      T* const row = slot(last ? 0 : t) + point * shape.width;
      T greatest = -INFINITY;
      for_blocks(lanes, labels, [&](int c) {
        BlockSum<T> u;
        if (t > 0) subtract_messages(lanes, point, in_image, c, u);
        for_held(lanes, c, labels, [&](int i, int label) {
          const std::int64_t at = model.in_planes(point, in_image, label);
          u.x[i] += logits[at];
          if (last) refined[at] = u.x[i];
          greatest = u.x[i] > greatest ? u.x[i] : greatest;
        });
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

  // Subtract the weighted messages of all kernels, without their self terms, from u.
  DCRF_DEVICE void subtract_messages(const Lanes& lanes, std::int64_t point, std::int64_t in_image,
                                     int c, BlockSum<T>& u) const {
    const Shape& shape = model.shape;
    for (int m = 0; m < model.kernels; ++m) {
      const KernelView<T>& k = model.kernel[m];
      const std::int64_t own = k.own(point, in_image);
      const T scale = k.after == nullptr ? T(-1) : -k.after[own];
      slice(lanes, k, shape, point, in_image, c, spread[m].values(k), false, scale, u);
      if (k.diagonal == nullptr) continue;
      const T* const marginal = slot(t - 1) + point * shape.width;
      const T self = self_scale(k, own);
      add_coupled(
          lanes, shape.channels, c, spread[m].columns,
          [&](int l) { return self * marginal[l]; }, u);
    }
  }

  // Write the softmax of logits that the lanes hold in registers.
  DCRF_DEVICE void normalize(const Lanes& lanes, int c, int labels, BlockSum<T>& u, T* row,
                             T greatest) const {
    greatest = lanes.greatest(greatest);
    T sum = 0;
    for_held(lanes, c, labels, [&](int i, int) {
      u.x[i] = exponential(u.x[i] - greatest);
      sum += u.x[i];
    });
    sum = T(1) / lanes.sum(sum);
    for (int i = 0; i < kPerLane; ++i) u.x[i] *= sum;
    u.store(lanes, c, labels, row);
  }

  // Replace the logits in `row` by their softmax. Each lane reads only elements that it has written
  // itself.
  DCRF_DEVICE void normalize_row(const Lanes& lanes, int labels, T* row, T greatest) const {
    greatest = lanes.greatest(greatest);
    T sum = 0;
    for (int at = lanes.rank(); at < labels; at += lanes.size()) {
      row[at] = exponential(row[at] - greatest);
      sum += row[at];
    }
    sum = T(1) / lanes.sum(sum);
    for (int at = lanes.rank(); at < labels; at += lanes.size()) row[at] *= sum;
  }
};

// What the programs of the backward pass share: gradients of <d_refined, refined> for logits,
// couplings and, where wanted, the barycentric weights and scales of lattice kernels.
template <typename T>
struct Backward {
  Model<T> model;
  int lane_count = 1;
  Spread<T> adjoint[kMaxKernels];  // spreads d_logits with the transposed kernel and coupling
  Spread<T> forward[kMaxKernels];  // spreads the marginals; blurs only where `wanted`
  PointGradient<T> wanted[kMaxKernels];
  const T* marginals = nullptr;  // [T, points, width]
  const T* d_refined = nullptr;  // planes
  T* d_logits = nullptr;         // planes
  // Gradient of the logits after iteration t, in slot t % slots.
  T* gradient = nullptr;  // [slots, points, width]
  int slots = 1;          // 2 if there are self terms
  T* outer = nullptr;     // [kernels, chunks, L, L], partial sums of -d_coupling
  // Chunks over which `outer` is summed: their number, rows per chunk of each kernel, points per
  // chunk.
  std::int64_t chunks = 0, chunk_rows[kMaxKernels] = {}, chunk_points = 0;
  T* d_coupling = nullptr;  // [kernels, L, L]

  DCRF_HOST_DEVICE T* slot(int t) const {
    return gradient + std::int64_t(t % slots) * model.points() * model.shape.width;
  }
  DCRF_HOST_DEVICE const T* q(int t) const {
    return marginals + std::int64_t(t) * model.points() * model.shape.width;
  }

  // Copy d_refined to d_logits and to the first gradient; set all sums of gradients to 0.
  DCRF_DEVICE void initialize(const World& world, const Lanes& lanes) const {
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

  // Compute the gradient of the logits after iteration t from that of the logits after t + 1.
  DCRF_DEVICE void update(const World& world, const Lanes& lanes, int t) const {
    const Shape& shape = model.shape;
    const int labels = shape.channels;
    const bool one_block = labels <= kPerLane * lanes.size();
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
        BlockSum<T> d_q;
        for (int m = 0; m < model.kernels; ++m) {
          const KernelView<T>& k = model.kernel[m];
          const std::int64_t own = k.own(point, in_image);
          const T scale = k.before == nullptr ? T(-1) : -k.before[own];
          slice(lanes, k, shape, point, in_image, c, adjoint[m].values(k), true, scale, d_q);
          if (k.diagonal == nullptr) continue;
          const T self = self_scale(k, own);
          add_coupled(
              lanes, labels, c, adjoint[m].columns, [&](int l) { return self * old[l]; }, d_q);
        }
        for_held(lanes, c, labels, [&](int i, int label) { mean += marginal[label] * d_q.x[i]; });
        if (one_block) {
          mean = lanes.sum(mean);
          for_held(lanes, c, labels, [&](int i, int label) {
            finish(point, in_image, label, marginal[label], d_q.x[i] - mean, row);
          });
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

  // Backpropagate through the softmax for one label: excess = d_q - <marginals, d_q>.
  DCRF_DEVICE void finish(std::int64_t point, std::int64_t in_image, int label, T marginal,
                          T excess, T* row) const {
    const T found = marginal * excess;
    row[label] = found;
    d_logits[model.in_planes(point, in_image, label)] += found;
  }

  // Add the contribution of one iteration to the gradients of the weights and scales of kernel m at
  // one point.
  DCRF_DEVICE void add_wanted(const Lanes& lanes, int m, std::int64_t point, std::int64_t in_image,
                              const T* d_u, const T* marginal) const {
    const KernelView<T>& k = model.kernel[m];
    const PointGradient<T>& to = wanted[m];
    const Shape& shape = model.shape;
    const Corners<T> corners(k, shape, point, in_image);
    const std::int64_t own = k.own(point, in_image);
    const T before = k.before == nullptr ? T(1) : k.before[own];
    const T after = k.after == nullptr ? T(1) : k.after[own];
    T d_before = 0, d_after = 0;
    for (int j = 0; j < corners.count; ++j) {
      const T* const message = forward[m].values(k) + corners.row(j) * shape.width;
      const T* const returned = adjoint[m].values(k) + corners.row(j) * shape.width;
      T as_slice = 0, as_splat = 0;  // each weight slices messages and splats marginals
      for (int c = lanes.rank(); c < shape.channels; c += lanes.size()) {
        as_slice += d_u[c] * message[c];
        as_splat += marginal[c] * returned[c];
      }
      as_slice = lanes.sum(as_slice);
      as_splat = lanes.sum(as_splat);
      const T weight = corners.weight[j];
      d_after += weight * as_slice;
      d_before += weight * as_splat;
      if (lanes.rank() == 0)
        to.weight[point * corners.count + j] -= after * as_slice + before * as_splat;
    }
    T self = 0;  // <d_u, C marginal>
    if (k.diagonal != nullptr) {
      for (int c = lanes.rank(); c < shape.channels; c += lanes.size()) {
        T message = 0;
        for (int l = 0; l < shape.channels; ++l)
          message += forward[m].columns[l * shape.channels + c] * marginal[l];
        self += d_u[c] * message;
      }
      self = lanes.sum(self);
    }
    if (lanes.rank() != 0) return;
    const T diagonal = k.diagonal == nullptr ? T(0) : k.diagonal[own];
    if (to.before != nullptr) to.before[point] -= d_before - after * diagonal * self;
    if (to.after != nullptr) to.after[point] -= d_after - before * diagonal * self;
    if (to.diagonal != nullptr) to.diagonal[point] += after * before * self;
  }

  // Add the contribution of iteration t to outer[m], the negative gradient of coupling m, one chunk
  // of rows per item: the sum over vertices or cells of the outer products of blurred adjoint and
  // splatted marginals, minus the self terms of the points.
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
        BlockSum<T> sum;
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
        for_held(lanes, c, labels, [&](int i, int at) { out[at] += sum.x[i]; });
      });
    });
  }

  // Compute d_coupling = -(sum of `outer` over the chunks), summed in double.
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

// The parts of a backward pass, each a program of its own. The spreads of an iteration run before
// its outer products, and these before its update.
enum class BackwardPart { kInitialize, kOuter, kUpdate, kReduce };

template <typename T, BackwardPart kPart>
struct BackwardStep {
  Backward<T> all;
  int t = 0;  // the iteration
  int m = 0;  // the kernel whose outer products are added

  DCRF_DEVICE void operator()(const World& world) const {
    const Lanes lanes(world, all.lane_count);
    if constexpr (kPart == BackwardPart::kInitialize) {
      all.initialize(world, lanes);
    } else if constexpr (kPart == BackwardPart::kOuter) {
      all.add_outer(world, lanes, m, t);
    } else if constexpr (kPart == BackwardPart::kUpdate) {
      all.update(world, lanes, t);
    } else {
      all.reduce_outer(world, lanes);
    }
  }
};

}  // namespace dcrf::cuda
