// Implements sort.hpp with CUB. No other file includes CUB, because its headers are slow to
// compile. Counts are below 2^31 (nn/ops/device_build.py checks this) and are passed as int, since CUB
// sorts faster with int counts.
#include "sort.hpp"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

namespace dcrf::cuda {

std::size_t sort_scratch(std::int64_t count) {
  std::size_t sort = 0, scan = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, sort, static_cast<const std::uint64_t*>(nullptr),
                                        static_cast<std::uint64_t*>(nullptr),
                                        static_cast<const std::int32_t*>(nullptr),
                                        static_cast<std::int32_t*>(nullptr), int(count)),
        "the sort cannot be planned");
  check(cub::DeviceScan::InclusiveSum(nullptr, scan, static_cast<const std::int32_t*>(nullptr),
                                      static_cast<std::int32_t*>(nullptr), int(count)),
        "the sum cannot be planned");
  return sort > scan ? sort : scan;
}

void sort_pairs(std::int64_t count, int bits, const std::uint64_t* keys_in,
                const std::int32_t* values_in, std::uint64_t* keys_out, std::int32_t* values_out,
                void* scratch, std::size_t scratch_bytes, const Stream& stream) {
  const OnDevice on(stream.device);
  check(cub::DeviceRadixSort::SortPairs(scratch, scratch_bytes, keys_in, keys_out, values_in,
                                        values_out, int(count), 0, bits,
                                        static_cast<cudaStream_t>(stream.handle)),
        "the sort failed");
}

void running_sum(std::int64_t count, const std::int32_t* in, std::int32_t* out, void* scratch,
                 std::size_t scratch_bytes, const Stream& stream) {
  const OnDevice on(stream.device);
  check(cub::DeviceScan::InclusiveSum(scratch, scratch_bytes, in, out, int(count),
                                      static_cast<cudaStream_t>(stream.handle)),
        "the sum failed");
}

}  // namespace dcrf::cuda
