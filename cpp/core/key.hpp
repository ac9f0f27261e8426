// Keys of lattice vertices, which the CPU and CUDA engines hash or sort to number the vertices.
// Coordinate j of a vertex is (d+1) quotient_j + remainder. A key packs the remainder and the first
// d quotients into bit fields of one or more 64-bit words; the coordinates sum to 0, so the last
// quotient is redundant. Each field is wide enough for the quotients of the data plus two blur
// steps in either direction, so a step to a neighbour is an integer addition that never carries
// into the next field or wraps.
#pragma once

#include <cmath>
#include <cstdint>

#include "simplex.hpp"

namespace dcrf {

// A key of `Words` 64-bit words.
template <int Words>
struct Key {
  std::uint64_t word[Words] = {};

  DCRF_HOST_DEVICE friend bool operator==(const Key& a, const Key& b) {
    std::uint64_t difference = 0;  // no early exit: a mispredicted branch costs more
    for (int w = 0; w < Words; ++w) difference |= a.word[w] ^ b.word[w];
    return difference == 0;
  }
  DCRF_HOST_DEVICE Key& operator+=(const Key& other) {
    for (int w = 0; w < Words; ++w) word[w] += other.word[w];
    return *this;
  }
  DCRF_HOST_DEVICE Key& operator-=(const Key& other) {
    for (int w = 0; w < Words; ++w) word[w] -= other.word[w];
    return *this;
  }
  // Sort order of keys: the last word is the most significant.
  DCRF_HOST_DEVICE friend bool operator<(const Key& a, const Key& b) {
    for (int w = Words - 1; w > 0; --w) {
      if (a.word[w] != b.word[w]) return a.word[w] < b.word[w];
    }
    return a.word[0] < b.word[0];
  }
  // Return a multiplicative hash of all words.
  std::uint64_t hash() const {
    constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    std::uint64_t h = word[0] * kGolden;
    for (int w = 1; w < Words; ++w) h = ((h >> 32) ^ h ^ word[w]) * kGolden;
    return h;
  }
};

constexpr int kBlurSteps = 2;  // number of steps away from the data that keys must represent

// Word and bit offset of each field of a key. Field 0 is the remainder, field j + 1 the quotient of
// axis j < d, field d + 1 the image index (if one table holds the vertices of several images).
// Later fields are more significant in the sort order, which therefore does not depend on the
// widths of the fields.
struct KeyLayout {
  int dims = 0;                      // d
  int words = 0;                     // 64-bit words per key
  int used = 0;                      // number of bits used in the last word
  bool one_word_of_halves = true;    // a key is one word, and no field crosses bit 32
  int word[kMaxDims + 2] = {};       // word that contains each field
  int shift[kMaxDims + 2] = {};      // lowest bit of each field within its word
  std::int64_t base[kMaxDims] = {};  // per axis: the quotient that is encoded as 0
  std::int64_t top[kMaxDims] = {};   // per axis: the greatest quotient that keys must represent

  // `low`, `high` [d]: bounds on the quotients of all simplices. Fields of at most 32 bits never
  // cross bit 32 of a word, so that SIMD code can work on 32-bit halves. `images` is the number of
  // images in one table.
  KeyLayout(int d, const std::int32_t* low, const std::int32_t* high, std::int64_t images = 1)
      : dims(d) {
    const auto place = [&](int field, std::uint64_t largest) {
      int bits = 0;
      while (largest >> bits) ++bits;
      if (bits > 32) one_word_of_halves = false;
      const int rest_of_half = 32 - used % 32;
      if (used % 32 != 0 && bits > rest_of_half) used += rest_of_half;
      if (words == 0 || used + bits > 64) {
        ++words;
        used = 0;
      }
      word[field] = words - 1;
      shift[field] = used;
      used += bits;
    };
    place(0, std::uint64_t(d));
    for (int j = 0; j < d; ++j) {
      // Vertices of a simplex have quotients down to low - 1; blurs step kBlurSteps further.
      base[j] = std::int64_t(low[j]) - 1 - kBlurSteps;
      top[j] = std::int64_t(high[j]) + kBlurSteps;
      place(j + 1, std::uint64_t(top[j] - base[j]));
    }
    if (images > 1) place(d + 1, std::uint64_t(images - 1));
    if (words > 1) one_word_of_halves = false;
  }

  // Return whether the fields can hold all quotients of another layout of as many axes.
  bool covers(const KeyLayout& other) const {
    for (int j = 0; j < dims; ++j) {
      std::int64_t most = 1;  // value of a field of this width
      while (most < top[j] - base[j]) most = 2 * most + 1;
      if (other.base[j] < base[j] || other.top[j] > base[j] + most) return false;
    }
    return true;
  }

