// Implements lookup.hpp. A lookup reads the home slot of a key and the next slot, and then the key
// whose tag is in one of them, without branches: about half of the neighbours of vertices are
// absent, which branch prediction cannot foresee. The few keys that this does not find are left to
// Table::find. What one block reads next is prefetched, because the code of eight lookups fills the
// processor's window.
#include "lookup.hpp"
#include "../../core/key.hpp"
#include "pack.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace dcrf::DCRF_ISA {
namespace {

#ifdef __AVX2__

constexpr std::uint32_t kIdMask = 0x7FFFFFFF;  // the id of guess_eight()

// Eight 64-bit numbers: `first` holds numbers 0, 1, 4, 5 and `second` numbers 2, 3, 6, 7, because
// instructions that unpack or shuffle work within 128 bits.
struct Eight {
  __m256i first, second;
};

DCRF_INLINE __m256i load_eight(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
DCRF_INLINE void store_eight(void* to, __m256i numbers) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), numbers);
}
DCRF_INLINE __m256i all_eight(std::uint32_t number) { return _mm256_set1_epi32(int(number)); }

// Read 64 bits at base + Scale * index[i], for eight indices.
template <int Scale>
DCRF_INLINE Eight gather(const void* base, __m256i index) {
  const __m256i order = _mm256_permute4x64_epi64(index, _MM_SHUFFLE(3, 1, 2, 0));
  const auto* const from = static_cast<const long long*>(base);
  return {_mm256_i32gather_epi64(from, _mm256_castsi256_si128(order), Scale),
          _mm256_i32gather_epi64(from, _mm256_extracti128_si256(order, 1), Scale)};
}

// Return the lower or upper 32 bits of eight numbers.
template <int Upper>
DCRF_INLINE __m256i halves(const Eight& numbers) {
  constexpr int kPick = Upper ? _MM_SHUFFLE(3, 1, 3, 1) : _MM_SHUFFLE(2, 0, 2, 0);
  return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(numbers.first),
                                               _mm256_castsi256_ps(numbers.second), kPick));
}

// Return the upper 32 bits of Key<1>::hash().
DCRF_INLINE __m256i hash(__m256i low, __m256i high) {
  Key<1> one;
  one.word[0] = 1;
  const std::uint64_t factor = one.hash();  // a hash is the key times this
  const __m256i factor_low = all_eight(std::uint32_t(factor));
  const __m256i factor_high = all_eight(std::uint32_t(factor >> 32));
  const __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(low, factor_low), 32);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(low, 32), factor_low);
  const __m256i products = _mm256_add_epi32(_mm256_mullo_epi32(low, factor_high),
                                            _mm256_mullo_epi32(high, factor_low));
  return _mm256_add_epi32(_mm256_blend_epi32(even, odd, 0xAA), products);
}

// Return, for eight keys, the only id that can be theirs according to two slots, and in the highest
// bit whether the key is absent.
DCRF_INLINE __m256i guess_eight(const TableView& table, __m256i low, __m256i high) {
  const __m128i bits = _mm_cvtsi32_si128(table.bits), rest = _mm_cvtsi32_si128(32 - table.bits);
  const __m256i none = all_eight(~0u), h = hash(low, high);
  const Eight slots = gather<4>(table.slots, _mm256_srl_epi32(h, rest));
  const __m256i home = halves<0>(slots), next = halves<1>(slots);
  const __m256i differs = _mm256_srl_epi32(_mm256_xor_si256(home, _mm256_sll_epi32(h, bits)), bits);
  const __m256i at_home = _mm256_cmpeq_epi32(differs, _mm256_setzero_si256());
  const __m256i slot = _mm256_blendv_epi8(next, home, at_home);
  const __m256i absent = _mm256_or_si256(
      _mm256_cmpeq_epi32(home, none), _mm256_andnot_si256(at_home, _mm256_cmpeq_epi32(next, none)));
  // An empty slot has an id beyond the last one.
  const __m256i id = _mm256_min_epu32(_mm256_and_si256(slot, _mm256_srl_epi32(none, rest)),
                                      all_eight(std::uint32_t(table.last)));
  return _mm256_or_si256(id, _mm256_slli_epi32(absent, 31));
}

