// Mean-field inference on CPUs and its gradient, over kernels that are already built: T iterations
// of messages, coupling, unaries and softmax. Results are bit-identical for any number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "lattice.hpp"

namespace dcrf {

// One Gaussian kernel with its normaliser: message = after * (K - diag(diagonal)) (before * q). It
// is a lattice if lattice.vertex is set, else a grid.
template <typename T>
struct KernelView {
  LatticeView<T> lattice;
  GridView<T> grid;
  const T* before = nullptr;    // [N] or null for 1
  const T* after = nullptr;     // [N] or null for 1
  const T* diagonal = nullptr;  // [N] or null for 0: the diagonal (i = j) term to remove
};

// What all images of a batch share.
template <typename T>
struct Model {
  int labels = 0;
  int iterations = 0;
  const T* coupling = nullptr;     // [kernels, L, L], mu W; row: label of the receiving pixel
  bool marginals = false;          // forward: write the softmax of U', not U'
  std::int64_t memory_budget = 0;  // bytes of `saved` per image
};

// One image: N points. Planes are label-major, [L, N].
template <typename T>
struct Image {
  std::vector<KernelView<T>> kernels;
  std::int64_t points = 0;
  const T* logits = nullptr;
  T* refined = nullptr;
  // [T, N, row_width(L)] or null; written by mean_field(). The marginals at the start of each
  // iteration; or, if these exceed the memory budget and there are fewer vertices than points, the
  // blurred values at the vertices.
  T* saved = nullptr;
};

// Outputs of the gradient of one image; null pointers are skipped.
template <typename T>
struct ImageGradient {
  const T* d_refined = nullptr;  // [L, N]
  T* d_logits = nullptr;         // [L, N]
  T* d_coupling = nullptr;       // [kernels, L, L]
  std::vector<PointGradient<T>> kernels;
};

// Write the refined logits of the last iteration, or their softmax, of every image. Return false if
// logits hold NaN or +infinity, or -infinity alone at a point; the output is then undefined.
template <typename T>
bool mean_field(const Model<T>& model, const std::vector<Image<T>>& images, int threads);

// The vector-Jacobian product, by backpropagation through all iterations.
template <typename T>
void mean_field_backward(const Model<T>& model, const std::vector<Image<T>>& images,
                         const std::vector<ImageGradient<T>>& gradients, int threads);

}  // namespace dcrf
