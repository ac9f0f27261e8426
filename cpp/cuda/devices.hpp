// Lists the CUDA devices and the driver version, for the bindings.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace dcrf::cuda {

// Return name, compute capability (10 * major + minor) and memory in bytes of each usable device.
// Throws with CUDA's message if there is no driver, it is too old, or there is no device.
std::vector<std::tuple<std::string, int, std::int64_t>> devices();

// Return the CUDA version that the driver supports, e.g. "13.0", or the reason why it is unknown.
std::string driver();

}  // namespace dcrf::cuda
