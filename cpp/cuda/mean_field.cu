// Sets up and launches the programs of mean_field.hpp (the mean-field part of engine.hpp).
#include "mean_field.hpp"

#include <algorithm>

#include "engine.hpp"
#include "spread_steps.hpp"
#include "workspace.hpp"

namespace dcrf::cuda {
namespace {

// Return the spread of kernel m with its buffers in the workspace.
template <typename S, typename T>
Spread<T, S> spread_of(const Model<T>& model, int m, bool adjoint, bool blurred,
                       Workspace& workspace) {
  const KernelView<T>& kernel = model.kernel[m];
  Spread<T, S> spread;
  spread.room = spread_room<S>(kernel, model.shape, blurred, workspace);
  spread.transpose = adjoint;
  spread.blurred = blurred;
  const std::int64_t matrix = std::int64_t(model.shape.channels) * model.shape.channels;
  // The adjoint applies the transposed coupling, whose columns are the rows of the coupling.
  spread.columns = (adjoint ? model.coupling : model.coupling_columns) + m * matrix;
  spread.scale = kernel.is_grid() ? T(1) : slice_scale<T>(kernel.lattice.dims);
  spread.levels = kernel.is_grid() ? 0 : tree_levels(model.shape.points);
  return spread;
}

// Return the forward program with its buffers in the workspace; `saved` receives the marginals if
// `saves`.
template <typename S, typename T>
Forward<T, S> forward_program(const Model<T>& model, T* saved, bool saves, Workspace& workspace) {
  Forward<T, S> program;
  program.model = model;
  program.lane_count = lanes_for(model.shape.channels);
  for (int m = 0; m < model.kernels; ++m)
    program.spread[m] = spread_of<S>(model, m, false, true, workspace);
  program.slots = saves ? std::max(model.iterations, 1) : model.has_self_terms() ? 2 : 1;
  const std::int64_t slot = model.points() * model.shape.width;
  program.marginals = saves ? saved : workspace.take<T>(program.slots * slot);
  return program;
}

// Return the backward program with its buffers in the workspace.
template <typename T>
Backward<T> backward_program(const Model<T>& model, const PointGradient<T>* wanted,
                             Workspace& workspace) {
  // Minimum number of rows per chunk; maximum size of all chunks' matrices of a kernel.
  constexpr std::int64_t kChunkRows = 128, kMostElements = std::int64_t(1) << 23;
  const std::int64_t labels = model.shape.channels;
  Backward<T> program;
  program.model = model;
  program.lane_count = lanes_for(labels);
  std::int64_t most_rows = model.has_self_terms() ? model.points() : 1;
  for (int m = 0; m < model.kernels; ++m) {
    program.wanted[m] = wanted[m];
    program.adjoint[m] = spread_of<T>(model, m, true, true, workspace);
    program.forward[m] = spread_of<T>(model, m, false, wanted[m].weight != nullptr, workspace);
    most_rows = std::max(most_rows, model.kernel[m].rows(model.shape.images));
  }
  // More chunks run in parallel, but each needs an [L, L] matrix: `most` bounds their memory.
  const std::int64_t most = std::max<std::int64_t>(1, kMostElements / (labels * labels));
  program.chunks = std::min(most, (most_rows + kChunkRows - 1) / kChunkRows);
  for (int m = 0; m < model.kernels; ++m) {
    program.chunk_rows[m] =
        (model.kernel[m].rows(model.shape.images) + program.chunks - 1) / program.chunks;
  }
  program.chunk_points = (model.points() + program.chunks - 1) / program.chunks;
  program.outer = workspace.take<T>(model.kernels * program.chunks * labels * labels);
  program.slots = model.has_self_terms() ? 2 : 1;
  program.gradient = workspace.take<T>(program.slots * model.points() * model.shape.width);
  return program;
}

}  // namespace

template <typename S, typename T>
std::size_t mean_field_workspace(const Model<T>& model, bool saves) {
  Workspace workspace(nullptr);
  forward_program<S, T>(model, nullptr, saves, workspace);
  return workspace.size();
}

template <typename S, typename T>
void mean_field(const Model<T>& model, const T* logits, T* refined, T* saved, void* memory,
                const Stream& stream) {
  Workspace workspace(memory);
  Forward<T, S> program = forward_program<S>(model, saved, saved != nullptr, workspace);
  program.logits = logits;
  program.refined = refined;
  for (int t = 0;; ++t) {
    program.t = t;
    launch(program, model.points() * program.lane_count, stream);
    if (t == model.iterations) return;
    for (int m = 0; m < model.kernels; ++m) {
      launch_spread(model.kernel[m], program.spread[m], model.shape, program.slot(t),
                    program.lane_count, stream);
    }
  }
}

template <typename T>
std::size_t backward_workspace(const Model<T>& model, const PointGradient<T>* wanted) {
  Workspace workspace(nullptr);
  backward_program(model, wanted, workspace);
  return workspace.size();
}

template <typename T>
void mean_field_backward(const Model<T>& model, const T* saved, const T* d_refined, T* d_logits,
                         T* d_coupling, const PointGradient<T>* wanted, void* memory,
                         const Stream& stream) {
  Workspace workspace(memory);
  Backward<T> program = backward_program(model, wanted, workspace);
  program.marginals = saved;
  program.d_refined = d_refined;
  program.d_logits = d_logits;
  program.d_coupling = d_coupling;
  const int lanes = program.lane_count;
  const std::int64_t points = model.points() * lanes;
  const std::int64_t labels = model.shape.channels;
  launch(BackwardStep<T, BackwardPart::kInitialize>{program}, points, stream);
  for (int t = model.iterations - 1; t >= 0; --t) {  // iteration t reads marginals q(t)
    for (int m = 0; m < model.kernels; ++m) {
      const KernelView<T>& k = model.kernel[m];
      launch_spread(k, program.adjoint[m], model.shape, program.slot(t + 1), lanes, stream);
      launch_spread(k, program.forward[m], model.shape, program.q(t), lanes, stream);
      launch(BackwardStep<T, BackwardPart::kOuter>{program, t, m}, program.chunks * labels * lanes,
             stream);
    }
    launch(BackwardStep<T, BackwardPart::kUpdate>{program, t}, points, stream);
  }
  const std::int64_t elements = model.kernels * labels * labels;
  launch(BackwardStep<T, BackwardPart::kReduce>{program}, elements * lanes, stream);
}

#define DCRF_INSTANTIATE(S, T)                                         \
  template std::size_t mean_field_workspace<S>(const Model<T>&, bool); \
  template void mean_field<S>(const Model<T>&, const T*, T*, T*, void*, const Stream&);
DCRF_INSTANTIATE(float, float)
DCRF_INSTANTIATE(Half, float)
DCRF_INSTANTIATE(Bfloat16, float)
DCRF_INSTANTIATE(double, double)
#undef DCRF_INSTANTIATE

#define DCRF_INSTANTIATE(T)                                                          \
  template std::size_t backward_workspace(const Model<T>&, const PointGradient<T>*); \
  template void mean_field_backward(const Model<T>&, const T*, const T*, T*, T*,     \
                                    const PointGradient<T>*, void*, const Stream&);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf::cuda
