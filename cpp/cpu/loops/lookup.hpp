// Lookups of many vertex keys at once in the hash table of table.hpp, called by cpu/build.cpp.
// Compiled once per instruction set: with AVX2, eight keys are looked up at a time.
#pragma once

#include <cstdint>

#include "../loops.hpp"

namespace dcrf {

// log2 of the number of bits per slot in the filter of a Table.
constexpr int kFilterBits = 2;
// Written by LookupLoops::find for a key that is absent, and for one that may be in the table.
constexpr std::int32_t kAbsent = -1, kUnknown = -2;

// A Table<1> as the lookups see it.
struct TableView {
  const std::uint32_t* slots = nullptr;  // [2^bits + 1], the last one is 0
  const std::uint64_t* keys = nullptr;   // [last + 1]
  // One bit per 2^-kFilterBits slots: whether a key's hash begins with the bit's number.
  const std::uint32_t* filter = nullptr;
  int bits = 0;            // of a home slot; at most 32 - kFilterBits
  std::int32_t last = -1;  // the largest id; -1: find() treats every key as unknown
};

// How to step from the key of a vertex to those of its forward neighbours: what is added to the
// lower and upper 32 bits of the key, for each axis, where the remainder is positive ([0]) or 0
// ([1]).
struct NeighbourSteps {
  int corners = 0;
  std::uint32_t remainder = 0;  // mask of the remainder's bits
  std::uint32_t low[2][kMaxDims + 1] = {}, high[2][kMaxDims + 1] = {};
};

constexpr int kBlock = 64;  // maximum number of keys or vertices per call of a lookup loop
// Lengths of arrays are rounded up, because whole vectors are read and written.
constexpr int kNeighbourRoom = (kMaxDims + 1) * kBlock + 8, kFollowRoom = 8;

struct LookupLoops {
  // Look up `count` <= kBlock keys, given as lower and upper 32 bits; the arrays have room for a
  // multiple of eight. Write the ids, or kAbsent or kUnknown, and return the set of keys that were
  // not found.
  std::uint64_t (*find)(const TableView& table, const std::uint32_t* low,
                        const std::uint32_t* high, int count, std::int32_t* id);
  // Write the keys of the forward neighbours of vertices `first` to `first` + `count` - 1
  // (`count` <= kBlock), except those that the filter knows to be absent, and return their number.
  // `at` receives axis * kBlock + (vertex - first). The arrays have kNeighbourRoom elements.
  int (*neighbours)(const TableView& table, const NeighbourSteps& steps, std::int64_t first,
                    int count, std::uint32_t* low, std::uint32_t* high, std::int32_t* at);
  // Write the chains head, next[head], ... (until next is negative) of `count` heads, one after the
  // other; kChainEnd marks the last vertex of each. Return their length. kFollowRoom more elements
  // of `chains` may be overwritten.
  std::int64_t (*follow)(const std::int32_t* next, const std::int32_t* heads, std::int64_t count,
                         std::uint32_t* chains);
};

// Return the lookups compiled for this processor's instruction set.
const LookupLoops& lookup_loops();

}  // namespace dcrf
