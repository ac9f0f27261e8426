// Lists the CUDA devices and the driver version, for the bindings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dcrf::cuda {

struct Device {
  std::string name;
  int capability = 0;       // compute capability, 10 * major + minor
  std::int64_t memory = 0;  // bytes
};

// Return the usable devices. Throws with CUDA's message if there is no driver, it is too old, or
// there is no device. They are read once per process.
const std::vector<Device>& devices();

// Return the CUDA version that the driver supports, e.g. "13.0", or the reason why it is unknown.
std::string driver();

}  // namespace dcrf::cuda
