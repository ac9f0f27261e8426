// The GPU launcher: runs a program as one launch, a cooperative one if it has barriers. Included by world.hpp under nvcc.
#pragma once

#include <cooperative_groups.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "barrier.hpp"
#include "views.hpp"

#define DCRF_DEVICE __device__ inline

namespace dcrf::cuda {

constexpr int kWarpThreads = 32;
constexpr int kBlockThreads = 256;

// Return the maximum number of threads that share an item.
inline int max_lanes() { return kWarpThreads; }

// All threads that run a program, as one of them sees them: its rank, their number, a barrier.
class World {
 public:
  DCRF_DEVICE std::int64_t rank() const {
    return std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  }
  DCRF_DEVICE std::int64_t size() const { return std::int64_t(gridDim.x) * blockDim.x; }
  DCRF_DEVICE void sync() { cooperative_groups::this_grid().sync(); }
};

// Exchange of values within a group of `count` neighbouring threads of a warp.
class Exchange {
 public:
  DCRF_DEVICE Exchange(const World&, int count)
      : mask_(count == kWarpThreads ? 0xffffffffu
                                    : ((1u << count) - 1) << (threadIdx.x & (kWarpThreads - 1) &
                                                              ~unsigned(count - 1))) {}
  // Pass `own` to the lane whose rank is this one's XOR `offset`, and return that lane's value.
  template <typename T>
  DCRF_DEVICE T swap(T own, int offset) const {
    return __shfl_xor_sync(mask_, own, offset);
  }

 private:
  unsigned mask_;  // the threads of the group
};

// Add atomically. Integer sums do not depend on the order of the additions.
DCRF_DEVICE void add(std::int64_t* to, std::int64_t amount) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(amount));
}

// Throw if a CUDA call failed, and clear CUDA's last error so that the next call starts clean.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// Makes `device` the current CUDA device while an object of this class exists.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "no device is current");
    if (device == before_) return;
    check(cudaSetDevice(device), "the device cannot be used");
    changed_ = true;
  }
  // cudaSetDevice initialises a device, so it is called only if the device was changed.
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Return an upper bound on the threads that `launch` starts when asked for `threads`.
inline std::int64_t most_threads(std::int64_t threads) {
  return (threads < 1 ? 1 : (threads + kBlockThreads - 1) / kBlockThreads) * kBlockThreads;
}

// The CUDA kernel that runs a program.
template <class Program>
__global__ void __launch_bounds__(kBlockThreads) run(const __grid_constant__ Program program) {
  World world;
  program(world);
}

// Return the number of blocks of a program that the current device runs at once; it is asked once
// per device.
template <class Program>
int resident_blocks(int device) {
  constexpr int kDevices = 64;  // whose answers are kept
  static std::atomic<int> known[kDevices] = {};
  if (device < kDevices && known[device] > 0) return known[device];
  int per_processor = 0, processors = 0;
  check(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, run<Program>, kBlockThreads, 0),
      "this build has no code for the device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "the device does not answer");
  if (device < kDevices) known[device] = per_processor * processors;
  return per_processor * processors;
}

// Launch a program asynchronously on `threads` threads. If it has barriers, which a cooperative
// launch alone provides, it gets at most as many threads as fit on the device at once.
template <class Program>
void launch(const Program& program, std::int64_t threads, const Stream& stream) {
  constexpr std::size_t kArgumentBytes = 4096;  // the limit of drivers before CUDA 12.1
  constexpr std::int64_t kMostBlocks = 1 << 16;  // without barriers; each thread then has 16 items
  static_assert(sizeof(Program) <= kArgumentBytes, "too large to pass to a CUDA kernel");
  constexpr bool cooperative = kHasBarrier<Program, World>;
  const OnDevice on(stream.device);
  const std::int64_t most = cooperative ? resident_blocks<Program>(stream.device) : kMostBlocks;
  std::int64_t blocks = (threads + kBlockThreads - 1) / kBlockThreads;
  blocks = blocks < 1 ? 1 : blocks > most ? most : blocks;
  void* arguments[] = {const_cast<Program*>(&program)};
  const auto kernel = reinterpret_cast<const void*>(run<Program>);
  const dim3 grid(static_cast<unsigned>(blocks)), block(kBlockThreads);
  const auto queue = static_cast<cudaStream_t>(stream.handle);
  if constexpr (cooperative) {
    check(cudaLaunchCooperativeKernel(kernel, grid, block, arguments, 0, queue), "a launch failed");
  } else {
    check(cudaLaunchKernel(kernel, grid, block, arguments, 0, queue), "a launch failed");
  }
}

}  // namespace dcrf::cuda
