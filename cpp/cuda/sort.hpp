// Sorting and prefix sums: CUB's on a GPU (sort.cu), the standard library's otherwise (sort.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "world.hpp"

namespace dcrf {
namespace cuda {

// Bytes of scratch memory that either function wants for `count` items.
std::size_t sort_scratch(std::int64_t count);

// Sorts keys, the lowest `bits` of which count, and what belongs to them; equal keys keep their
// order. The answer is in the second pair of arrays.
void sort_pairs(std::int64_t count, int bits, const std::uint64_t* keys_in,
                const std::int32_t* values_in, std::uint64_t* keys_out, std::int32_t* values_out,
                void* scratch, std::size_t scratch_bytes, const Stream& stream);

// out[i] = in[0] + ... + in[i]
void running_sum(std::int64_t count, const std::int32_t* in, std::int32_t* out, void* scratch,
                 std::size_t scratch_bytes, const Stream& stream);

}  // namespace cuda
}  // namespace dcrf
