#include "mean_field.hpp"

#include <algorithm>
#include <vector>

#include "../core/softmax.hpp"
#include "kernel_pass.hpp"

namespace dcrf {
namespace {

constexpr std::int64_t kTile = 64;  // points whose rows stay in the first-level cache

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

template <typename T>
std::vector<KernelPass<T>> passes(const KernelView<T>* views, int count, int labels, Sense sense,
                                  int threads) {
  std::vector<KernelPass<T>> out;
  out.reserve(count);
  for (int m = 0; m < count; ++m) out.emplace_back(views[m], labels, sense, threads);
  return out;
}

}  // namespace

template <typename T>
void mean_field(const KernelView<T>* views, int kernel_count, const T* logits, std::int64_t points,
                int labels, int iterations, T* refined, T* saved_q, int threads) {
  std::vector<KernelPass<T>> kernels = passes(views, kernel_count, labels, Sense::kForward, threads);
  const int width = row_width(labels);
  const std::int64_t size = points * width;
  const Buffer<T> reused = make_buffer<T>(saved_q ? 0 : size);

  with_width(width, [&](auto static_width) {
    constexpr int kWidth = decltype(static_width)::value;
    for (int iteration = 0; iteration <= iterations; ++iteration) {
      const bool first = iteration == 0, last = iteration == iterations;
      T* const q = saved_q ? saved_q + iteration * size : reused.get();  // written now
      const T* const q_before = saved_q ? q - size : q;                  // read, unless first
      if (!first) {
        for (KernelPass<T>& kernel : kernels) kernel.template pass_messages<kWidth>(q_before, threads);
      }
      parallel_ranges(points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
        const Buffer<T> scratch = make_buffer<T>(2 * kTile * width);
        T* const rows = scratch.get();         // [kTile, width], pixel-major: minus the messages
        T* const tile = rows + kTile * width;  // [labels, kTile], label-major
        for (std::int64_t at = begin; at < end; at += kTile) {
          const std::int64_t count = std::min(kTile, end - at);
          std::fill(rows, rows + kTile * width, T(0));
          for (std::int64_t p = 0; p < count && !first; ++p) {
            T* const row = rows + p * width;
            for (const KernelPass<T>& kernel : kernels) {
              kernel.template subtract_slice<kWidth>(at + p, row);
              if (!kernel.removes_self_term()) continue;
              kernel.coupling().template apply<kWidth>(q_before + (at + p) * width, tile);
              const T scale = kernel.self_scale(at + p);
              for (int c = 0; c < width; ++c) row[c] += scale * tile[c];
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
            T* const row = q + (at + p) * width;
            for (int l = 0; l < labels; ++l) row[l] = tile[l * kTile + p];
            std::fill(row + labels, row + width, T(0));
          }
        }
      });
    }
  });
}

template <typename T>
void mean_field_backward(const KernelView<T>* views, int kernel_count, const T* saved_q,
                         const T* d_refined, std::int64_t points, int labels, int iterations,
                         T* d_logits, T* d_coupling, int threads) {
  std::vector<KernelPass<T>> kernels = passes(views, kernel_count, labels, Sense::kAdjoint, threads);
  const int width = row_width(labels);
  const std::int64_t size = points * width;
  const std::int64_t chunks = (points + kPointChunk - 1) / kPointChunk;
  const std::int64_t matrix = std::int64_t(labels) * width;
  const Buffer<T> gradient = make_buffer<T>(size);  // dLoss/dU' of the iteration, [N, width]
  const Buffer<T> partial = make_buffer<T>(chunks * matrix);
  T* const g = gradient.get();
  std::vector<std::vector<double>> sums(kernel_count, std::vector<double>(matrix, 0.0));
  std::copy(d_refined, d_refined + points * labels, d_logits);

  with_width(width, [&](auto static_width) {
    constexpr int kWidth = decltype(static_width)::value;
    parallel_ranges(points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        for (int l = 0; l < labels; ++l) g[p * width + l] = d_refined[l * points + p];
        std::fill(g + p * width + labels, g + (p + 1) * width, T(0));
      }
    });
    for (int iteration = iterations - 1; iteration >= 0; --iteration) {
      const T* const q = saved_q + iteration * size;
      for (int m = 0; m < kernel_count; ++m) {
        kernels[m].template pass_gradients<kWidth>(g, q, sums[m], threads);
        if (!kernels[m].removes_self_term()) continue;
        // The removed self term is a message of its own, straight from q to the same pixel.
        parallel_ranges(points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
          T* const sum = partial.get() + begin / kPointChunk * matrix;
          std::fill(sum, sum + matrix, T(0));
          for (std::int64_t p = begin; p < end; ++p) {
            const T scale = kernels[m].self_scale(p);
            for (int own = 0; own < labels; ++own) {
              const T share = scale * g[p * width + own];
              for (int c = 0; c < width; ++c) sum[own * width + c] += share * q[p * width + c];
            }
          }
        });
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
          for (std::int64_t i = 0; i < matrix; ++i) sums[m][i] += partial[chunk * matrix + i];
        }
      }
      parallel_ranges(points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
        Row<T, kWidth> dq_row(width), self_row(width);
        T* const dq = dq_row.data();
        T* const self = self_row.data();
        for (std::int64_t p = begin; p < end; ++p) {
          T* const row = g + p * width;
          for (int c = 0; c < width; ++c) dq[c] = T(0);
          for (const KernelPass<T>& kernel : kernels) {
            kernel.template subtract_slice<kWidth>(p, dq);
            if (!kernel.removes_self_term()) continue;
            kernel.coupling().template apply_transpose<kWidth>(row, self);
            const T scale = kernel.self_scale(p);
            for (int c = 0; c < width; ++c) dq[c] += scale * self[c];
          }
          const T* const marginal = q + p * width;  // the softmax's Jacobian
          T inner = 0;
          for (int c = 0; c < width; ++c) inner += marginal[c] * dq[c];
          for (int c = 0; c < width; ++c) row[c] = marginal[c] * (dq[c] - inner);
          for (int l = 0; l < labels; ++l) d_logits[l * points + p] += row[l];
        }
      });
    }
  });
  for (int m = 0; m < kernel_count; ++m) {
    for (int own = 0; own < labels; ++own) {
      for (int other = 0; other < labels; ++other) {
        const double sum = sums[m][std::size_t(own) * width + other];
        d_coupling[(std::int64_t(m) * labels + own) * labels + other] = T(sum);
      }
    }
  }
}

#define DCRF_INSTANTIATE(T)                                                                       \
  template void mean_field(const KernelView<T>*, int, const T*, std::int64_t, int, int, T*, T*,   \
                           int);                                                                  \
  template void mean_field_backward(const KernelView<T>*, int, const T*, const T*, std::int64_t,  \
                                    int, int, T*, T*, int);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf
