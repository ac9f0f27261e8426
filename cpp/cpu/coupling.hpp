// Kernel weights and label compatibility as one matrix per kernel, applied to rows of values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "rows.hpp"

namespace dcrf {

// mu W of one kernel, [L, L], acting on padded rows. Where every column is constant but for its
// diagonal (Potts, with one weight or one per label) it costs O(L) in place of O(L^2). Padding is
// 0 in what goes in and in what comes out.
template <typename T>
class Coupling {
 public:
  Coupling(const T* matrix, int labels)
      : labels_(labels), width_(row_width(labels)), constant_(width_, T(0)), extra_(width_, T(0)) {
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
    rows_ = columns_;
    for (int own = 0; own < labels; ++own) {
      for (int other = 0; other < labels; ++other) {
        columns_[std::size_t(other) * width_ + own] = at(own, other);
        rows_[std::size_t(own) * width_ + other] = at(own, other);
      }
    }
  }

  // out = C in, rows of `width`.
  template <int Width>
  void apply(const T* in, T* out) const {
    const int width = Width > 0 ? Width : width_;
    if (!simple_) return multiply(columns_.data(), in, width, out);
    T part[4] = {};  // four sums, so that the additions do not wait for each other
    for (int c = 0; c < width; c += 4) {
      for (int j = 0; j < 4; ++j) part[j] += constant_[c + j] * in[c + j];
    }
    const T sum = (part[0] + part[1]) + (part[2] + part[3]);
    for (int c = 0; c < width; ++c) out[c] = sum + extra_[c] * in[c];
    std::fill(out + labels_, out + width, T(0));
  }

  // out = C' in, rows of `width`.
  template <int Width>
  void apply_transpose(const T* in, T* out) const {
    const int width = Width > 0 ? Width : width_;
    if (!simple_) return multiply(rows_.data(), in, width, out);
    T part[4] = {};
    for (int c = 0; c < width; c += 4) {
      for (int j = 0; j < 4; ++j) part[j] += in[c + j];
    }
    const T sum = (part[0] + part[1]) + (part[2] + part[3]);
    for (int c = 0; c < width; ++c) out[c] = sum * constant_[c] + extra_[c] * in[c];
  }

 private:
  // out = sum_l in[l] * row l of `matrix` [L, width].
  void multiply(const T* matrix, const T* in, int width, T* out) const {
    std::fill(out, out + width, T(0));
    for (int l = 0; l < labels_; ++l) {
      const T* const row = matrix + std::size_t(l) * width;
      for (int c = 0; c < width; ++c) out[c] += in[l] * row[c];
    }
  }

  int labels_, width_;
  bool simple_ = true;
  std::vector<T> constant_, extra_;  // [width]: each column off its diagonal, and what that adds
  std::vector<T> columns_, rows_;    // [L, width]: C' and C, where it is not simple
};

}  // namespace dcrf
