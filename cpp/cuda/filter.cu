// Sets up and launches the programs of filter.hpp.
#include "filter.hpp"

#include "engine.hpp"
#include "workspace.hpp"

namespace dcrf {
namespace cuda {
namespace {

// Return a spread without scales and coupling.
template <typename T>
Spread<T> bare_spread(const KernelView<T>& kernel, const Shape& shape, bool transpose,
                      Workspace& workspace) {
  Spread<T> spread;
  spread.room = spread_room<T>(kernel, shape, true, workspace);
  spread.transpose = transpose;
  spread.scale = slice_scale<T>(kernel.lattice.dims);
  return spread;
}

template <typename T>
KernelView<T> bare_kernel(const LatticeView<T>& lattice) {
  KernelView<T> kernel;
  kernel.lattice = lattice;
  return kernel;
}

}  // namespace

template <typename T>
std::size_t filter_workspace(const LatticeView<T>& lattice, const Shape& shape, int filters) {
  Workspace workspace(nullptr);
  for (int i = 0; i < filters; ++i) bare_spread(bare_kernel(lattice), shape, false, workspace);
  return workspace.size();
}

template <typename T>
void filter(const LatticeView<T>& lattice, const Shape& shape, const T* values, bool transpose,
            T* out, void* memory, const Stream& stream) {
  Workspace workspace(memory);
  Filter<T> program;
  program.kernel = bare_kernel(lattice);
  program.spread = bare_spread(program.kernel, shape, transpose, workspace);
  program.shape = shape;
  program.values = values;
  program.out = out;
  program.lane_count = lanes_for(shape.channels);
  launch(program, shape.images * shape.points * program.lane_count, stream);
}

template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const Shape& shape, const T* values,
                            const T* cotangent, bool transpose, T* d_weight, void* memory,
                            const Stream& stream) {
  Workspace workspace(memory);
  FilterWeightGradient<T> program;
  program.kernel = bare_kernel(lattice);
  program.sliced = bare_spread(program.kernel, shape, transpose, workspace);
  program.splatted = bare_spread(program.kernel, shape, !transpose, workspace);
  program.shape = shape;
  program.values = values;
  program.cotangent = cotangent;
  program.d_weight = d_weight;
  program.lane_count = lanes_for(shape.channels);
  launch(program, shape.images * shape.points * program.lane_count, stream);
}

template <typename T>
void self_response(const LatticeView<T>& lattice, std::int64_t points, const T* cotangent, T* out,
                   const Stream& stream) {
  SelfResponse<T> program;
  program.lattice = lattice;
  program.points = points;
  program.scale = slice_scale<T>(lattice.dims);
  program.cotangent = cotangent;
  program.out = out;
  launch(program, points, stream);
}

#define DCRF_INSTANTIATE(T)                                                                     \
  template std::size_t filter_workspace(const LatticeView<T>&, const Shape&, int);              \
  template void filter(const LatticeView<T>&, const Shape&, const T*, bool, T*, void*,          \
                       const Stream&);                                                          \
  template void filter_weight_gradient(const LatticeView<T>&, const Shape&, const T*, const T*, \
                                       bool, T*, void*, const Stream&);                         \
  template void self_response(const LatticeView<T>&, std::int64_t, const T*, T*, const Stream&);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace cuda
}  // namespace dcrf
