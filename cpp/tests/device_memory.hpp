// Memory that the CUDA programs can access: that of the host for the serial launcher, that of the
// first GPU in test_cuda_device.cu. The tests keep their numbers in std::vector and copy them with
// put() and get(), so that their sources are the same for both.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../cuda/world.hpp"

namespace tests {

const dcrf::cuda::Stream kStream;  // copies are ordered with it, as both are the default stream

#ifdef DCRF_TESTS_ON_DEVICE

constexpr bool kOnDevice = true;

// Frees an array after the programs that may use it.
struct FreeOnDevice {
  void operator()(void* memory) const {
    cudaDeviceSynchronize();
    cudaFree(memory);
  }
};

// An array on the device. That of no elements has the address null.
template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(const std::vector<T>& from) : size_(from.size()) {
    if (size_ == 0) return;
    void* memory = nullptr;
    dcrf::cuda::check(cudaMalloc(&memory, size_ * sizeof(T)), "no memory");
    memory_.reset(static_cast<T*>(memory));
    dcrf::cuda::check(cudaMemcpy(memory, from.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
                      "a copy to the device failed");
  }
  T* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<T, FreeOnDevice> memory_;
  std::size_t size_ = 0;
};

template <typename T>
Array<T> put(const std::vector<T>& from) {
  return Array<T>(from);
}

// Wait for the programs and return a copy for the host.
template <typename T>
std::vector<T> get(const Array<T>& from) {
  dcrf::cuda::check(cudaDeviceSynchronize(), "a program failed");
  std::vector<T> out(from.size());
  if (out.empty()) return out;
  dcrf::cuda::check(
      cudaMemcpy(out.data(), from.data(), out.size() * sizeof(T), cudaMemcpyDeviceToHost),
      "a copy from the device failed");
  return out;
}

#else

constexpr bool kOnDevice = false;

template <typename T>
using Array = std::vector<T>;

template <typename T>
Array<T> put(const std::vector<T>& from) {
  return from;
}
template <typename T>
std::vector<T> get(const Array<T>& from) {
  return from;
}

#endif

// Return an array full of NaN (integers: -1), so that elements that are not written are found.
template <typename T>
Array<T> unwritten(std::int64_t count) {
  std::vector<T> out(count);
  if (count > 0) std::memset(static_cast<void*>(out.data()), 0xFF, count * sizeof(T));
  return put(out);
}

}  // namespace tests
