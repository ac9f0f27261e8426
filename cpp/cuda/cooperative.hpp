// The GPU launcher: runs a program as one cooperative launch. Included by world.hpp under nvcc.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <stdexcept>
#include <string>

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

// Launch a program asynchronously on `threads` threads, or on as many as fit on the device at once.
template <class Program>
void launch(const Program& program, std::int64_t threads, const Stream& stream) {
  constexpr std::size_t kArgumentBytes = 4096;  // the limit of drivers before CUDA 12.1
  static_assert(sizeof(Program) <= kArgumentBytes, "too large to pass to a CUDA kernel");
  const OnDevice on(stream.device);
  int per_processor = 0, processors = 0;
  check(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, run<Program>, kBlockThreads, 0),
      "this build has no code for the device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device),
        "the device does not answer");
  const std::int64_t most = std::int64_t(per_processor) * processors;
  std::int64_t blocks = (threads + kBlockThreads - 1) / kBlockThreads;
  blocks = blocks < 1 ? 1 : blocks > most ? most : blocks;
  void* arguments[] = {const_cast<Program*>(&program)};
  check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(run<Program>),
                                    dim3(unsigned(blocks)), dim3(kBlockThreads), arguments, 0,
                                    static_cast<cudaStream_t>(stream.handle)),
        "a launch failed");
}

// Wait for the stream and return a value from device memory.
template <typename T>
T fetch(const T* from, const Stream& stream) {
  const OnDevice on(stream.device);
  T out;
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  check(cudaMemcpyAsync(&out, from, sizeof(T), cudaMemcpyDeviceToHost, handle), "a copy failed");
  check(cudaStreamSynchronize(handle), "a program failed");
  return out;
}

}  // namespace dcrf::cuda