// Return the ids that guess_eight() found, kAbsent or kUnknown.
DCRF_INLINE __m256i check_eight(const TableView& table, __m256i guess, __m256i low, __m256i high) {
  const __m256i id = _mm256_and_si256(guess, all_eight(kIdMask));
  const Eight keys = gather<8>(table.keys, id);
  const __m256i same =
      halves<0>({_mm256_cmpeq_epi64(keys.first, _mm256_unpacklo_epi32(low, high)),
                 _mm256_cmpeq_epi64(keys.second, _mm256_unpackhi_epi32(low, high))});
  const __m256i other = _mm256_blendv_epi8(
      all_eight(std::uint32_t(kUnknown)), all_eight(std::uint32_t(kAbsent)),
      _mm256_srai_epi32(guess, 31));
  return _mm256_blendv_epi8(other, id, same);
}

// Return the set of lanes whose highest bit is set.
DCRF_INLINE std::uint32_t signs(__m256i numbers) {
  return std::uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(numbers)));
}

#else

DCRF_INLINE std::int32_t find_one(const TableView& table, std::uint64_t key) {
  Key<1> wanted;
  wanted.word[0] = key;
  const std::uint32_t none = ~0u, h = std::uint32_t(wanted.hash() >> 32);
  const std::uint32_t at = h >> (32 - table.bits), mask = (1u << table.bits) - 1;
  const std::uint32_t home = table.slots[at], next = table.slots[at + 1];
  const bool at_home = ((home ^ (h << table.bits)) & ~mask) == 0;
  const std::uint32_t slot = (at_home ? home : next) & mask;
  const std::int32_t id = std::int32_t(slot) < table.last ? std::int32_t(slot) : table.last;
  const bool absent = (home == none) | (!at_home & (next == none));
  return table.keys[id] == key ? id : absent ? kAbsent : kUnknown;
}

#endif

std::uint64_t find(const TableView& table, const std::uint32_t* low, const std::uint32_t* high,
                   int count, std::int32_t* id) {
  if (count <= 0) return 0;
  const std::uint64_t all = ~std::uint64_t(0) >> (kBlock - count);
  std::uint64_t missing = 0;
  if (table.last < 0) {
    for (int i = 0; i < count; ++i) id[i] = kUnknown;
    return all;
  }
#ifdef __AVX2__
  for (int at = 0; at < count; at += 8) {
    store_eight(id + at, guess_eight(table, load_eight(low + at), load_eight(high + at)));
    for (int i = at; i < at + 8; ++i)
      __builtin_prefetch(table.keys + (std::uint32_t(id[i]) & kIdMask));
  }
  for (int at = 0; at < count; at += 8) {
    const __m256i found =
        check_eight(table, load_eight(id + at), load_eight(low + at), load_eight(high + at));
    store_eight(id + at, found);
    missing |= std::uint64_t(signs(found)) << at;
  }
#else
  for (int i = 0; i < count; ++i) {
    id[i] = find_one(table, std::uint64_t(high[i]) << 32 | low[i]);
    missing |= std::uint64_t(id[i] < 0) << i;
  }
#endif
  return missing & all;
}

