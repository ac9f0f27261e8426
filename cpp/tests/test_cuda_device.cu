// The tests of the CUDA programs compiled by nvcc, to run on the first GPU (device_memory.hpp):
//   cmake -B build/device -DDENSECRF_RNN_NATIVE_TESTS=ON -DDENSECRF_RNN_CUDA=ON
//   cmake --build build/device -j2 --target test_cuda_device && build/device/test_cuda_device
#define DCRF_TESTS_ON_DEVICE
#include "test_cuda.cpp"
#include "test_cuda_gibbs.cpp"
