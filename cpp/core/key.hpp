// The name of a lattice vertex as a few 64-bit words: its remainder and its first d quotients,
// each in a field as wide as the data need. Fields keep room for two steps past the data on
// either side, so stepping to a neighbour is plain addition and never carries or wraps.
#pragma once

#include <array>
#include <cstdint>

#include "simplex.hpp"

namespace dcrf {

template <int Words>
struct Key {
  std::uint64_t word[Words] = {};

  friend bool operator==(const Key& a, const Key& b) {
    std::uint64_t difference = 0;  // no branches: lookups are slowed by mispredicted ones
    for (int w = 0; w < Words; ++w) difference |= a.word[w] ^ b.word[w];
    return difference == 0;
  }
  Key& operator+=(const Key& other) {
    for (int w = 0; w < Words; ++w) word[w] += other.word[w];
    return *this;
  }
  Key& operator-=(const Key& other) {
    for (int w = 0; w < Words; ++w) word[w] -= other.word[w];
    return *this;
  }
  std::uint64_t hash() const {
    constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    std::uint64_t h = word[0] * kGolden;
    for (int w = 1; w < Words; ++w) h = ((h >> 32) ^ h ^ word[w]) * kGolden;
    return h;
  }
};

// Where each field lies. Field 0 is the remainder, field j + 1 the quotient of axis j < d.
struct KeyLayout {
  int dims = 0;
  int words = 0;
  bool one_word_of_halves = true;  // a single word, no field across its halves
  std::array<int, kMaxDims + 1> word{};
  std::array<int, kMaxDims + 1> shift{};
  std::array<std::int64_t, kMaxDims> base{};  // the quotient that is stored as 0

  // `low` and `high` bound the quotients of all simplices, [d] each. No field lies across a
  // half of a word unless it is wider than one, so that vector code can work on the halves.
  KeyLayout(int d, const std::int32_t* low, const std::int32_t* high) : dims(d) {
    int used = 0;  // bits of the current word
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
    if (words > 1) one_word_of_halves = false;
  }

  int remainder_bits_mask() const {
    int mask = 1;
    while (mask <= dims) mask <<= 1;
    return mask - 1;
  }
};

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
  Key<Words> pack(const std::int32_t* quotient) const {
    Key<Words> key;
    for (int j = 0; j < layout_.dims; ++j) {
      key.word[layout_.word[j + 1]] |= std::uint64_t(quotient[j] - layout_.base[j])
                                       << layout_.shift[j + 1];
    }
    return key;
  }

  // From vertex k of a simplex to vertex k + 1; `axis` is the one of rank d - k.
  void advance(Key<Words>& key, int axis) const {
    key += remainder_one;
    key -= unit[axis];
  }

  // The neighbour at coordinates +1 everywhere but -d on `axis`: the other way.
  Key<Words> neighbour_back(Key<Words> key, int axis) const {
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
  Key<Words> neighbour(Key<Words> key, int axis) const {
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
