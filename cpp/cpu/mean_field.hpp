// Mean-field inference on CPUs: T iterations of message passing, weighting, compatibility, unary
// and softmax over kernels that are already built, and its gradient. Knows nothing of Python or
// images. Results are bit-identical for any number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "lattice.hpp"

namespace dcrf {

// One Gaussian kernel with its normaliser: message = after (K - diag(diagonal)) (before q). A
// lattice if its `vertex` is set, else the grid.
template <typename T>
struct KernelView {
  LatticeView<T> lattice;
  GridView<T> grid;
  const T* before = nullptr;    // [N] or null for 1
  const T* after = nullptr;     // [N] or null for 1
  const T* diagonal = nullptr;  // [N] or null for 0: the self term to remove
};

// What all images of a batch share.
template <typename T>
struct Model {
  int labels = 0;
  int iterations = 0;
  const T* coupling = nullptr;     // [kernels, L, L], mu W: rows are the pixel's own label
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
  // [T, N, row_width(L)] or null. Holds the marginals that each iteration started from; or, if they
  // take more than the budget and the vertices are fewer than the points, the values at the
  // vertices.
  T* saved = nullptr;
};

// Where the gradient of one image goes; what is null is not wanted.
template <typename T>
struct ImageGradient {
  const T* d_refined = nullptr;  // [L, N]
  T* d_logits = nullptr;         // [L, N]
  T* d_coupling = nullptr;       // [kernels, L, L]
  std::vector<PointGradient<T>> kernels;
};

// Writes U' of the last iteration, or its softmax, of every image. False: some logits are NaN or
// +infinity, or a point has none above -infinity; what was written then means nothing.
template <typename T>
bool mean_field(const Model<T>& model, const std::vector<Image<T>>& images, int threads);

// The vector-Jacobian product, by backpropagation through all iterations.
template <typename T>
void mean_field_backward(const Model<T>& model, const std::vector<Image<T>>& images,
                         const std::vector<ImageGradient<T>>& gradients, int threads);

}  // namespace dcrf
