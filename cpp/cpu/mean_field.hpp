// Mean-field inference on CPUs: T iterations of message passing, weighting, compatibility, unary
// and softmax over lattices that are already built. Knows nothing of Python or images. Results
// are bit-identical for any number of threads.
#pragma once

#include <cstdint>

#include "lattice.hpp"

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

// Writes U' of the last iteration to `refined`; both label-major, [L, N]. Wants L >= 1, at least
// one iteration and one kernel, and at every pixel one logit above -infinity.
template <typename T>
void mean_field(const KernelView<T>* kernels, int kernel_count, const T* logits,
                std::int64_t points, int labels, int iterations, T* refined, int threads);

}  // namespace dcrf
