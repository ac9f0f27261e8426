// Reads IEEE half precision without the processor's help.
#pragma once

#include <cstdint>
#include <cstring>

#include "portable.hpp"

namespace dcrf {

// Convert a half, given by its bits. The subnormal halves are integers times 2^-24: the floats in
// between would be flushed to 0.
DCRF_HOST_DEVICE inline float of_half(std::uint16_t bits) {
  const std::uint32_t magnitude = bits & 0x7fffu, sign = std::uint32_t(bits & 0x8000u) << 16;
  const float small = float(int(magnitude)) * 0x1p-24f;
  std::uint32_t wide = 0;
  std::memcpy(&wide, &small, sizeof wide);
  if (magnitude >= 0x400u)
    wide = (magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u);
  wide |= sign;
  float found = 0;
  std::memcpy(&found, &wide, sizeof found);
  return found;
}

}  // namespace dcrf
