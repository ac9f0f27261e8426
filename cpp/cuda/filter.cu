// Sets up and launches the programs of filter.hpp (the part of engine.hpp on one lattice).
#include "filter.hpp"

#include "engine.hpp"
#include "spread_steps.hpp"
#include "workspace.hpp"

namespace dcrf::cuda {
namespace {

// Return a spread without normaliser and coupling, with its buffers in the workspace.
template <typename T>
Spread<T> bare_spread(const KernelView<T>& kernel, const Shape& shape, bool transpose,
                      Workspace& workspace) {
  Spread<T> spread;
  spread.room = spread_room<T>(kernel, shape, true, workspace);
  spread.transpose = transpose;
  spread.scale = slice_scale<T>(kernel.lattice.dims);
  spread.levels = tree_levels(shape.points);
  return spread;
}

// Return a kernel without normaliser.
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
  const KernelView<T> kernel = bare_kernel(lattice);
  const Spread<T> spread = bare_spread(kernel, shape, transpose, workspace);
  const Filter<T> program{kernel, spread, shape, out, lanes_for(shape.channels)};
  launch_spread(kernel, spread, shape, values, program.lane_count, stream);
  launch(program, shape.images * shape.points * program.lane_count, stream);
}

template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const Shape& shape, const T* values,
                            const T* cotangent, bool transpose, T* d_weight, void* memory,
                            const Stream& stream) {
  Workspace workspace(memory);
  const KernelView<T> kernel = bare_kernel(lattice);
  const Spread<T> sliced = bare_spread(kernel, shape, transpose, workspace);
  const Spread<T> splatted = bare_spread(kernel, shape, !transpose, workspace);
  const int lanes = lanes_for(shape.channels);
  const FilterWeightGradient<T> program{kernel, sliced,    splatted, shape,
                                        values, cotangent, d_weight, lanes};
  launch_spread(kernel, sliced, shape, values, lanes, stream);
  launch_spread(kernel, splatted, shape, cotangent, lanes, stream);
  const std::int64_t weights = shape.images * shape.points * (lattice.dims + 1);
  launch(program, weights * lanes, stream);
}

template <typename T>
void self_response(const LatticeView<T>& lattice, std::int64_t points, const T* cotangent, T* out,
                   const Stream& stream) {
  const SelfResponse<T> program{lattice, points, slice_scale<T>(lattice.dims), cotangent, out};
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

}  // namespace dcrf::cuda
