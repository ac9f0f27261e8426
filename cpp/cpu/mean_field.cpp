#include "mean_field.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../core/softmax.hpp"
#include "buffer.hpp"
#include "pool.hpp"

namespace dcrf {
namespace {

constexpr std::int64_t kPointChunk = 4096;   // points per unit of work
constexpr std::int64_t kVertexChunk = 1024;  // vertices per unit of work
constexpr std::int64_t kTile = 64;           // points whose rows stay in the first-level cache

// How many rows ahead the loops ask for memory that they will read out of order.
constexpr std::int64_t kAhead = 12;

// Asks for a row of `width` values to be brought near.
template <typename T>
inline void prefetch(const T* row, int width) {
#if defined(__GNUC__)
  for (int c = 0; c < width; c += int(64 / sizeof(T))) __builtin_prefetch(row + c);
#else
  (void)row, (void)width;
#endif
}

// Rows of L channels are padded with zeros to a multiple of four.
int padded(int labels) { return (labels + 3) / 4 * 4; }

// Calls body(std::integral_constant<int, W>) with W = width for the common ones, else W = 0.
template <class Body>
void with_width(int width, const Body& body) {
  switch (width) {
    case 4: return body(std::integral_constant<int, 4>());
    case 8: return body(std::integral_constant<int, 8>());
    case 12: return body(std::integral_constant<int, 12>());
    case 16: return body(std::integral_constant<int, 16>());
    case 20: return body(std::integral_constant<int, 20>());
    case 24: return body(std::integral_constant<int, 24>());
    default: return body(std::integral_constant<int, 0>());
  }
}

// A kernel made ready for many iterations: weights with the normaliser folded in, in the order in
// which they are read, and room for the lattice values.
template <typename T>
class Kernel {
 public:
  Kernel(const KernelView<T>& view, int labels, int threads)
      : view_(view), width_(padded(labels)), corners_(view.lattice.dims + 1) {
    const LatticeView<T>& lattice = view.lattice;
    const std::int64_t entries = lattice.points * corners_;
    const std::int64_t size = (lattice.vertices + 1) * width_;
    splat_pixel_ = make_buffer<std::int32_t>(entries);
    splat_weight_ = make_buffer<T>(entries);
    slice_weight_ = make_buffer<T>(entries);
    front_ = make_buffer<T>(size);
    back_ = make_buffer<T>(size);
    std::fill(front_.get() + size - width_, front_.get() + size, T(0));  // the missing vertices
    std::fill(back_.get() + size - width_, back_.get() + size, T(0));

    const T alpha = T(1) / (T(1) + std::ldexp(T(1), -lattice.dims));
    parallel_ranges(entries, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t e = begin; e < end; ++e) {
        const std::int32_t corner = lattice.entry[e];
        const std::int32_t pixel = corner / corners_;
        splat_pixel_[e] = pixel;
        splat_weight_[e] = lattice.weight[corner] * (view.before ? view.before[pixel] : T(1));
        slice_weight_[e] = alpha * lattice.weight[e] * (view.after ? view.after[e / corners_] : T(1));
      }
    });
    // Transposed and padded, so that a row of it adds to a padded row of values.
    coupling_.assign(std::size_t(labels) * width_, T(0));
    for (int own = 0; own < labels; ++own) {
      for (int other = 0; other < labels; ++other) {
        coupling_[std::size_t(other) * width_ + own] = view.coupling[own * labels + other];
      }
    }
  }

  // Splat, blur along all axes, couple: from q [N, width] to values at the vertices.
  template <int Width>
  void pass_messages(const T* q, int labels, int threads) {
    splat<Width>(q, threads);
    for (int axis = 0; axis < corners_; ++axis) blur<Width>(axis, threads);
    couple<Width>(labels, threads);
  }

  // Subtracts the coupled message at `pixel` from row [width].
  template <int Width>
  void subtract_message(std::int64_t pixel, T* row) const {
    const int width = Width > 0 ? Width : width_;
    const std::int32_t* const vertex = view_.lattice.vertex + pixel * corners_;
    const T* const weight = slice_weight_.get() + pixel * corners_;
    if (pixel + 2 < view_.lattice.points) {
      for (int k = 0; k < corners_; ++k) {
        prefetch(front_.get() + std::int64_t(vertex[2 * corners_ + k]) * width, width);
      }
    }
    for (int k = 0; k < corners_; ++k) {
      const T* const value = front_.get() + std::int64_t(vertex[k]) * width;
      for (int c = 0; c < width; ++c) row[c] -= weight[k] * value[c];
    }
  }

  // Takes back what the pixel said to itself.
  void add_self_term(std::int64_t pixel, const T* q, int labels, T* row) const {
    if (view_.diagonal == nullptr) return;
    T scale = view_.diagonal[pixel];
    if (view_.before) scale *= view_.before[pixel];
    if (view_.after) scale *= view_.after[pixel];
    for (int other = 0; other < labels; ++other) {
      const T share = scale * q[other];
      for (int own = 0; own < labels; ++own) {
        row[own] += share * coupling_[std::size_t(other) * width_ + own];
      }
    }
  }

