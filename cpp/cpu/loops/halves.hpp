// Reads logits that are stored in half precision.
#pragma once

#include <cstring>

#include "../../core/half.hpp"
#include "pack.hpp"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace dcrf::DCRF_ISA {

// Load the first `count` halves, or N if there are more; the other lanes are 0.
template <typename T, int N>
DCRF_INLINE Pack<T, N> load_halves(const std::uint16_t* from, int count) {
  Pack<T, N> pack{};
#ifdef __F16C__
  if constexpr (sizeof(T) == 4 && N == 8) {
    if (count >= N) {
      const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      const __m256 wide = _mm256_cvtph_ps(bits);
      std::memcpy(&pack, &wide, sizeof pack);
      return pack;
    }
  }
  if constexpr (sizeof(T) == 4 && N == 4) {
    if (count >= N) {
      const __m128 wide = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
      std::memcpy(&pack, &wide, sizeof pack);
      return pack;
    }
  }
#endif
  for (int i = 0; i < N && i < count; ++i) pack[i] = T(of_half(from[i]));
  return pack;
}

}  // namespace dcrf::DCRF_ISA
