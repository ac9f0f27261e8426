// Marks functions that must compile for the host and, under nvcc, for the device as well.
// The only header in core/ that may look at __CUDACC__.
#pragma once

#ifdef __CUDACC__
#define DCRF_HOST_DEVICE __host__ __device__
#else
#define DCRF_HOST_DEVICE
#endif