 private:
  template <int Width>
  void splat(const T* q, int threads) {
    const int width = Width > 0 ? Width : width_;
    const LatticeView<T>& lattice = view_.lattice;
    parallel_ranges(lattice.vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      const std::int32_t last = lattice.offset[end];
      for (std::int64_t v = begin; v < end; ++v) {
        T* const row = front_.get() + v * width;
        std::fill(row, row + width, T(0));
        for (std::int32_t e = lattice.offset[v]; e < lattice.offset[v + 1]; ++e) {
          const T* const value = q + std::int64_t(splat_pixel_[e]) * width;
          const T weight = splat_weight_[e];
          if (e + kAhead < last) prefetch(q + std::int64_t(splat_pixel_[e + kAhead]) * width, width);
          for (int c = 0; c < width; ++c) row[c] += weight * value[c];
        }
      }
    });
  }

  template <int Width>
  void blur(int axis, int threads) {
    const int width = Width > 0 ? Width : width_;
    const LatticeView<T>& lattice = view_.lattice;
    const std::int32_t* const neighbour = lattice.neighbour + axis * lattice.vertices * 2;
    parallel_ranges(lattice.vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t v = begin; v < end; ++v) {
        const T* const centre = front_.get() + v * width;
        const T* const left = front_.get() + std::int64_t(neighbour[2 * v]) * width;
        const T* const right = front_.get() + std::int64_t(neighbour[2 * v + 1]) * width;
        T* const row = back_.get() + v * width;
        for (int c = 0; c < width; ++c) row[c] = centre[c] + T(0.5) * (left[c] + right[c]);
      }
    });
    std::swap(front_, back_);
  }

  // Weights and compatibility act on labels, so they may act on the vertices: usually fewer.
  template <int Width>
  void couple(int labels, int threads) {
    const int width = Width > 0 ? Width : width_;
    const std::int64_t vertices = view_.lattice.vertices;
    parallel_ranges(vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t v = begin; v < end; ++v) {
        const T* const value = front_.get() + v * width;
        T* const row = back_.get() + v * width;
        std::fill(row, row + width, T(0));
        for (int other = 0; other < labels; ++other) {
          const T* const column = coupling_.data() + std::size_t(other) * width;
          for (int own = 0; own < width; ++own) row[own] += value[other] * column[own];
        }
      }
    });
    std::swap(front_, back_);
  }

  KernelView<T> view_;
  int width_, corners_;
  Buffer<std::int32_t> splat_pixel_;  // [N (d+1)], by vertex
  Buffer<T> splat_weight_;            // [N (d+1)], by vertex
  Buffer<T> slice_weight_;            // [N, d+1]
  Buffer<T> front_, back_;            // [M + 1, width]; row M is zero
  std::vector<T> coupling_;                      // [L, width], transposed
};

// In place: the columns of a label-major tile [labels, kTile] become marginals.
template <typename T>
void softmax_tile(T* tile, int labels) {
  T peak[kTile], sum[kTile];
  std::copy(tile, tile + kTile, peak);
  for (int l = 1; l < labels; ++l) {
    for (int p = 0; p < kTile; ++p) {
      const T x = tile[l * kTile + p];
      peak[p] = x > peak[p] ? x : peak[p];  // not std::max: its references do not vectorise
    }
  }
  std::fill(sum, sum + kTile, T(0));
  for (int l = 0; l < labels; ++l) {
    for (int p = 0; p < kTile; ++p) {
      const T e = exp_nonpositive(tile[l * kTile + p] - peak[p]);
      tile[l * kTile + p] = e;
      sum[p] += e;
    }
  }
  for (int p = 0; p < kTile; ++p) sum[p] = T(1) / sum[p];
  for (int l = 0; l < labels; ++l) {
    for (int p = 0; p < kTile; ++p) tile[l * kTile + p] *= sum[p];
  }
}

}  // namespace

template <typename T>
void mean_field(const KernelView<T>* views, int kernel_count, const T* logits, std::int64_t points,
                int labels, int iterations, T* refined, int threads) {
  std::vector<Kernel<T>> kernels;
  kernels.reserve(kernel_count);
  for (int m = 0; m < kernel_count; ++m) kernels.emplace_back(views[m], labels, threads);
  const int width = padded(labels);
  const Buffer<T> q = make_buffer<T>(points * width);

  with_width(width, [&](auto static_width) {
    constexpr int kWidth = decltype(static_width)::value;
    for (int iteration = 0; iteration <= iterations; ++iteration) {
      const bool first = iteration == 0, last = iteration == iterations;
      if (!first) {
        for (Kernel<T>& kernel : kernels) {
          kernel.template pass_messages<kWidth>(q.get(), labels, threads);
        }
      }
      parallel_ranges(points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
        const Buffer<T> scratch = make_buffer<T>(2 * kTile * width);
        T* const rows = scratch.get();         // [kTile, width], pixel-major
        T* const tile = rows + kTile * width;  // [labels, kTile], label-major
        for (std::int64_t at = begin; at < end; at += kTile) {
          const std::int64_t count = std::min(kTile, end - at);
          std::fill(rows, rows + kTile * width, T(0));
          for (std::int64_t p = 0; p < count && !first; ++p) {
            T* const row = rows + p * width;
            for (const Kernel<T>& kernel : kernels) {
              kernel.template subtract_message<kWidth>(at + p, row);
              kernel.add_self_term(at + p, q.get() + (at + p) * width, labels, row);
            }
          }
          for (int l = 0; l < labels; ++l) {
            const T* const from = logits + l * points + at;
            T* const to = last ? refined + l * points + at : tile + l * kTile;
            for (std::int64_t p = 0; p < count; ++p) to[p] = from[p] + rows[p * width + l];
            if (!last) std::fill(to + count, to + kTile, T(0));
          }
          if (last) continue;
          softmax_tile(tile, labels);
          for (std::int64_t p = 0; p < count; ++p) {
            T* const row = q.get() + (at + p) * width;
            for (int l = 0; l < labels; ++l) row[l] = tile[l * kTile + p];
            std::fill(row + labels, row + width, T(0));
          }
        }
      });
    }
  });
}

#define DCRF_INSTANTIATE(T)                                                                       \
  template void mean_field(const KernelView<T>*, int, const T*, std::int64_t, int, int, T*, int);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf
