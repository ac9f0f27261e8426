// Not a test that runs: shows that the maths of core/ compiles for a device as well as for the
// host, so that a CUDA engine can share it. `nvcc -c`, wherever nvcc exists.
#include "../core/simplex.hpp"
#include "../core/softmax.hpp"

template <typename T, int Dims>
__global__ void locate_and_exponentiate(const T* features, const T* scale, int points, T* out) {
  const int p = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (p >= points) return;
  dcrf::Simplex<T> simplex;
  dcrf::locate<T, Dims>(features + p * Dims, scale, Dims, simplex);
  out[p] = dcrf::exponential(-simplex.weight[0]);
}

template __global__ void locate_and_exponentiate<float, 5>(const float*, const float*, int, float*);
template __global__ void locate_and_exponentiate<double, 2>(const double*, const double*, int,
                                                            double*);
