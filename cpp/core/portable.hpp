// DCRF_HOST_DEVICE marks functions that are compiled for the host and, by nvcc, also for the
// device. On the host they are always inlined: objects compiled for different instruction sets
// include them, and the linker must not replace one object's copy of a function by another object's
// copy. No other header in core/ may test __CUDACC__.
#pragma once

#ifdef __CUDACC__
#define DCRF_HOST_DEVICE __host__ __device__
#else
#define DCRF_HOST_DEVICE __attribute__((always_inline))
#endif
