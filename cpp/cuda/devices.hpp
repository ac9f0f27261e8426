// What devices there are.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace dcrf {
namespace cuda {

// Name, compute capability (10 major + minor) and memory in bytes of each device. Throws, with what
// CUDA says, where there is no driver, one that is too old, or no device.
std::vector<std::tuple<std::string, int, std::int64_t>> devices();

// The CUDA version that the driver supports, "13.0"; or why it cannot be told.
std::string driver();

}  // namespace cuda
}  // namespace dcrf
