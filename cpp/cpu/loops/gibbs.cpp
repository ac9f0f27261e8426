// Compiled once per instruction set, and like loops.cpp without functions of the standard library.
#include "gibbs.hpp"

#include "../../core/philox.hpp"
#include "pack.hpp"

namespace dcrf::DCRF_ISA {

namespace {

constexpr int kWords = 8;  // pixels whose random words are made together

// The random words of kWords pixels, `step` apart. Written so that compilers see whole vectors.
DCRF_INLINE void random_words(const GibbsRow& row, std::uint32_t first, std::uint32_t step,
                              std::uint32_t* words) {
  std::uint32_t c0[kWords], c1[kWords], c2[kWords], c3[kWords];
  for (int i = 0; i < kWords; ++i) {
    c0[i] = first + std::uint32_t(i) * step;
    c1[i] = row.sweep;
    c2[i] = std::uint32_t(row.chain);
    c3[i] = std::uint32_t(row.chain >> 32);
  }
  std::uint32_t k0 = std::uint32_t(row.seed), k1 = std::uint32_t(row.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kWords; ++i) {
      const std::uint32_t high0 = upper_product(0xD2511F53u, c0[i]), low0 = 0xD2511F53u * c0[i];
      const std::uint32_t high1 = upper_product(0xCD9E8D57u, c2[i]), low1 = 0xCD9E8D57u * c2[i];
      c0[i] = high1 ^ c1[i] ^ k0;
      c1[i] = low1;
      c2[i] = high0 ^ c3[i] ^ k1;
      c3[i] = low0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kWords; ++i) words[i] = c0[i];
}

// The scores of N * Packs labels from `first` on, to `scores`; the greatest of each lane.
template <int N, int Packs>
DCRF_INLINE Pack<float, N> add_neighbours_of(const Neighbours& of, const float* logits,
                                             const Label* here, int first, float* scores) {
  Pack<float, N> outward[Packs], inward[Packs];
  DCRF_UNROLL
  for (int i = 0; i < Packs; ++i) {
    outward[i] = load<float, N>(logits + first + i * N);
    inward[i] = Pack<float, N>{};
  }
  const std::int64_t table = std::int64_t(of.labels + 1) * of.width;
  const float* begins = of.rows + first;
  const float* ends = begins + of.classes * table;
  for (int c = 0; c < of.classes; ++c, begins += table, ends += table) {
    const std::int64_t step = of.step[c];
    const float* const out = begins + std::int64_t(here[step]) * of.width;
    const float* const in = ends + std::int64_t(here[-step]) * of.width;
    DCRF_UNROLL
    for (int i = 0; i < Packs; ++i) {
      outward[i] += load<float, N>(out + i * N);
      inward[i] += load<float, N>(in + i * N);
    }
  }
  Pack<float, N> greatest = outward[0] + inward[0];
  store<float, N>(scores + first, greatest);
  DCRF_UNROLL
  for (int i = 1; i < Packs; ++i) {
    const Pack<float, N> found = outward[i] + inward[i];
    store<float, N>(scores + first + i * N, found);
    greatest = larger<float, N>(greatest, found);
  }
  return greatest;
}

// The same for all labels, a few packs at a time in registers.
template <int N>
DCRF_INLINE Pack<float, N> score_labels(const Neighbours& of, const float* logits,
                                        const Label* here, float* scores) {
  constexpr int kMost = 4;
  Pack<float, N> greatest = broadcast<float, N>(-__builtin_inff());
  for (int first = 0; first < of.width; first += kMost * N) {
    Pack<float, N> found;
    switch ((of.width - first) / N) {
      case 1:
        found = add_neighbours_of<N, 1>(of, logits, here, first, scores);
        break;
      case 2:
        found = add_neighbours_of<N, 2>(of, logits, here, first, scores);
        break;
      case 3:
        found = add_neighbours_of<N, 3>(of, logits, here, first, scores);
        break;
      default:
        found = add_neighbours_of<N, kMost>(of, logits, here, first, scores);
    }
    greatest = larger<float, N>(greatest, found);
  }
  return max_lanes<float, N>(greatest);
}

// Draws the label of one pixel.
template <int N>
DCRF_INLINE Label draw(const GibbsRow& row, std::int64_t x, std::uint32_t word, float* scores,
                       std::uint32_t* weights) {
  const Neighbours& of = row.neighbours;
  const Pack<float, N> greatest =
      score_labels<N>(of, row.logits + x * of.width, row.labels + x, scores);
  std::uint32_t total = 0;
  if (row.beta == __builtin_inff()) {
    for (int l = 0; l < of.labels; ++l) {
      weights[l] = total == 0 && scores[l] == greatest[0];
      total += weights[l];
    }
  } else {
    for (int l = 0; l < of.width; l += N) {
      const Pack<float, N> p =
          exponential<N>((load<float, N>(scores + l) - greatest) * row.beta) * row.scale;
      const auto whole = __builtin_convertvector(p, Pack<std::int32_t, N>);
      __builtin_memcpy(weights + l, &whole, sizeof whole);
    }
  }
  std::uint32_t* const cumulative = weights + of.width;
  total = 0;
  for (int l = 0; l < of.labels; ++l) cumulative[l] = total += weights[l];
  const std::uint32_t drawn_at = threshold(word, total);
  std::uint32_t drawn = 0;
  for (int l = 0; l < of.labels; ++l) drawn += cumulative[l] <= drawn_at;
  if (row.marginals != nullptr) {
    const double share = 1.0 / double(total);
    double* const sum = row.marginals + x * of.labels;
    for (int l = 0; l < of.labels; ++l) sum[l] += double(weights[l]) * share;
  }
  return Label(drawn);
}

template <int N>
DCRF_INLINE std::int64_t draw_row(const GibbsRow& row, std::int64_t begin, std::int64_t end,
                                  std::int64_t step, float* scores, std::uint32_t* weights) {
  const Label nothing = Label(row.neighbours.labels);
  std::uint32_t words[kWords];
  std::int64_t changed = 0;
  for (std::int64_t x = begin; x < end;) {
    random_words(row, row.first_pixel + std::uint32_t(x), std::uint32_t(step), words);
    for (int i = 0; i < kWords && x < end; ++i, x += step) {
      const Label before = row.labels[x];
      if (before == nothing) continue;
      const Label after = draw<N>(row, x, words[i], scores, weights);
      changed += after != before;
      row.labels[x] = after;
    }
  }
  return changed;
}

std::int64_t gibbs_row(const GibbsRow& row, std::int64_t begin, std::int64_t end, std::int64_t step,
                       float* scores, std::uint32_t* weights) {
  return row.neighbours.width < kGibbsLanes
             ? draw_row<kGibbsLanes / 2>(row, begin, end, step, scores, weights)
             : draw_row<kGibbsLanes>(row, begin, end, step, scores, weights);
}

}  // namespace

const GibbsLoops& gibbs_table() {
  static const GibbsLoops found{&gibbs_row};
  return found;
}

}  // namespace dcrf::DCRF_ISA
