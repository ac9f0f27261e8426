// Sorting and prefix sums for build.cu: with CUB on a GPU (sort.cu), with the standard library on
// the serial launcher (serial.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "world.hpp"

namespace dcrf::cuda {

// Return the bytes of scratch memory that the functions below need for `count` items.
std::size_t sort_scratch(std::int64_t count);

// Sort keys, together with their values, by their lowest `bits` bits. The sort is stable.
void sort_pairs(std::int64_t count, int bits, const std::uint64_t* keys_in,
                const std::int32_t* values_in, std::uint64_t* keys_out, std::int32_t* values_out,
                void* scratch, std::size_t scratch_bytes, const Stream& stream);

// Compute the inclusive prefix sum: out[i] = in[0] + ... + in[i].
void running_sum(std::int64_t count, const std::int32_t* in, std::int32_t* out, void* scratch,
                 std::size_t scratch_bytes, const Stream& stream);

}  // namespace dcrf::cuda
