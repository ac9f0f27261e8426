#include "mean_field.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
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

// One row of values in registers where the width is known, on the heap where it is not.
template <typename T, int Width>
class Row {
 public:
  explicit Row(int width) : heap_(Width > 0 ? Buffer<T>() : make_buffer<T>(width)) {}
  T* data() { return Width > 0 ? fixed_ : heap_.get(); }

 private:
  T fixed_[Width > 0 ? Width : 1];
  Buffer<T> heap_;
};

// mu W of one kernel, [L, L], acting on padded rows. Where every column is constant but for its
// diagonal (Potts, with one weight or one per label) it costs O(L) in place of O(L^2).
template <typename T>
class Coupling {
 public:
  Coupling(const T* matrix, int labels)
      : labels_(labels), width_(padded(labels)), constant_(width_, T(0)), extra_(width_, T(0)) {
    const auto at = [&](int own, int other) { return matrix[std::size_t(own) * labels + other]; };
    for (int other = 0; other < labels; ++other) {
      constant_[other] = labels > 1 ? at(other == 0, other) : T(0);
      extra_[other] = at(other, other) - constant_[other];
      for (int own = 0; own < labels; ++own) {
        if (own != other && at(own, other) != constant_[other]) simple_ = false;
      }
    }
    if (simple_) return;
    columns_.assign(std::size_t(labels) * width_, T(0));
    for (int own = 0; own < labels; ++own) {
      for (int other = 0; other < labels; ++other) {
        columns_[std::size_t(other) * width_ + own] = at(own, other);
      }
    }
  }

  // out = C in; rows of `width` whose padding is 0 on both sides.
  template <int Width>
  void apply(const T* in, T* out) const {
    const int width = Width > 0 ? Width : width_;
    if (simple_) {
      T part[4] = {};  // four sums, so that the additions do not wait for each other
      for (int c = 0; c < width; c += 4) {
        for (int j = 0; j < 4; ++j) part[j] += constant_[c + j] * in[c + j];
      }
      const T sum = (part[0] + part[1]) + (part[2] + part[3]);
      for (int c = 0; c < width; ++c) out[c] = sum + extra_[c] * in[c];
      std::fill(out + labels_, out + width, T(0));
    } else {
      std::fill(out, out + width, T(0));
      for (int other = 0; other < labels_; ++other) {
        const T* const column = columns_.data() + std::size_t(other) * width;
        for (int own = 0; own < width; ++own) out[own] += in[other] * column[own];
      }
    }
  }

 private:
  int labels_, width_;
  bool simple_ = true;
  std::vector<T> constant_, extra_;  // [width]: each column off its diagonal, and what that adds
  std::vector<T> columns_;           // [L, width]: the transpose, where it is not simple
};

// The vertices of one axis as runs of neighbours, so that its blur can work in place.
class Chains {
 public:
  // `neighbour` [M, 2] links each vertex along the axis; M means missing.
  Chains(const std::int32_t* neighbour, std::int64_t vertices) {
    const auto missing = std::int32_t(vertices);
    for (std::int32_t head = 0; head < missing; ++head) {
      // A vertex on its own is left as it is.
      if (neighbour[2 * head] != missing || neighbour[2 * head + 1] == missing) continue;
      if (std::int64_t(rows_.size()) - (blocks_.empty() ? -kChainBlock : blocks_.back()) >= kChainBlock) {
        blocks_.push_back(std::int64_t(rows_.size()));
      }
      for (std::int32_t v = head; v != missing; v = neighbour[2 * v + 1]) rows_.push_back(v);
      rows_.back() |= kEnd;
    }
    blocks_.push_back(std::int64_t(rows_.size()));
  }

