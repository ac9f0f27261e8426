// Mean fields of two labels. Their marginals sum to 1, so only the difference of the two is
// filtered. Results are bit-identical for any number of threads.
#pragma once

#include "mean_field.hpp"

namespace dcrf {

// Return whether the mean field of this image can run on differences: it has two labels, its
// marginals or labels are wanted, nothing is saved, no diagonal (i = j) terms are removed, and each
// coupling changes sign when the labels are exchanged (Potts with one weight per kernel).
template <typename T>
bool is_binary(const Model<T>& model, const Image<T>& image);

// Run all iterations for one image; return whether its logits were valid.
template <typename T>
bool binary_image(const Model<T>& model, const Image<T>& image, int threads);

}  // namespace dcrf
