// 16-bit storage types for values at vertices and cells; all arithmetic is done in float.
// Conversion rounds to nearest, ties to even. On a GPU Half uses the CUDA intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#include "../core/portable.hpp"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace dcrf::cuda {

// Bit masks of float (1 sign, 8 exponent, 23 fraction bits).
constexpr std::uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;

DCRF_HOST_DEVICE inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
DCRF_HOST_DEVICE inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// IEEE binary16 (1 sign, 5 exponent, 10 fraction bits). Values of larger magnitude than the
// maximum, infinities included, are clipped to it.
class Half {
 public:
  Half() = default;
  DCRF_HOST_DEVICE Half(float x) {                // NOLINT: implicit, as between arithmetic types
    x = x > kMax ? kMax : x < -kMax ? -kMax : x;  // NaN stays NaN
#ifdef __CUDA_ARCH__
    bits_ = __half_as_ushort(__float2half_rn(x));
#else
    const std::uint32_t sign = bits_of(x) >> 16 & 0x8000u, size = bits_of(x) & kMagnitude;
    std::uint32_t found = kNan;
    if (size < bits_of(kMinNormal)) {
      // Subnormal half, a multiple of 2^-24, which is the ulp of 0.5f: adding 0.5f rounds to it.
      found = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
    } else if (size <= kInfinity) {
      found = (size + 0xfffu + (size >> kDropped & 1u) - kRebias) >> kDropped;
    }
    bits_ = std::uint16_t(sign | found);
#endif
  }
  DCRF_HOST_DEVICE operator float() const {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(bits_));
#else
    const std::uint32_t sign = std::uint32_t(bits_ & 0x8000u) << 16, size = bits_ & 0x7fffu;
    if (size < 0x400u) return float_of(sign | bits_of(float(size) * kUnit));  // subnormal
    if (size >= 0x7c00u) return float_of(0x7fc00000u);  // NaN; infinity is never stored
    return float_of(sign | ((size << kDropped) + kRebias));
#endif
  }

 private:
  static constexpr float kMax = 65504, kMinNormal = 1.0f / 16384, kUnit = 1.0f / 16777216;
  static constexpr std::uint32_t kNan = 0x7e00u;
  static constexpr int kDropped = 13;  // fraction bits of float that half lacks
  static constexpr std::uint32_t kRebias = (127u - 15u) << 23;  // difference of the exponent biases
  std::uint16_t bits_;
};

// bfloat16: the upper 16 bits of a float, 8 significant bits.
class Bfloat16 {
 public:
  Bfloat16() = default;
  DCRF_HOST_DEVICE Bfloat16(float x) {  // NOLINT: implicit, as between arithmetic types
    const std::uint32_t bits = bits_of(x);
    const bool nan = (bits & kMagnitude) > kInfinity;
    bits_ = std::uint16_t(nan ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  DCRF_HOST_DEVICE operator float() const { return float_of(std::uint32_t(bits_) << 16); }

 private:
  std::uint16_t bits_;
};

}  // namespace dcrf::cuda
