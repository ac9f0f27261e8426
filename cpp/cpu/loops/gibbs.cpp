// The inner loop of the Gibbs sweep with SIMD instructions (GibbsLoops). Compiled once per
// instruction set and, like loops.cpp, without functions of the standard library. Drawing a label
// is a long chain of dependent instructions. Pixels of one colour do not depend on each other, so
// several are drawn at a time, to overlap their chains.
#include "gibbs.hpp"

#include "../../core/philox.hpp"
#include "pack.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace dcrf::DCRF_ISA {

namespace {

constexpr int kBlock = 16;  // pixels whose random words are computed together

constexpr int kWide = kGibbsLanes;  // pixels per vector in draw_across

// Whether one instruction permutes the lanes of a vector by the indices in another.
#ifdef __clang__
constexpr bool kLooksUp = false;
#else
constexpr bool kLooksUp = DCRF_PACK_BYTES >= 32;
#endif

template <int N>
using Words = Pack<std::uint32_t, N>;

// A block of pixels to draw; the first `count` entries are used.
struct Block {
  int count = 0;
  Label* label[kBlock];         // the pixel's label in the padded image
  std::uint32_t pixel[kBlock];  // index in the image
  std::uint32_t word[kBlock];   // random word
};

using Eight = Words<8>;

// Multiply each word by `by`; return the upper and the lower 32 bits of the products.
DCRF_INLINE void multiply(const Eight& words, std::uint32_t by, Eight& high, Eight& low) {
#ifdef __AVX2__
  // Compilers do not generate _mm256_mul_epu32, which multiplies every second word, from a loop.
  const __m256i factor = _mm256_set1_epi64x(by), all = (__m256i)words;
  const __m256i even = _mm256_mul_epu32(all, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(all, 32), factor);
  low = (Eight)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  high = (Eight)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
  for (int i = 0; i < 8; ++i) high[i] = upper_product(by, words[i]);
  low = words * by;
#endif
}

// Compute random_word() of core/philox.hpp for each pixel of a block. The rounds of one vector are
// a dependent chain, so those of several vectors are interleaved.
DCRF_INLINE void add_words(const GibbsPass& pass, Block& block) {
  constexpr int kVectors = kBlock / 8;
  Eight c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    __builtin_memcpy(&c0[i], block.pixel + 8 * i, sizeof c0[i]);
    c1[i] = Eight{} + pass.sweep;
    c2[i] = Eight{} + std::uint32_t(pass.chain);
    c3[i] = Eight{} + std::uint32_t(pass.chain >> 32);
  }
  std::uint32_t k0 = std::uint32_t(pass.seed), k1 = std::uint32_t(pass.seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    DCRF_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      Eight high0, low0, high1, low1;
      multiply(c0[i], kPhiloxFactor0, high0, low0);
      multiply(c2[i], kPhiloxFactor1, high1, low1);
      c0[i] = high1 ^ c1[i] ^ k0;
      c1[i] = low1;
      c2[i] = high0 ^ c3[i] ^ k1;
      c3[i] = low0;
    }
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
  for (int i = 0; i < kVectors; ++i) __builtin_memcpy(block.word + 8 * i, &c0[i], sizeof c0[i]);
}

// Compute the scores of labels first .. first + N * Packs - 1 for pixels `at` to `at` + P - 1 of a
// block.
template <int N, int Packs, int P>
DCRF_INLINE void add_neighbours(const GibbsPass& pass, const Block& block, int at, int first,
                                Pack<float, N> (&scores)[P][Packs]) {
  const Neighbours& of = pass.neighbours;
  Pack<float, N> inward[P][Packs];
  DCRF_UNROLL
  for (int p = 0; p < P; ++p) {
    const float* const logits = pass.logits + std::int64_t(block.pixel[at + p]) * of.width + first;
    DCRF_UNROLL
    for (int i = 0; i < Packs; ++i) {
      scores[p][i] = load<float, N>(logits + i * N);
      inward[p][i] = Pack<float, N>{};
    }
  }
  const std::int64_t table = std::int64_t(of.labels + 1) * of.width;
  const float* begins = of.rows + first;
  const float* ends = begins + of.classes * table;
  for (int c = 0; c < of.classes; ++c, begins += table, ends += table) {
    const std::int64_t step = of.step[c];
    DCRF_UNROLL
    for (int p = 0; p < P; ++p) {
      const Label* const here = block.label[at + p];
      const float* const out = begins + std::int64_t(here[step]) * of.width;
      const float* const in = ends + std::int64_t(here[-step]) * of.width;
      DCRF_UNROLL
      for (int i = 0; i < Packs; ++i) {
        scores[p][i] += load<float, N>(out + i * N);
        inward[p][i] += load<float, N>(in + i * N);
      }
    }
  }
  DCRF_UNROLL
  for (int p = 0; p < P; ++p) {
    DCRF_UNROLL
    for (int i = 0; i < Packs; ++i) scores[p][i] += inward[p][i];
  }
}