int neighbours(const TableView& table, const NeighbourSteps& steps, std::int64_t first, int count,
               std::uint32_t* low, std::uint32_t* high, std::int32_t* at) {
  const std::uint64_t* const keys = table.keys + first;
  int kept = 0;
#ifdef __AVX2__
  const __m128i rest = _mm_cvtsi32_si128(32 - table.bits - kFilterBits);
  for (int v = 0; v < count; v += 8) {
    const int valid = count - v < 8 ? (1 << (count - v)) - 1 : 255;
    const __m256i a = load_eight(keys + v), b = load_eight(keys + v + 4);
    const Eight eight = {_mm256_permute2x128_si256(a, b, 0x20),
                         _mm256_permute2x128_si256(a, b, 0x31)};
    const __m256i of_low = halves<0>(eight), of_high = halves<1>(eight);
    const __m256i is_0 = _mm256_cmpeq_epi32(_mm256_and_si256(of_low, all_eight(steps.remainder)),
                                            _mm256_setzero_si256());
    for (int axis = 0; axis < steps.corners; ++axis) {
      const auto step = [&](__m256i half, const std::uint32_t(&by)[2][kMaxDims + 1]) {
        const __m256i positive = all_eight(by[0][axis]), zero = all_eight(by[1][axis]);
        return _mm256_add_epi32(half, _mm256_blendv_epi8(positive, zero, is_0));
      };
      const __m256i next_low = step(of_low, steps.low), next_high = step(of_high, steps.high);
      const __m256i bit = _mm256_srl_epi32(hash(next_low, next_high), rest);
      const __m256i word = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table.filter),
                                                  _mm256_srli_epi32(bit, 5), 4);
      // Shift the bit to the sign.
      const __m256i sign = _mm256_sllv_epi32(word, _mm256_andnot_si256(bit, all_eight(31)));
      const std::uint32_t some = signs(sign) & std::uint32_t(valid);
      // The lanes in `some`, in order.
      const std::uint64_t bytes = _pext_u64(
          0x0706050403020100u, _pdep_u64(some, 0x0101010101010101u) * 255);
      const __m256i lane = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(std::int64_t(bytes)));
      std::uint32_t home[8];
      store_eight(home, _mm256_permutevar8x32_epi32(_mm256_srli_epi32(bit, kFilterBits), lane));
      for (const std::uint32_t slot : home) __builtin_prefetch(table.slots + slot);
      store_eight(low + kept, _mm256_permutevar8x32_epi32(next_low, lane));
      store_eight(high + kept, _mm256_permutevar8x32_epi32(next_high, lane));
      store_eight(at + kept, _mm256_add_epi32(lane, _mm256_set1_epi32(axis * kBlock + v)));
      kept += __builtin_popcount(some);
    }
  }
#else
  for (int v = 0; v < count; ++v) {
    const std::uint32_t of_low = std::uint32_t(keys[v]), of_high = std::uint32_t(keys[v] >> 32);
    const bool is_0 = (of_low & steps.remainder) == 0;
    for (int axis = 0; axis < steps.corners; ++axis) {
      low[kept] = of_low + steps.low[is_0][axis];
      high[kept] = of_high + steps.high[is_0][axis];
      at[kept] = axis * kBlock + v;
      Key<1> key;
      key.word[0] = std::uint64_t(high[kept]) << 32 | low[kept];
      const std::uint64_t bit = key.hash() >> (64 - table.bits - kFilterBits);
      kept += table.filter[bit >> 5] >> (bit & 31) & 1;
    }
  }
#endif
  return kept;
}

// Write a chain from vertex v on and return its end.
DCRF_INLINE std::uint32_t* follow_one(const std::int32_t* next, std::int32_t v,
                                     std::uint32_t* out) {
  for (; v >= 0; v = next[v]) *out++ = std::uint32_t(v);
  out[-1] |= kChainEnd;
  return out;
}

std::int64_t follow(const std::int32_t* next, const std::int32_t* heads, std::int64_t count,
                    std::uint32_t* chains) {
  std::uint32_t* out = chains;
  std::int64_t i = 0;
#ifdef __AVX2__
  // Eight chains at a time, eight steps each, so that the latencies of reading `next` overlap.
  constexpr int N = 8;
  const __m256i none = all_eight(~0u);
  for (; i + N <= count; i += N) {
    __m256i v = load_eight(heads + i), length = _mm256_setzero_si256();
    Pack<float, N> steps[N];  // not numbers: transpose() moves bits
    DCRF_UNROLL
    for (int step = 0; step < N; ++step) {
      store_eight(&steps[step], v);
      const __m256i ended = _mm256_srai_epi32(v, 31);
      length = _mm256_add_epi32(length, _mm256_add_epi32(ended, all_eight(1)));
      v = _mm256_mask_i32gather_epi32(none, next, v, _mm256_xor_si256(ended, none), 4);
    }
    transpose<float, N>(steps);
    std::int32_t lengths[N], rest[N];
    store_eight(lengths, length);
    store_eight(rest, v);
    for (int lane = 0; lane < N; ++lane) {
      store_eight(out, __m256i(steps[lane]));
      out += lengths[lane];
      if (rest[lane] >= 0)
        out = follow_one(next, rest[lane], out);
      else
        out[-1] |= kChainEnd;
    }
  }
#endif
  for (; i < count; ++i) out = follow_one(next, heads[i], out);
  return out - chains;
}

}  // namespace

const LookupLoops& lookup_table() {
  static const LookupLoops found{&find, &neighbours, &follow};
  return found;
}

}  // namespace dcrf::DCRF_ISA
