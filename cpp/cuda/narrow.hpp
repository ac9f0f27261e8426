// Numbers of 16 bits in which values at vertices and cells can be kept; all arithmetic is float's.
// Written rounded to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "../core/portable.hpp"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace dcrf {
namespace cuda {

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

// IEEE binary16: 11 bits of precision, 6e-8 to 65504. What is beyond becomes the greatest, not
// infinity.
class Half {
 public:
  Half() = default;
  DCRF_HOST_DEVICE Half(float x) {  // NOLINT: a number like any other
    constexpr float kGreatest = 65504;
    x = x > kGreatest ? kGreatest : x < -kGreatest ? -kGreatest : x;  // NaN stays
#ifdef __CUDA_ARCH__
    bits_ = __half_as_ushort(__float2half_rn(x));
#else
    const std::uint32_t sign = bits_of(x) >> 16 & 0x8000u, size = bits_of(x) & 0x7fffffffu;
    std::uint32_t found = 0x7e00u;  // NaN
    if (size < 0x38800000u) {       // below 2^-14: in steps of 2^-24, the last bit of 1/2
      found = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
    } else if (size <= 0x7f800000u) {
      found = (size + 0xfffu + (size >> 13 & 1u) - 0x38000000u) >> 13;
    }
    bits_ = std::uint16_t(sign | found);
#endif
  }
  DCRF_HOST_DEVICE operator float() const {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(bits_));
#else
    const std::uint32_t sign = std::uint32_t(bits_ & 0x8000u) << 16, size = bits_ & 0x7fffu;
    if (size < 0x400u) return float_of(sign | bits_of(float(size) / 16777216.0f));
    if (size >= 0x7c00u) return float_of(0x7fc00000u);
    return float_of(sign | ((size << 13) + 0x38000000u));
#endif
  }

 private:
  std::uint16_t bits_;
};

// The upper half of a float: 8 bits of precision, the range of float.
class Bfloat16 {
 public:
  Bfloat16() = default;
  DCRF_HOST_DEVICE Bfloat16(float x) {  // NOLINT: a number like any other
    const std::uint32_t bits = bits_of(x);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    bits_ = std::uint16_t(nan ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  DCRF_HOST_DEVICE operator float() const { return float_of(std::uint32_t(bits_) << 16); }

 private:
  std::uint16_t bits_;
};

}  // namespace cuda
}  // namespace dcrf