  // Return a mask of the remainder's bits: the smallest 2^b - 1 that is at least d.
  int remainder_bits_mask() const {
    int mask = 1;
    while (mask <= dims) mask <<= 1;
    return mask - 1;
  }
};

// Bound the quotients of points whose features lie in [least, greatest] ([d] each): write `low` and
// `high` [d]. Return false if the features are not finite or if elevated coordinates could exceed
// kMaxElevated<T>.
template <typename T>
inline bool quotient_range(const double* least, const double* greatest, int d, std::int32_t* low,
                           std::int32_t* high) {
  constexpr int kMargin = 3;  // for rounding to nearest, the correction by one, and rounding errors
  double reach = 0, sum_low = 0, sum_high = 0;
  for (int i = 0; i < d; ++i) {
    const double furthest = -least[i] > greatest[i] ? -least[i] : greatest[i];
    if (!(std::isfinite(least[i]) && std::isfinite(greatest[i]))) return false;
    reach += furthest * (i + 1) * elevation_scale<double>(d, i);
  }
  if (!(reach <= kMaxElevated<T>)) return false;
  for (int j = d; j >= 0; --j) {  // the computation of locate(), in interval arithmetic
    double below = sum_low, above = sum_high;
    if (j > 0) {
      const double a = least[j - 1] * elevation_scale<double>(d, j - 1);
      const double b = greatest[j - 1] * elevation_scale<double>(d, j - 1);
      below -= j * b;
      above -= j * a;
      sum_low += a;
      sum_high += b;
    }
    if (j < d) {
      low[j] = std::int32_t(std::floor(below / (d + 1))) - kMargin;
      high[j] = std::int32_t(std::ceil(above / (d + 1))) + kMargin;
    }
  }
  return true;
}

// Arithmetic on keys of one layout: pack vertex 0 of a simplex, step to another vertex.
template <int Words>
struct KeyMaths {
  explicit KeyMaths(const KeyLayout& layout)
      : layout_(layout), mask_(layout.remainder_bits_mask()) {
    remainder_one.word[layout.word[0]] = std::uint64_t(1) << layout.shift[0];
    for (int j = 0; j < layout.dims; ++j) {
      unit[j].word[layout.word[j + 1]] = std::uint64_t(1) << layout.shift[j + 1];
      all += unit[j];
    }
    for (int r = 0; r < layout.dims; ++r) remainder_d += remainder_one;
  }

  // Return the key of vertex 0 of the simplex with these quotients [d].
  DCRF_HOST_DEVICE Key<Words> pack(const std::int32_t* quotient, std::uint64_t image = 0) const {
    Key<Words> key;
    key.word[layout_.word[layout_.dims + 1]] |= image << layout_.shift[layout_.dims + 1];
    for (int j = 0; j < layout_.dims; ++j) {
      key.word[layout_.word[j + 1]] |= std::uint64_t(quotient[j] - layout_.base[j])
                                       << layout_.shift[j + 1];
    }
    return key;
  }

  // Step from vertex k of a simplex to vertex k + 1; `axis` is the axis of rank d - k.
  DCRF_HOST_DEVICE void advance(Key<Words>& key, int axis) const {
    key += remainder_one;
    key -= unit[axis];
  }

  // Return the backward neighbour along `axis`: coordinates change by -d on `axis`, +1 elsewhere.
  DCRF_HOST_DEVICE Key<Words> neighbour_back(Key<Words> key, int axis) const {
    if (int(key.word[0] & mask_) != layout_.dims) {
      key += remainder_one;
    } else {
      key += all;
      key -= remainder_d;
    }
    key -= unit[axis];
    return key;
  }

  // Return the forward neighbour along `axis`: coordinates change by +d on `axis`, -1 elsewhere.
  DCRF_HOST_DEVICE Key<Words> neighbour(Key<Words> key, int axis) const {
    if (std::uint64_t(key.word[0] & mask_) != 0) {
      key -= remainder_one;
    } else {
      key -= all;
      key += remainder_d;
    }
    key += unit[axis];
    return key;
  }

  Key<Words> unit[kMaxDims + 1];  // 1 in one axis' quotient; 0 for axis d, which has no field
  Key<Words> all;                 // 1 in every quotient
  Key<Words> remainder_one;       // 1 in the remainder
  Key<Words> remainder_d;         // d in the remainder

 private:
  KeyLayout layout_;
  std::uint64_t mask_;  // selects the remainder: field 0 starts at bit 0 of word 0
};

}  // namespace dcrf
