// Marks functions that must compile for the host and, under nvcc, for the device as well. On the
// host they are always inlined: sources compiled for several instruction sets share them, and a
// copy that was made for one must never be called by another.
// The only header in core/ that may look at __CUDACC__.
#pragma once

#ifdef __CUDACC__
#define DCRF_HOST_DEVICE __host__ __device__
#else
#define DCRF_HOST_DEVICE __attribute__((always_inline))
#endif
