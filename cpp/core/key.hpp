// The name of a lattice vertex as a few 64-bit words: its remainder and its first d quotients,
// each in a field as wide as the data need. Fields keep room for two steps past the data on
// either side, so stepping to a neighbour is plain addition and never carries or wraps.
#pragma once

#include <cmath>
#include <cstdint>

#include "simplex.hpp"

namespace dcrf {

template <int Words>
struct Key {
  std::uint64_t word[Words] = {};

  DCRF_HOST_DEVICE friend bool operator==(const Key& a, const Key& b) {
    std::uint64_t difference = 0;  // no branches: lookups are slowed by mispredicted ones
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
  // Which of two comes first in sorted order: the last word counts most.
  DCRF_HOST_DEVICE friend bool operator<(const Key& a, const Key& b) {
    for (int w = Words - 1; w > 0; --w) {
      if (a.word[w] != b.word[w]) return a.word[w] < b.word[w];
    }
    return a.word[0] < b.word[0];
  }
  std::uint64_t hash() const {
    constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    std::uint64_t h = word[0] * kGolden;
    for (int w = 1; w < Words; ++w) h = ((h >> 32) ^ h ^ word[w]) * kGolden;
    return h;
  }
};

// Where each field lies. Field 0 is the remainder, field j + 1 the quotient of axis j < d, and
// field d + 1 the image, where one table holds the vertices of several. Later fields count more in
// sorted order, so how wide they are does not bear on it.
struct KeyLayout {
  int dims = 0;
  int words = 0;
  int used = 0;                    // bits of the last word in use
  bool one_word_of_halves = true;  // a single word, no field across its halves
  int word[kMaxDims + 2] = {};
  int shift[kMaxDims + 2] = {};
  std::int64_t base[kMaxDims] = {};  // the quotient that is stored as 0

  // `low` and `high` bound the quotients of all simplices, [d] each. No field lies across a
  // half of a word unless it is wider than one, so that vector code can work on the halves.
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
      base[j] = std::int64_t(low[j]) - 3;  // a simplex reaches 1 below, two rings of neighbours 2
      place(j + 1, std::uint64_t(std::int64_t(high[j]) + 2 - base[j]));
    }
    if (images > 1) place(d + 1, std::uint64_t(images - 1));
    if (words > 1) one_word_of_halves = false;
  }

  int remainder_bits_mask() const {
    int mask = 1;
    while (mask <= dims) mask <<= 1;
    return mask - 1;
  }
};

// What |coordinate| of the plane an engine indexes: as densecrf_rnn/checks.
template <typename T>
constexpr double kMaxElevated = sizeof(T) == 4 ? 1048576.0 : 2147483648.0;

// The quotients that features within [least, greatest] can have, [d] each; false if they are too
// large to index, or not finite.
template <typename T>
inline bool quotient_range(const double* least, const double* greatest, int d, std::int32_t* low,
                           std::int32_t* high) {
  double reach = 0, sum_low = 0, sum_high = 0;
  for (int i = 0; i < d; ++i) {
    const double furthest = -least[i] > greatest[i] ? -least[i] : greatest[i];
    if (!(std::isfinite(least[i]) && std::isfinite(greatest[i]))) return false;
    reach += furthest * (i + 1) * elevation_scale<double>(d, i);
  }
  if (!(reach <= kMaxElevated<T>)) return false;
  for (int j = d; j >= 0; --j) {  // as in locate(), with intervals for numbers
    double below = sum_low, above = sum_high;
    if (j > 0) {
      const double a = least[j - 1] * elevation_scale<double>(d, j - 1);
      const double b = greatest[j - 1] * elevation_scale<double>(d, j - 1);
      below -= j * b;
      above -= j * a;
      sum_low += a;
      sum_high += b;
    }
    // Rounding to the nearest, the correction by one, and rounding errors.
    if (j < d) {
      low[j] = std::int32_t(std::floor(below / (d + 1))) - 3;
      high[j] = std::int32_t(std::ceil(above / (d + 1))) + 3;
    }
  }
  return true;
}

// The arithmetic on keys that a layout fixes.
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

  // Vertex 0 of a simplex.
  DCRF_HOST_DEVICE Key<Words> pack(const std::int32_t* quotient, std::uint64_t image = 0) const {
    Key<Words> key;
    key.word[layout_.word[layout_.dims + 1]] |= image << layout_.shift[layout_.dims + 1];
    for (int j = 0; j < layout_.dims; ++j) {
      key.word[layout_.word[j + 1]] |= std::uint64_t(quotient[j] - layout_.base[j])
                                       << layout_.shift[j + 1];
    }
    return key;
  }

  // From vertex k of a simplex to vertex k + 1; `axis` is the one of rank d - k.
  DCRF_HOST_DEVICE void advance(Key<Words>& key, int axis) const {
    key += remainder_one;
    key -= unit[axis];
  }

  // The neighbour at coordinates +1 everywhere but -d on `axis`: the other way.
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

  // The neighbour at coordinates -1 everywhere but +d on `axis`.
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

  Key<Words> unit[kMaxDims + 1];  // 1 in the quotient of an axis; axis d is implied, so 0
  Key<Words> all;                 // 1 in every quotient
  Key<Words> remainder_one;
  Key<Words> remainder_d;

 private:
  KeyLayout layout_;
  std::uint64_t mask_;  // of the remainder: field 0 lies at bit 0 of word 0
};

}  // namespace dcrf