// Vector version of weight() of core/gibbs.hpp.
template <int N>
DCRF_INLINE Words<N> weights_of(const GibbsPass& pass, const Pack<float, N>& scores,
                                const Pack<float, N>& greatest) {
  const Pack<float, N> p = exponential<N>((scores - greatest) * pass.beta) * pass.scale;
  return (Words<N>)__builtin_convertvector(p, Pack<std::int32_t, N>);
}

// Return the pack with its lanes moved up by `By` and zeros in the lanes below.
template <int N, int By>
DCRF_INLINE Words<N> moved_up(const Words<N>& a) {
  Pack<std::int32_t, N> from;
  for (int i = 0; i < N; ++i) from[i] = i < By ? N : i - By;
#ifdef __clang__
  Words<N> out;
  for (int i = 0; i < N; ++i) out[i] = i < By ? 0 : a[i - By];
  return out;
#else
  return __builtin_shuffle(a, Words<N>{}, from);
#endif
}

// Return the sum of lanes 0..i in each lane i.
template <int N>
DCRF_INLINE Words<N> cumulative(Words<N> a) {
  a += moved_up<N, 1>(a);
  a += moved_up<N, 2>(a);
  if constexpr (N >= 8) a += moved_up<N, 4>(a);
  return a;
}

// Return the sum of all lanes.
template <int N>
DCRF_INLINE std::uint32_t sum_of(const Words<N>& a) {
  return cumulative<N>(a)[N - 1];
}

// Add the conditional of a pixel to its marginals.
DCRF_INLINE void add_marginal(const GibbsPass& pass, std::uint32_t pixel,
                              const std::uint32_t* weights, std::uint32_t total) {
  const int labels = pass.neighbours.labels;
  const double share = 1.0 / double(total);
  double* const sum = pass.marginals + std::int64_t(pixel) * labels;
  for (int l = 0; l < labels; ++l) sum[l] += double(weights[l]) * share;
}

// Draw pixels `at` to `at` + P - 1 of a block. All N * Packs scores of a pixel stay in registers.
template <int N, int Packs, int P>
DCRF_INLINE void draw(const GibbsPass& pass, const Block& block, int at, std::uint32_t* weights,
                      Label* drawn) {
  Pack<float, N> scores[P][Packs];
  add_neighbours<N, Packs, P>(pass, block, at, 0, scores);
  DCRF_UNROLL
  for (int p = 0; p < P; ++p) {
    Pack<float, N> greatest = scores[p][0];
    DCRF_UNROLL
    for (int i = 1; i < Packs; ++i) greatest = larger<float, N>(greatest, scores[p][i]);
    greatest = max_lanes<float, N>(greatest);
    Words<N> sums[Packs];
    std::uint32_t total = 0;
    DCRF_UNROLL
    for (int i = 0; i < Packs; ++i) {
      const Words<N> w = weights_of<N>(pass, scores[p][i], greatest);
      if (pass.marginals != nullptr) __builtin_memcpy(weights + i * N, &w, sizeof w);
      sums[i] = cumulative<N>(w) + total;
      total = sums[i][N - 1];
    }
    if (pass.marginals != nullptr) add_marginal(pass, block.pixel[at + p], weights, total);
    const std::uint32_t where = threshold(block.word[at + p], total);
    Words<N> below{};  // minus the number of labels with a cumulative weight <= `where`
    DCRF_UNROLL
    for (int i = 0; i < Packs; ++i) below += (Words<N>)(sums[i] <= where);
    drawn[p] = Label(0 - sum_of<N>(below));
  }
}

