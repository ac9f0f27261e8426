// Binds the Gibbs sweeps and statistics of grid CRFs for densecrf_rnn/engines/gibbs.py.
#include "../cpu/gibbs.hpp"

#include <algorithm>
#include <cstdlib>

#include "arrays.hpp"

namespace bindings {
namespace {

// Set the edge classes of a batch from their offsets [C, 2]; reject offsets that are longer than
// the image.
void set_offsets(const Named& offsets, dcrf::GibbsBatch& batch) {
  batch.classes = int(length(offsets, 0));
  batch.offsets = data<std::int32_t>(offsets, {batch.classes, 2});
  for (int c = 0; c < batch.classes; ++c) {
    offsets.require(std::abs(std::int64_t(batch.offsets[2 * c])) <= batch.height &&
                        std::abs(std::int64_t(batch.offsets[2 * c + 1])) <= batch.width,
                    "at most as long as the image");
  }
}

// Return the memory of labels [B, H, W]; reject labels that are not below L.
std::int32_t* checked_labels(const Named& labels, const dcrf::GibbsBatch& batch) {
  auto* const out = data<std::int32_t>(labels, {batch.images, batch.height, batch.width});
  const std::int64_t pixels = batch.images * batch.height * batch.width;
  labels.require(std::all_of(out, out + pixels, [&](int l) { return l < batch.labels; }),
                 "below the number of labels");
  return out;
}

void gibbs_sweep(const py::object& problem, int threads) {
  dcrf::GibbsBatch batch;
  const Named logits = DCRF_FIELD(problem, logits), offsets = DCRF_FIELD(problem, offsets),
              labels = DCRF_FIELD(problem, labels), marginals = DCRF_FIELD(problem, marginals),
              beta = DCRF_FIELD(problem, inverse_temperature);
  const std::int64_t images = batch.images = length(logits, 0), count = length(logits, 1);
  const std::int64_t height = batch.height = length(logits, 2);
  const std::int64_t width = batch.width = length(logits, 3);
  logits.require(count >= 1 && count < (1 << dcrf::kLabelBits) && height >= 1 && width >= 1 &&
                     (height * width) >> dcrf::kIndexBits == 0,
                 "[B, L, H, W] with L and H W positive, below 2^LABEL_BITS and 2^INDEX_BITS");
  batch.labels = int(count);
  batch.logits = data<float>(logits, {images, count, height, width});
  set_offsets(offsets, batch);
  batch.tables = data<float>(DCRF_FIELD(problem, tables), {batch.classes, count, count});
  const Named colouring = DCRF_FIELD(problem, colouring);
  DCRF_READ(colouring.value, batch, a, b, m);
  colouring.require(batch.m >= 1 && batch.m < (1 << dcrf::kOffsetBits) && batch.a >= 0 &&
                        batch.a < batch.m && batch.b >= 0 && batch.b < batch.m,
                    "of a and b from 0 to below m, and m below 2^OFFSET_BITS");
  for (int c = 0; c < batch.classes; ++c) {
    const std::int64_t apart = std::int64_t(batch.a) * batch.offsets[2 * c + 1] +
                               std::int64_t(batch.b) * batch.offsets[2 * c];
    colouring.require(apart % batch.m != 0, "such that neighbours differ in colour");
  }
  DCRF_READ(problem, batch, seed);
  batch.chain = data<std::uint64_t>(DCRF_FIELD(problem, chains), {images});
  batch.first_sweep = data<std::uint64_t>(DCRF_FIELD(problem, first_sweep), {images});
  batch.sweeps = int(length(beta, 0));
  batch.inverse_temperature = data<float>(beta, {batch.sweeps});
  room<std::int32_t>(labels, {images, height, width});
  std::int32_t* const to = checked_labels(labels, batch);
  double* const sums =
      marginals.is_none() ? nullptr : room<double>(marginals, {images, height, width, count});
  std::int64_t* const changes =
      room<std::int64_t>(DCRF_FIELD(problem, changes), {images, batch.sweeps});
  const Unlocked unlocked;
  dcrf::gibbs_sweep(batch, to, sums, changes, threads);
}

void gibbs_statistics(const py::object& labels, const py::object& offsets, const py::object& counts,
                      int threads) {
  dcrf::GibbsBatch batch;
  batch.images = length(DCRF_ARGUMENT(labels), 0);
  batch.height = length(DCRF_ARGUMENT(labels), 1);
  batch.width = length(DCRF_ARGUMENT(labels), 2);
  set_offsets(DCRF_ARGUMENT(offsets), batch);
  const std::int64_t count = length(DCRF_ARGUMENT(counts), 1);
  batch.labels = int(count);
  const std::int32_t* const from = checked_labels(DCRF_ARGUMENT(labels), batch);
  auto* const to = room<std::int64_t>(DCRF_ARGUMENT(counts), {batch.classes, count, count});
  const Unlocked unlocked;
  dcrf::gibbs_statistics(batch, from, to, threads);
}

}  // namespace

void bind_gibbs(py::module_& m) {
  m.def("gibbs_sweep", &gibbs_sweep, py::arg("problem"), py::arg("threads"));
  m.def("gibbs_statistics", &gibbs_statistics, py::arg("labels"), py::arg("offsets"),
        py::arg("counts"), py::arg("threads"));
}

}  // namespace bindings
