// Mean-field inference on CPUs: T iterations of message passing, weighting, compatibility, unary
// and softmax over lattices that are already built. Knows nothing of Python or images. Results
// are bit-identical for any number of threads.
#pragma once

#include <cstdint>

#include "lattice.hpp"
#include "rows.hpp"

namespace dcrf {

// One Gaussian kernel with its normaliser: message = after (K - diag(diagonal)) (before q).
template <typename T>
struct KernelView {
  LatticeView<T> lattice;
  const T* before = nullptr;    // [N] or null for 1
  const T* after = nullptr;     // [N] or null for 1
  const T* diagonal = nullptr;  // [N] or null for 0: the self term to remove
  const T* coupling = nullptr;  // [L, L], mu W: rows are the pixel's own label
};

// Writes U' of the last iteration to `refined`; logits and refined are label-major, [L, N]. Wants
// L >= 1, at least one kernel, and at every pixel one logit above -infinity. If `saved_q` is not
// null it receives the marginals that each iteration started from, [iterations, N, row_width(L)].
template <typename T>
void mean_field(const KernelView<T>* kernels, int kernel_count, const T* logits,
                std::int64_t points, int labels, int iterations, T* refined, T* saved_q,
                int threads);

// The vector-Jacobian product: from d_refined [L, N] to d_logits [L, N] and d_coupling
// [kernel_count, L, L], by backpropagation through all iterations.
template <typename T>
void mean_field_backward(const KernelView<T>* kernels, int kernel_count, const T* saved_q,
                         const T* d_refined, std::int64_t points, int labels, int iterations,
                         T* d_logits, T* d_coupling, int threads);

}  // namespace dcrf
