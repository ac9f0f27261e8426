// The exponential function of the softmax, written without branches, calls or state so that
// compilers vectorise it. cpu/loops/pack.hpp has the SIMD version.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "portable.hpp"

namespace dcrf {

// Return exp(x) for x <= 80: relative error < 4e-7 for x >= -87, exactly 0 for x <= -88 (-infinity
// included).
DCRF_HOST_DEVICE inline float exponential(float x) {
  // kMagic = 1.5 * 2^23 + 127: adding it rounds to an integer n and leaves n + 127, the biased
  // exponent of 2^n, in the low bits. At n = -127 these bits are 0, which makes 2^n exactly 0.
  constexpr float kMagic = 12583039.0f, kLowest = -88.0f;
  const float clamped = x > kLowest ? x : kLowest;
  const float shifted = clamped * 1.44269504f + kMagic;  // log2(e)
  const float n = shifted - kMagic;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
  float p = 1.3981999e-3f;  // minimax polynomial for |r| <= ln(2) / 2
  p = p * r + 8.3683203e-3f;
  p = p * r + 4.1666485e-2f;
  p = p * r + 1.6666521e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const std::uint32_t exponent = bits << 23;
  float power;
  std::memcpy(&power, &exponent, sizeof power);
  return p * power;
}

// The same for double, by std::exp.
DCRF_HOST_DEVICE inline double exponential(double x) { return std::exp(x); }

}  // namespace dcrf
