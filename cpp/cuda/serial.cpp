// All of the CUDA engine as one C++ source for the serial launcher (threads.hpp), used by the
// tests. Sorting and prefix sums use the standard library.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "build.cu"
#include "devices.hpp"
#include "filter.cu"
#include "gibbs.cu"
#include "mean_field.cu"
#include "sort.hpp"

namespace dcrf::cuda {

const std::vector<Device>& devices() {
  static const std::vector<Device> found{{"the serial launcher", 0, 0}};
  return found;
}

std::string driver() { return "none is needed"; }

std::size_t sort_scratch(std::int64_t) { return 1; }

void sort_pairs(std::int64_t count, int bits, const std::uint64_t* keys_in,
                const std::int32_t* values_in, std::uint64_t* keys_out, std::int32_t* values_out,
                void*, std::size_t, const Stream&) {
  const std::uint64_t mask = bits >= 64 ? ~std::uint64_t(0) : (std::uint64_t(1) << bits) - 1;
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), std::int64_t(0));
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return (keys_in[a] & mask) < (keys_in[b] & mask);
  });
  for (std::int64_t i = 0; i < count; ++i) {
    keys_out[i] = keys_in[order[i]];
    values_out[i] = values_in[order[i]];
  }
}

void running_sum(std::int64_t count, const std::int32_t* in, std::int32_t* out, void*, std::size_t,
                 const Stream&) {
  std::partial_sum(in, in + count, out);
}

}  // namespace dcrf::cuda
