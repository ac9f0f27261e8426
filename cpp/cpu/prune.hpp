// Mean fields that leave out labels. In each tile of pixels and each iteration, a bound from the
// values at the vertices and cells that the tile reads proves of most labels that their marginals
// are at most delta there; these count as 0. Results are bit-identical for any number of threads.
#pragma once

#include "mean_field.hpp"

namespace dcrf {

// Return whether labels can be left out of the mean field of this image: it has 2 to 512 labels,
// nothing is saved, no diagonal (i = j) terms are removed, and each coupling is Potts with a weight
// per label, or all are diagonal matrices. It is also false where exact passes are faster: for two
// labels of one weight (binary.hpp), and for large images most of whose points have many labels near
// their maximum.
template <typename T>
bool can_prune(const Model<T>& model, const Image<T>& image);

// Run all iterations for one image; return whether its logits were valid.
template <typename T>
bool pruned_image(const Model<T>& model, const Image<T>& image, int threads);

}  // namespace dcrf
