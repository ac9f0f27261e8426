// Counter-based random numbers of the Gibbs samplers: Philox4x32-10 of Salmon, Moraes, Dror, Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). A number is a function of the seed and
// of its counter (chain, sweep, pixel), with no state, so it is the same on every thread and
// processor.
#pragma once

#include <cstdint>

#include "portable.hpp"

namespace dcrf {

constexpr int kPhiloxRounds = 10;
constexpr std::uint32_t kPhiloxFactor0 = 0xD2511F53u, kPhiloxFactor1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;

// The 128 random bits of one counter.
struct Philox {
  std::uint32_t word[4];
};

// Return the upper 32 bits of the 64-bit product.
DCRF_HOST_DEVICE inline std::uint32_t upper_product(std::uint32_t a, std::uint32_t b) {
  return std::uint32_t((std::uint64_t(a) * b) >> 32);
}

// Encrypt the counter c0..c3 with the key k0, k1. The constants are those of the paper.
DCRF_HOST_DEVICE inline Philox philox(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                      std::uint32_t c3, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint32_t high0 = upper_product(kPhiloxFactor0, c0), low0 = kPhiloxFactor0 * c0;
    const std::uint32_t high1 = upper_product(kPhiloxFactor1, c2), low1 = kPhiloxFactor1 * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
  return {{c0, c1, c2, c3}};
}

// Return 32 random bits for one pixel in one sweep of one Markov chain.
DCRF_HOST_DEVICE inline std::uint32_t random_word(std::uint64_t seed, std::uint64_t chain,
                                                  std::uint32_t sweep, std::uint32_t pixel) {
  return philox(pixel, sweep, std::uint32_t(chain), std::uint32_t(chain >> 32), std::uint32_t(seed),
                std::uint32_t(seed >> 32))
      .word[0];
}

}  // namespace dcrf
