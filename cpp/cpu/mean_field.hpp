// Mean-field inference on CPUs and its gradient, for kernels that are already built: T iterations
// of message passing, coupling, unaries and softmax. Called by the bindings. Results are
// bit-identical for any number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "lattice.hpp"
#include "loops.hpp"

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

// Settings and couplings, shared by all images of a batch.
template <typename T>
struct Model {
  int labels = 0;
  int iterations = 0;
  const T* coupling = nullptr;  // [kernels, L, L], mu W; row: label of the receiving pixel
  bool marginals = false;       // forward: write the softmax of the refined logits
  // Maximum size of the saved marginals, in bytes per image; see Image::saved.
  std::int64_t memory_budget = 0;
};

// One image of N points.
template <typename T>
struct Image {
  std::vector<KernelView<T>> kernels;
  std::int64_t points = 0;
  const T* logits = nullptr;  // [L, N]; not read by mean_field() if `stored` has data
  LogitsView<T> stored;       // logits of another layout or dtype
  T* refined = nullptr;       // [L, N], written by mean_field() unless `labels` has data
  LabelMap labels;            // receives the argmax of the refined logits, of equal ones the lowest
  // [T, N, row_width(L)] or null; written by mean_field(). It holds the marginals at the start of
  // each iteration; or, if these exceed the memory budget, there are no more vertices and cells
  // than points and no diagonal terms are removed, the blurred values at the vertices and cells.
  T* saved = nullptr;
  // Labels whose marginals are at most this in a whole tile may count as 0 there; 0: exact.
  double prune = 0;
  // [T, 2] or null; written if labels were pruned: tiles, and labels kept summed over the tiles.
  std::int64_t* kept = nullptr;
};

// Cotangent and outputs of the gradient of one image.
template <typename T>
struct ImageGradient {
  const T* d_refined = nullptr;           // [L, N], the cotangent
  T* d_logits = nullptr;                  // [L, N]
  T* d_coupling = nullptr;                // [kernels, L, L]
  std::vector<PointGradient<T>> kernels;  // [kernels]; null members are not computed
};

// Write the refined logits of the last iteration, or their softmax, of every image. Return false if
// logits hold NaN or +infinity, or if all logits of a point are -infinity; the output is then
// undefined.
template <typename T>
bool mean_field(const Model<T>& model, const std::vector<Image<T>>& images, int threads);

// Compute the vector-Jacobian product of every image by backpropagation through all iterations.
template <typename T>
void mean_field_backward(const Model<T>& model, const std::vector<Image<T>>& images,
                         const std::vector<ImageGradient<T>>& gradients, int threads);

}  // namespace dcrf