// Draw one pixel with any number of labels, with scores and weights in memory. At infinite beta,
// return the lowest of the most probable labels.
template <int N>
DCRF_INLINE Label draw_in_memory(const GibbsPass& pass, const Block& block, int at, float* scores,
                                 std::uint32_t* weights) {
  const Neighbours& of = pass.neighbours;
  Pack<float, N> greatest = broadcast<float, N>(-__builtin_inff());
  for (int l = 0; l < of.width; l += N) {
    Pack<float, N> found[1][1];
    add_neighbours<N, 1, 1>(pass, block, at, l, found);
    store<float, N>(scores + l, found[0][0]);
    greatest = larger<float, N>(greatest, found[0][0]);
  }
  greatest = max_lanes<float, N>(greatest);
  std::uint32_t total = 0;
  if (is_greedy(pass.beta)) {
    for (int l = 0; l < of.labels; ++l) {
      weights[l] = total == 0 && scores[l] == greatest[0];
      total += weights[l];
    }
  } else {
    for (int l = 0; l < of.width; l += N) {
      const Words<N> w = weights_of<N>(pass, load<float, N>(scores + l), greatest);
      __builtin_memcpy(weights + l, &w, sizeof w);
      total += sum_of<N>(w);
    }
  }
  if (pass.marginals != nullptr) add_marginal(pass, block.pixel[at], weights, total);
  const std::uint32_t where = threshold(block.word[at], total);
  int drawn = 0;
  for (std::uint32_t sum = weights[0]; sum <= where; sum += weights[drawn]) ++drawn;
  return Label(drawn);
}

// Return table[index[i]] in each lane i.
[[maybe_unused]] DCRF_INLINE Pack<float, kWide> look_up(
    const float* table, const Pack<std::int32_t, kWide>& index) {
#ifdef __clang__
  Pack<float, kWide> out{};
  for (int i = 0; i < kWide; ++i) out[i] = table[index[i]];
  return out;
#else
  return __builtin_shuffle(load<float, kWide>(table), index);
#endif
}

// Draw kWide pixels at once, where each lane holds a pixel instead of a label. The tables have at
// most kWide entries per label, so a permutation of lanes looks up the entries for the neighbours'
// labels.
template <int L>
DCRF_INLINE void draw_across(const GibbsPass& pass, const Block& block, int at, Label* drawn) {
  using Index = Pack<std::int32_t, kWide>;
  const Neighbours& of = pass.neighbours;
  Pack<float, kWide> scores[L], inward[L];
  DCRF_UNROLL
  for (int l = 0; l < L; ++l) {
    Pack<float, kWide> logits{};
    for (int i = 0; i < kWide; ++i)
      logits[i] = pass.logits[std::int64_t(block.pixel[at + i]) * of.width + l];
    scores[l] = logits;
    inward[l] = Pack<float, kWide>{};
  }
  const float* begins = pass.columns;
  const float* ends = begins + of.classes * L * kWide;
  for (int c = 0; c < of.classes; ++c, begins += L * kWide, ends += L * kWide) {
    const std::int64_t step = of.step[c];
    Index out{}, in{};
    for (int i = 0; i < kWide; ++i) {
      out[i] = block.label[at + i][step];
      in[i] = block.label[at + i][-step];
    }
    DCRF_UNROLL
    for (int l = 0; l < L; ++l) {
      scores[l] += look_up(begins + l * kWide, out);
      inward[l] += look_up(ends + l * kWide, in);
    }
  }
  Pack<float, kWide> greatest = scores[0] += inward[0];
  DCRF_UNROLL
  for (int l = 1; l < L; ++l) greatest = larger<float, kWide>(greatest, scores[l] += inward[l]);
  Words<kWide> weights[L], sums[L];
  DCRF_UNROLL
  for (int l = 0; l < L; ++l) {
    weights[l] = weights_of<kWide>(pass, scores[l], greatest);
    sums[l] = l == 0 ? weights[0] : sums[l - 1] + weights[l];
  }
  Words<kWide> where{};
  for (int i = 0; i < kWide; ++i) where[i] = threshold(block.word[at + i], sums[L - 1][i]);
  Words<kWide> below{};  // minus the number of labels with a cumulative weight <= `where`
  DCRF_UNROLL
  for (int l = 0; l < L; ++l) below += (Words<kWide>)(sums[l] <= where);
  for (int i = 0; i < kWide; ++i) drawn[i] = Label(0 - below[i]);
  if (pass.marginals == nullptr) return;
  for (int i = 0; i < kWide && at + i < block.count; ++i) {
    std::uint32_t own[L];
    for (int l = 0; l < L; ++l) own[l] = weights[l][i];
    add_marginal(pass, block.pixel[at + i], own, sums[L - 1][i]);
  }
}

