// Implements binary.hpp.
//
// With q = q_0 - q_1 the difference of the logits is U_0 - U_1 - sum_m (C_00 - C_10) K_m q_0 +
// (C_01 - C_11) K_m q_1, which is U_0 - U_1 - sum_m (C_00 - C_10) K_m q if the two factors have
// opposite signs.
#include "binary.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "kernel_run.hpp"

namespace dcrf {

template <typename T>
bool is_binary(const Model<T>& model, const Image<T>& image) {
  const bool marginals = model.marginals || image.labels.data != nullptr;
  if (model.labels != 2 || model.iterations == 0 || !marginals || image.saved != nullptr)
    return false;
  for (std::size_t m = 0; m < image.kernels.size(); ++m) {
    const T* const c = model.coupling + 4 * m;
    if (image.kernels[m].diagonal != nullptr || c[0] - c[2] != c[3] - c[1]) return false;
  }
  return true;
}

template <typename T>
bool binary_image(const Model<T>& model, const Image<T>& image, int threads) {
  std::vector<std::unique_ptr<KernelRun<T>>> runs;
  std::vector<PointKernel<T>> kernels;
  std::int64_t scratch = 1;
  for (std::size_t m = 0; m < image.kernels.size(); ++m) {
    const T* const c = model.coupling + 4 * m;
    const T difference = c[0] - c[2];
    runs.push_back(std::make_unique<KernelRun<T>>(image.kernels[m], image.points, &difference, 1,
                                                  Sense::kForward, threads, 1));
    kernels.push_back(runs.back()->points());
    const GridView<T>& g = image.kernels[m].grid;
    if (kernels.back().vertex == nullptr) scratch += (3 + 2 * g.taps[0] * g.taps[1]) * g.size[2];
  }
  const Strips strips(image.points);
  const Buffer<T> room = make_buffer<T>(image.refined == nullptr ? image.points : 0);
  BinaryPass<T> pass;
  pass.points = image.points;
  pass.labels = 2;
  pass.width = 1;
  pass.kernels = kernels.data();
  pass.kernel_count = int(kernels.size());
  pass.logits = image.logits;
  pass.stored = image.stored;
  pass.labels_to = image.labels;
  pass.refined = image.refined;
  pass.difference = image.refined != nullptr ? image.refined : room.get();
  char good[16];
  for (int t = 0; t <= model.iterations; ++t) {
    pass.first = t == 0;
    pass.last = t == model.iterations;
    parallel_for(strips.count, threads, [&](std::int64_t s) {
      const Buffer<T> lines = make_buffer<T>(scratch);
      const bool ok = loops<T>().binary(pass, int(s), lines.get());
      if (pass.first) good[s] = ok;
    });
    if (pass.first && !std::all_of(good, good + strips.count, [](char g) { return g != 0; }))
      return false;
    for (std::size_t m = 0; m < runs.size() && !pass.last; ++m) {
      if (kernels[m].vertex != nullptr) runs[m]->fold();
      runs[m]->spread(nullptr);
    }
  }
  return true;
}

template bool is_binary(const Model<float>&, const Image<float>&);
template bool is_binary(const Model<double>&, const Image<double>&);
template bool binary_image(const Model<float>&, const Image<float>&, int);
template bool binary_image(const Model<double>&, const Image<double>&, int);

}  // namespace dcrf
