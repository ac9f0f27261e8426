// Stores the coupling matrix C = mu W of one kernel in the layouts that the loops need for products
// with C and with its transpose. Used by kernel_run.hpp and lattice.cpp.
#pragma once

#include <cstddef>
#include <vector>

#include "../core/numerics.hpp"
#include "loops.hpp"

namespace dcrf {

// The matrix scale * C, where C is [L, L]. If every column is constant except for its diagonal
// element (Potts with a scalar or per-label weight), a product costs O(L) instead of O(L^2).
template <typename T>
class Coupling {
 public:
  Coupling(const T* matrix, int labels, T scale) : Coupling(labels) {
    const auto at = [&](int own, int other) {
      return scale * matrix[std::size_t(own) * labels + other];
    };
    for (int other = 0; other < labels; ++other) {
      ones_[other] = T(1);
      constant_[other] = labels > 1 ? at(other == 0, other) : T(0);
      extra_[other] = at(other, other) - constant_[other];
      for (int own = 0; own < labels; ++own) {
        if (own != other && at(own, other) != constant_[other]) simple_ = false;
      }
    }
    if (simple_) return;
    columns_.assign(std::size_t(labels) * width_, T(0));
    rows_ = columns_;
    for (int own = 0; own < labels; ++own) {
      for (int other = 0; other < labels; ++other) {
        columns_[std::size_t(other) * width_ + own] = at(own, other);
        rows_[std::size_t(own) * width_ + other] = at(own, other);
      }
    }
  }

  // Return `scale` times the identity.
  static Coupling identity(int labels, T scale) {
    Coupling out(labels);
    for (int l = 0; l < labels; ++l) out.extra_[l] = scale;
    return out;
  }

  // Return the view for products with C, or with its transpose.
  CouplingView<T> view(bool transpose) const {
    CouplingView<T> out;
    out.labels = labels_;
    out.a = transpose ? ones_.data() : constant_.data();
    out.b = transpose ? constant_.data() : ones_.data();
    out.extra = extra_.data();
    if (!simple_) out.matrix = transpose ? rows_.data() : columns_.data();
    return out;
  }

 private:
  explicit Coupling(int labels)
      : labels_(labels),
        width_(row_width(labels)),
        constant_(width_, T(0)),
        extra_(width_, T(0)),
        ones_(width_, T(0)) {}

  int labels_, width_;
  bool simple_ = true;  // every column is constant except for its diagonal element
  // [width]: the off-diagonal value of each column; its diagonal element minus that value.
  std::vector<T> constant_, extra_;
  std::vector<T> ones_;            // [width]: 1 at labels
  std::vector<T> columns_, rows_;  // [L, width]: transposed C and C, if C is not simple
};

}  // namespace dcrf
