// Sets up and launches the program of gibbs.hpp (the Gibbs part of engine.hpp). Compiled without
// fused multiply-adds, so that labels are bit-identical to those of the CPU engine.
#include "gibbs.hpp"

#include "workspace.hpp"

namespace dcrf {
namespace cuda {
namespace {

constexpr std::int64_t kMostThreads = 1 << 18;  // limits the size of the scratch memory

// Return the number of threads for the pixels of one colour.
std::int64_t threads_for(const GibbsBatch& batch, int lanes) {
  const std::int64_t items =
      batch.images * batch.height * ((batch.width + batch.step - 1) / batch.step);
  return items * lanes < kMostThreads ? items * lanes : kMostThreads;
}

// Build the program with its scratch in the workspace.
GibbsSweep prepared(const GibbsBatch& batch, Workspace& workspace) {
  GibbsSweep program;
  program.batch = batch;
  program.lane_count = lanes_for(batch.neighbours.labels);
  program.scale = weight_scale(batch.neighbours.labels);
  const std::int64_t threads = most_threads(threads_for(batch, program.lane_count));
  program.scores = workspace.take<float>(threads / program.lane_count * batch.neighbours.labels);
  program.padded = workspace.take<Label>(batch.images * batch.padded_size);
  return program;
}

}  // namespace

std::size_t gibbs_workspace(const GibbsBatch& batch) {
  Workspace workspace(nullptr);
  prepared(batch, workspace);
  return workspace.size();
}

void gibbs_sweep(const GibbsBatch& batch, void* memory, const Stream& stream) {
  Workspace workspace(memory);
  const GibbsSweep program = prepared(batch, workspace);
  launch(program, threads_for(batch, program.lane_count), stream);
}

}  // namespace cuda
}  // namespace dcrf