  // 1/2, 1, 1/2 along every chain of values [M, width].
  template <typename T, int Width>
  void blur(T* values, int runtime_width, int threads) const {
    const int width = Width > 0 ? Width : runtime_width;
    parallel_for(std::int64_t(blocks_.size()) - 1, threads, [&](std::int64_t block) {
      Row<T, Width> row_before(width), row_here(width);
      T* const before = row_before.data();
      T* const here = row_here.data();
      const std::int64_t end = blocks_[block + 1];
      bool starts = true;
      for (std::int64_t i = blocks_[block]; i < end; ++i) {
        if (i + kAhead < end) prefetch(values + std::int64_t(rows_[i + kAhead] & ~kEnd) * width, width);
        T* const out = values + std::int64_t(rows_[i] & ~kEnd) * width;
        if (starts) {
          for (int c = 0; c < width; ++c) {
            before[c] = T(0);
            here[c] = out[c];
          }
        }
        const bool ends = rows_[i] & kEnd;
        const T* const next = ends ? out : values + std::int64_t(rows_[i + 1] & ~kEnd) * width;
        const T keep = ends ? T(0) : T(1);
        for (int c = 0; c < width; ++c) {
          const T after = keep * next[c];
          out[c] = here[c] + T(0.5) * (before[c] + after);
          before[c] = here[c];
          here[c] = after;
        }
        starts = ends;
      }
    });
  }

 private:
  static constexpr std::int64_t kChainBlock = 4096;  // rows per unit of work, at least
  static constexpr std::uint32_t kEnd = std::uint32_t(1) << 31;

  std::vector<std::uint32_t> rows_;   // vertices, chain after chain; kEnd marks a chain's last
  std::vector<std::int64_t> blocks_;  // where units of work begin, and the end
};

// A kernel made ready for many iterations: weights with the normaliser folded in, in the order in
// which they are read, and room for the lattice values.
template <typename T>
class Kernel {
 public:
  Kernel(const KernelView<T>& view, int labels, int threads)
      : view_(view),
        width_(padded(labels)),
        corners_(view.lattice.dims + 1),
        coupling_(view.coupling, labels) {
    const LatticeView<T>& lattice = view.lattice;
    const std::int64_t entries = lattice.points * corners_;
    splat_pixel_ = make_buffer<std::int32_t>(entries);
    splat_weight_ = make_buffer<T>(entries);
    slice_weight_ = make_buffer<T>(entries);
    values_ = make_buffer<T>(lattice.vertices * width_);
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
    std::vector<std::unique_ptr<Chains>> chains(corners_);
    parallel_for(corners_, threads, [&](std::int64_t axis) {
      const std::int32_t* const neighbour = lattice.neighbour + axis * lattice.vertices * 2;
      chains[axis] = std::make_unique<Chains>(neighbour, lattice.vertices);
    });
    chains_ = std::move(chains);
  }

  // Splat, couple, blur along all axes: from q [N, width] to values at the vertices. Weights and
  // compatibility act on labels, so they may act on the vertices, usually fewer than the pixels.
  template <int Width>
  void pass_messages(const T* q, int threads) {
    splat<Width>(q, threads);
    for (const auto& axis : chains_) axis->template blur<T, Width>(values_.get(), width_, threads);
  }

  // Subtracts the coupled message at `pixel` from row [width].
  template <int Width>
  void subtract_message(std::int64_t pixel, T* row) const {
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

  // Takes back what the pixel, of marginals q [width], said to itself; scratch [width].
  template <int Width>
  void add_self_term(std::int64_t pixel, const T* q, T* scratch, T* row) const {
    if (view_.diagonal == nullptr) return;
    const int width = Width > 0 ? Width : width_;
    T scale = view_.diagonal[pixel];
    if (view_.before) scale *= view_.before[pixel];
    if (view_.after) scale *= view_.after[pixel];
    coupling_.template apply<Width>(q, scratch);
    for (int c = 0; c < width; ++c) row[c] += scale * scratch[c];
  }

 private:
  template <int Width>
  void splat(const T* q, int threads) {
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
        coupling_.template apply<Width>(sum, values_.get() + v * width);
      }
    });
  }

  KernelView<T> view_;
  int width_, corners_;
  Coupling<T> coupling_;
  Buffer<std::int32_t> splat_pixel_;             // [N (d+1)], by vertex
  Buffer<T> splat_weight_;                       // [N (d+1)], by vertex
  Buffer<T> slice_weight_;                       // [N, d+1]
  Buffer<T> values_;                             // [M, width]
  std::vector<std::unique_ptr<Chains>> chains_;  // one per axis
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
          kernel.template pass_messages<kWidth>(q.get(), threads);
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
              kernel.template add_self_term<kWidth>(at + p, q.get() + (at + p) * width, tile, row);
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
