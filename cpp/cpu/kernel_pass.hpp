// Message passing through one kernel, and its adjoint: splat, couple, blur, slice, fused where the
// data are at hand anyway.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "chains.hpp"
#include "coupling.hpp"
#include "mean_field.hpp"
#include "pool.hpp"
#include "rows.hpp"

namespace dcrf {

// One kernel made ready for many passes: weights with the normaliser folded in, in the order in
// which they are read, and room for the values at the vertices. A pass in the adjoint sense runs the
// transposed operator: before and after swap, the axes are blurred in reverse order, C becomes C'.
enum class Sense { kForward, kAdjoint };

template <typename T>
class KernelPass {
 public:
  KernelPass(const KernelView<T>& view, int labels, Sense sense, int threads)
      : view_(view),
        labels_(labels),
        width_(row_width(labels)),
        corners_(view.lattice.dims + 1),
        coupling_(view.coupling, labels) {
    const LatticeView<T>& lattice = view.lattice;
    const bool adjoint = sense == Sense::kAdjoint;
    const T* const into = adjoint ? view.after : view.before;
    const T* const out_of = adjoint ? view.before : view.after;
    const std::int64_t entries = lattice.points * corners_;
    splat_pixel_ = make_buffer<std::int32_t>(entries);
    splat_weight_ = make_buffer<T>(entries);
    slice_weight_ = make_buffer<T>(entries);
    values_ = make_buffer<T>(lattice.vertices * width_);
    // alpha goes with `after`, so that the sliced weights of the adjoint are the forward splat's.
    const T alpha = T(1) / (T(1) + std::ldexp(T(1), -lattice.dims));
    const T splat_scale = adjoint ? alpha : T(1), slice_scale = adjoint ? T(1) : alpha;
    parallel_ranges(entries, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t e = begin; e < end; ++e) {
        const std::int32_t corner = lattice.entry[e];
        const std::int32_t pixel = corner / corners_;
        splat_pixel_[e] = pixel;
        splat_weight_[e] = splat_scale * lattice.weight[corner] * (into ? into[pixel] : T(1));
        slice_weight_[e] = slice_scale * lattice.weight[e] * (out_of ? out_of[e / corners_] : T(1));
      }
    });
    std::vector<std::unique_ptr<Chains>> chains(corners_);
    parallel_for(corners_, threads, [&](std::int64_t step) {
      const std::int64_t axis = adjoint ? lattice.dims - step : step;
      const std::int32_t* const neighbour = lattice.neighbour + axis * lattice.vertices * 2;
      chains[step] = std::make_unique<Chains>(neighbour, lattice.vertices);
    });
    chains_ = std::move(chains);
  }

  // Forward: the values become C blur(splat(q)). Weights and compatibility act on labels, so they
  // may act on the vertices, usually fewer than the pixels; and before the blur as well as after.
  template <int Width>
  void pass_messages(const T* q, int threads) {
    splat<Width>(q, threads, [&](const T* sum, T* out) { coupling_.template apply<Width>(sum, out); });
    blur<Width>(threads);
  }

  // Adjoint: the values become C' blur(splat(g)), and the gradient of C, [L, width], loses what
  // this iteration of marginals q contributes.
  template <int Width>
  void pass_gradients(const T* g, const T* q, std::vector<double>& d_coupling, int threads) {
    const int width = Width > 0 ? Width : width_;
    splat<Width>(g, threads, [&](const T* sum, T* out) { std::copy(sum, sum + width, out); });
    blur<Width>(threads);

    const LatticeView<T>& lattice = view_.lattice;
    const std::int64_t chunks = (lattice.vertices + kVertexChunk - 1) / kVertexChunk;
    const std::int64_t size = std::int64_t(labels_) * width;
    const Buffer<T> partial = make_buffer<T>(chunks * size);  // summed in order: the same bits
    parallel_ranges(lattice.vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      Row<T, Width> splat_row(width), coupled_row(width);
      T* const a = splat_row.data();
      T* const coupled = coupled_row.data();
      T* const sum = partial.get() + begin / kVertexChunk * size;
      std::fill(sum, sum + size, T(0));
      for (std::int64_t v = begin; v < end; ++v) {
        for (int c = 0; c < width; ++c) a[c] = T(0);
        for (std::int32_t e = lattice.offset[v]; e < lattice.offset[v + 1]; ++e) {
          const T* const value = q + std::int64_t(splat_pixel_[e]) * width;
          const T weight = slice_weight_[lattice.entry[e]];  // the forward splat's
          for (int c = 0; c < width; ++c) a[c] += weight * value[c];
        }
        T* const value = values_.get() + v * width;
        for (int own = 0; own < labels_; ++own) {
          for (int c = 0; c < width; ++c) sum[own * width + c] += value[own] * a[c];
        }
        coupling_.template apply_transpose<Width>(value, coupled);
        std::copy(coupled, coupled + width, value);
      }
    });
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (std::int64_t i = 0; i < size; ++i) d_coupling[i] -= partial[chunk * size + i];
    }
  }

  // Subtracts the sliced values at `pixel` from row [width].
  template <int Width>
  void subtract_slice(std::int64_t pixel, T* row) const {
    const int width = Width > 0 ? Width : width_;
    const std::int32_t* const vertex = view_.lattice.vertex + pixel * corners_;
    const T* const weight = slice_weight_.get() + pixel * corners_;
    if (pixel + 2 < view_.lattice.points) {
      for (int k = 0; k < corners_; ++k) {
        prefetch(values_.get() + std::int64_t(vertex[2 * corners_ + k]) * width, width);
      }
    }
    for (int k = 0; k < corners_; ++k) {
      const T* const value = values_.get() + std::int64_t(vertex[k]) * width;
      for (int c = 0; c < width; ++c) row[c] -= weight[k] * value[c];
    }
  }

  bool removes_self_term() const { return view_.diagonal != nullptr; }

  // What a pixel says to itself per unit of q, before coupling.
  T self_scale(std::int64_t pixel) const {
    T scale = view_.diagonal[pixel];
    if (view_.before) scale *= view_.before[pixel];
    if (view_.after) scale *= view_.after[pixel];
    return scale;
  }

  const Coupling<T>& coupling() const { return coupling_; }

 private:
  // finish(sum, out) turns a vertex's splatted row into its value.
  template <int Width, class Finish>
  void splat(const T* q, int threads, const Finish& finish) {
    const int width = Width > 0 ? Width : width_;
    const LatticeView<T>& lattice = view_.lattice;
    parallel_ranges(lattice.vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      Row<T, Width> row(width);
      T* const sum = row.data();
      const std::int32_t last = lattice.offset[end];
      for (std::int64_t v = begin; v < end; ++v) {
        for (int c = 0; c < width; ++c) sum[c] = T(0);
        for (std::int32_t e = lattice.offset[v]; e < lattice.offset[v + 1]; ++e) {
          const T* const value = q + std::int64_t(splat_pixel_[e]) * width;
          const T weight = splat_weight_[e];
          if (e + kAhead < last) prefetch(q + std::int64_t(splat_pixel_[e + kAhead]) * width, width);
          for (int c = 0; c < width; ++c) sum[c] += weight * value[c];
        }
        finish(sum, values_.get() + v * width);
      }
    });
  }

  template <int Width>
  void blur(int threads) {
    for (const auto& axis : chains_) axis->template blur<T, Width>(values_.get(), width_, threads);
  }

  KernelView<T> view_;
  int labels_, width_, corners_;
  Coupling<T> coupling_;
  Buffer<std::int32_t> splat_pixel_;             // [N (d+1)], by vertex
  Buffer<T> splat_weight_;                       // [N (d+1)], by vertex
  Buffer<T> slice_weight_;                       // [N, d+1]
  Buffer<T> values_;                             // [M, width]
  std::vector<std::unique_ptr<Chains>> chains_;  // one per axis, in the order of blurring
};

}  // namespace dcrf
