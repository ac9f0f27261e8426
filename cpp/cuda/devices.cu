// Implements devices.hpp with the CUDA runtime. Devices must support cooperative launches
// (cooperative.hpp).
#include "devices.hpp"

#include "world.hpp"

namespace dcrf::cuda {

namespace {

// Ask the driver; this takes milliseconds per device.
std::vector<Device> read_devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "no device can be used");
  std::vector<Device> out;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i), "a device does not answer");
    if (!properties.cooperativeLaunch) continue;
    out.push_back({properties.name, 10 * properties.major + properties.minor,
                   std::int64_t(properties.totalGlobalMem)});
  }
  return out;
}

}  // namespace

const std::vector<Device>& devices() {
  static const std::vector<Device> found = read_devices();  // if it throws, the next call asks again
  return found;
}

std::string driver() {
  int version = 0;
  const cudaError_t status = cudaDriverGetVersion(&version);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (version == 0) return "no driver is installed";
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace dcrf::cuda