// Draw the pixels of a block and empty it; return how many labels changed. Packs > 0 selects
// draw(), 0 draw_in_memory() and -L draw_across<L>().
template <int N, int Packs, int P>
DCRF_INLINE std::int64_t draw_block(const GibbsPass& pass, Block& block, float* scores,
                                    std::uint32_t* weights) {
  for (int i = block.count; i < kBlock; ++i) {  // fill the block; these draws are discarded
    block.label[i] = block.label[0];
    block.pixel[i] = block.pixel[0];
  }
  add_words(pass, block);
  Label drawn[kBlock];
  if constexpr (Packs < 0) {
    for (int i = 0; i < block.count; i += kWide) draw_across<-Packs>(pass, block, i, drawn + i);
  } else if constexpr (Packs == 0) {
    for (int i = 0; i < block.count; ++i)
      drawn[i] = draw_in_memory<N>(pass, block, i, scores, weights);
  } else if (pass.marginals == nullptr) {
    for (int i = 0; i < block.count; i += P) draw<N, Packs, P>(pass, block, i, weights, drawn + i);
  } else {  // one by one: pixels that fill the block must not be added to the marginals
    for (int i = 0; i < block.count; ++i) draw<N, Packs, 1>(pass, block, i, weights, drawn + i);
  }
  std::int64_t changed = 0;
  for (int i = 0; i < block.count; ++i) {
    changed += *block.label[i] != drawn[i];
    *block.label[i] = drawn[i];
  }
  block.count = 0;
  return changed;
}

// Draw the pixels of one colour in a range of rows, block by block; return how many labels changed.
template <int N, int Packs, int P>
DCRF_INLINE std::int64_t draw_rows(const GibbsPass& pass, std::int64_t begin, std::int64_t end,
                                   float* scores, std::uint32_t* weights) {
  const Label masked = Label(pass.neighbours.labels);
  Block block;
  std::int64_t changed = 0;
  for (std::int64_t y = begin; y < end; ++y) {
    const GibbsStripe stripe = pass.stripes[y % pass.m];
    if (stripe.step == 0) continue;
    Label* const row = pass.labels + y * pass.stride;
    for (std::int64_t x = stripe.first; x < pass.width; x += stripe.step) {
      block.label[block.count] = row + x;
      block.pixel[block.count] = std::uint32_t(y * pass.width + x);
      block.count += row[x] != masked;
      if (block.count == kBlock) changed += draw_block<N, Packs, P>(pass, block, scores, weights);
    }
  }
  if (block.count > 0) changed += draw_block<N, Packs, P>(pass, block, scores, weights);
  return changed;
}

// GibbsLoops::rows: select the variant of the loop by the number of labels.
std::int64_t gibbs_rows(const GibbsPass& pass, std::int64_t begin, std::int64_t end, float* scores,
                        std::uint32_t* weights) {
  // N labels fill a register; K registers hold kGibbsLanes labels.
  constexpr int N = kLanes<float>, K = kGibbsLanes / N, kNarrow = kGibbsLanes / 2;
  if (is_greedy(pass.beta) || pass.neighbours.width > 4 * kGibbsLanes)
    return draw_rows<kNarrow, 0, 1>(pass, begin, end, scores, weights);
  if constexpr (kLooksUp) {
    switch (pass.neighbours.labels) {
      case 2:
        return draw_rows<N, -2, 1>(pass, begin, end, scores, weights);
      case 3:
        return draw_rows<N, -3, 1>(pass, begin, end, scores, weights);
      case 4:
        return draw_rows<N, -4, 1>(pass, begin, end, scores, weights);
      case 5:
        return draw_rows<N, -5, 1>(pass, begin, end, scores, weights);
      case 6:
        return draw_rows<N, -6, 1>(pass, begin, end, scores, weights);
      case 7:
        return draw_rows<N, -7, 1>(pass, begin, end, scores, weights);
    }
  }
  switch (pass.neighbours.width / kGibbsLanes) {
    case 0:
      return draw_rows<kNarrow, 1, 4>(pass, begin, end, scores, weights);
    case 1:
      return draw_rows<N, 1 * K, 4 / K>(pass, begin, end, scores, weights);
    case 2:
      return draw_rows<N, 2 * K, 2 / K>(pass, begin, end, scores, weights);
    case 3:
      return draw_rows<N, 3 * K, 2 / K>(pass, begin, end, scores, weights);
    default:
      return draw_rows<N, 4 * K, 2 / K>(pass, begin, end, scores, weights);
  }
}

}  // namespace

const GibbsLoops& gibbs_table() {
  static const GibbsLoops found{&gibbs_rows};
  return found;
}

}  // namespace dcrf::DCRF_ISA
