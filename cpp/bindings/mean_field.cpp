// Binds the mean field and its gradient: converts the problems of densecrf_rnn/engines/contract.py
// to the views of cpp/cpu/mean_field.hpp.
#include "../cpu/mean_field.hpp"

#include <deque>
#include <tuple>
#include <utility>
#include <vector>

#include "lattice.hpp"

namespace bindings {
namespace {

using List = std::vector<py::object>;

// The tables of the axes of a grid, converted to the dtype of the values.
template <typename T>
struct GridTables {
  std::vector<T> splat[3], slice[3], band[3];
};

// Convert a table from float64 to T; return its memory, which `to` owns.
template <typename T>
const T* converted(const Named& table, Shape shape, std::vector<T>& to) {
  const double* const from = data<double>(table, shape);
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  to.assign(from, from + count);
  return to.data();
}

// Return the view of a GridKernel. A 2-D image is a volume of one layer: its axes are the last two.
// `tables` owns the converted tables.
template <typename T>
dcrf::GridView<T> grid_view(const py::handle& kernel, std::int64_t points, GridTables<T>& tables) {
  static const std::int32_t only_cell = 0;
  static const T one = 1;
  dcrf::GridView<T> grid;
  grid.cell[0] = &only_cell;
  grid.splat[0] = grid.slice[0] = grid.band[0] = &one;
  const Named named_axes = DCRF_FIELD(kernel, axes);
  const auto axes = as<List>(named_axes), splat = as<List>(DCRF_FIELD(kernel, splat)),
             slice = as<List>(DCRF_FIELD(kernel, slice));
  named_axes.require((axes.size() == 2 || axes.size() == 3) && splat.size() == axes.size() &&
                         slice.size() == axes.size(),
                     "2 or 3, as many as splat and slice");
  std::int64_t pixels = 1;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::size_t a = 3 - axes.size() + i;
    const Named cell = DCRF_FIELD(axes[i], cell), band = DCRF_FIELD(axes[i], band);
    const std::int64_t n = length(cell, 0), width = length(band, 0);
    band.require(width % 2 == 1, "of odd length");
    grid.size[a] = n;
    pixels *= n;
    grid.taps[a] = 3;
    grid.cell[a] = data<std::int32_t>(cell, {n});
    grid.splat[a] = converted<T>({splat[i], "splat"}, {n, 3}, tables.splat[a]);
    grid.slice[a] = converted<T>({slice[i], "slice"}, {n, 3}, tables.slice[a]);
    grid.band[a] = converted<T>(band, {width}, tables.band[a]);
    grid.radius[a] = int(width / 2);
    grid.cells[a] = as<std::int64_t>(DCRF_FIELD(axes[i], cells));
    for (std::int64_t x = 0; x < n; ++x) {
      cell.require(grid.cell[a][x] >= 0 && grid.cell[a][x] + 3 <= grid.cells[a] &&
                       (x == 0 || grid.cell[a][x] >= grid.cell[a][x - 1]),
                   "ascending, at least 0 and at most cells - 3");
    }
  }
  const Named pixel = DCRF_FIELD(kernel, pixel);
  grid.pixel = optional_data<std::int32_t>(pixel, {points});
  if (grid.pixel == nullptr) named_axes.require(pixels == points, "those of an image of N pixels");
  for (std::int64_t p = 0; grid.pixel != nullptr && p < points; ++p) {
    pixel.require(grid.pixel[p] < pixels && grid.pixel[p] >= (p > 0 ? grid.pixel[p - 1] + 1 : 0),
                  "strictly ascending and within the image");
  }
  return grid;
}

// Return the view of a LatticeKernel or GridKernel with its normaliser.
template <typename T>
dcrf::KernelView<T> kernel_view(const py::handle& kernel, std::int64_t points,
                                GridTables<T>& tables) {
  dcrf::KernelView<T> out;
  const Named kind = DCRF_FIELD(kernel, kind);
  const auto name = as<std::string>(kind);
  if (name == "lattice") {
    const Named plan = DCRF_FIELD(kernel, plan);
    out.lattice = lattice_view<T>(plan.value);
    plan.require(out.lattice.points == points, "that of N points");
  } else if (name == "grid") {
    out.grid = grid_view<T>(kernel, points, tables);
  } else {
    kind.fail("'lattice' or 'grid', not '" + name + "'");
  }
  out.before = optional_data<T>(DCRF_FIELD(kernel, before), {points});
  out.after = optional_data<T>(DCRF_FIELD(kernel, after), {points});
  out.diagonal = optional_data<T>(DCRF_FIELD(kernel, diagonal), {points});
  return out;
}

// Return the outputs for the gradient of a kernel, from a KernelGradient or None (not wanted).
template <typename T>
dcrf::PointGradient<T> point_gradient(const py::handle& d_kernel, const dcrf::KernelView<T>& kernel,
                                      std::int64_t points) {
  dcrf::PointGradient<T> to;
  if (d_kernel.is_none()) return to;
  const auto like = [&](const Named& array, const T* scale) {
    array.require(array.is_none() == (scale == nullptr), "None exactly where the kernel's is");
    return scale == nullptr ? nullptr : room<T>(array, {points});
  };
  const Named weight = DCRF_FIELD(d_kernel, weight);
  weight.require(kernel.lattice.vertex != nullptr, "that of a lattice: a grid has no gradient");
  to.weight = room<T>(weight, {points, kernel.lattice.dims + 1});
  to.before = like(DCRF_FIELD(d_kernel, before), kernel.before);
  to.after = like(DCRF_FIELD(d_kernel, after), kernel.after);
  to.diagonal = like(DCRF_FIELD(d_kernel, diagonal), kernel.diagonal);
  return to;
}

// Return the view of logits [L, N] of any strides, of T, float16 or uint8; the latter two only
// where T is float. `quantization` is (scale, zero) for uint8, else None. Planes of T give a view
// without data, because the loops read them faster by their address alone.
template <typename T>
dcrf::LogitsView<T> stored_logits(const Named& logits, const Named& quantization, int labels) {
  dcrf::LogitsView<T> view;
  const bool planes = py::isinstance<py::array_t<T, py::array::c_style>>(logits.value);
  if (planes && quantization.is_none()) return view;
  logits.require(py::isinstance<py::array>(logits.value), "a NumPy array");
  const auto array = py::reinterpret_borrow<py::array>(logits.value);
  const bool byte = py::isinstance<py::array_t<std::uint8_t>>(array);
  const bool half = array.dtype().kind() == 'f' && array.itemsize() == 2;
  const bool same = py::isinstance<py::array_t<T>>(array);
  const bool narrow = std::is_same_v<T, float> && (byte || half);
  logits.require(array.ndim() == 2 && array.shape(0) == labels && (same || narrow),
                 "[L, N] of the dtype of the coupling or, if that is float32, float16 or uint8");
  quantization.require(quantization.is_none() != byte,
                       "(scale, zero) exactly where logits are uint8");
  if (byte) std::tie(view.scale, view.zero) = as<std::pair<T, T>>(quantization);
  view.dtype = byte   ? dcrf::LogitsDtype::kByte
               : half ? dcrf::LogitsDtype::kHalf
                      : dcrf::LogitsDtype::kSame;
  const py::ssize_t size = array.itemsize();
  logits.require(array.strides(0) % size == 0 && array.strides(1) % size == 0,
                 "of strides that are whole elements");
  view.label_stride = array.strides(0) / size;
  view.point_stride = array.strides(1) / size;
  view.data = array.data();
  return view;
}

// Return the label map [N] that is written: unsigned integers that hold every label.
inline dcrf::LabelMap labels_to(const Named& map, int labels, std::int64_t points) {
  if (labels <= 256) return {room<std::uint8_t>(map, {points}), 1};
  if (labels <= 65536) return {room<std::uint16_t>(map, {points}), 2};
  return {room<std::uint32_t>(map, {points}), 4};
}

// The views of a batch: the fields that Problem and BackwardProblem have in common.
template <typename T>
class Batch {
 public:
  dcrf::Model<T> model;
  std::vector<dcrf::Image<T>> images;

  Batch(const Named& coupling, int iterations, std::int64_t memory_budget) {
    kernels_ = length(coupling, 0);
    const std::int64_t labels = length(coupling, 1);
    coupling.require(kernels_ >= 1 && kernels_ <= dcrf::kMaxKernels && labels >= 1,
                     "[kernels, L, L] with 1 to MAX_KERNELS kernels and at least a label");
    model.coupling = data<T>(coupling, {kernels_, labels, labels});
    if (iterations < 0) throw std::invalid_argument("native code: iterations must be at least 0");
    model.labels = int(labels);
    model.iterations = iterations;
    model.memory_budget = memory_budget;
  }

  // Add the image of a problem and return it. If `forward`, its `saved` may be empty, and its
  // logits may have any layout.
  dcrf::Image<T>& add(const py::handle& problem, bool forward) {
    dcrf::Image<T> image;
    const Named logits = DCRF_FIELD(problem, logits), saved = DCRF_FIELD(problem, saved),
                kernels = DCRF_FIELD(problem, kernels);
    image.points = length(logits, 1);
    if (forward) {
      const Named quantization = DCRF_FIELD(problem, quantization);
      image.stored = stored_logits<T>(logits, quantization, model.labels);
    }
    if (image.stored.data == nullptr) image.logits = data<T>(logits, {model.labels, image.points});
    if (!forward || py::len(saved.value) > 0) {
      image.saved = data<T>(saved, {model.iterations, image.points, dcrf::row_width(model.labels)});
    }
    const auto list = as<List>(kernels);
    kernels.require(std::int64_t(list.size()) == kernels_, "as many as there are couplings");
    for (const py::object& kernel : list) {
      tables_.emplace_back();
      image.kernels.push_back(kernel_view<T>(kernel, image.points, tables_.back()));
    }
    images.push_back(std::move(image));
    return images.back();
  }

 private:
  std::int64_t kernels_;
  std::deque<GridTables<T>> tables_;  // tables to which the kernels of the images point
};

bool mean_field(const List& problems, const py::object& coupling, int iterations, bool marginals,
                std::int64_t memory_budget, int threads) {
  if (problems.empty()) return true;
  return with_dtype(DCRF_ARGUMENT(coupling), [&](auto zero) {
    using T = decltype(zero);
    Batch<T> batch(DCRF_ARGUMENT(coupling), iterations, memory_budget);
    batch.model.marginals = marginals;
    for (const py::object& problem : problems) {
      dcrf::Image<T>& image = batch.add(problem, true);
      const Named label_map = DCRF_FIELD(problem, label_map);
      if (label_map.is_none()) {
        image.refined = room<T>(DCRF_FIELD(problem, refined), {batch.model.labels, image.points});
      } else {
        image.labels = labels_to(label_map, batch.model.labels, image.points);
      }
      const Named prune = DCRF_FIELD(problem, prune), kept = DCRF_FIELD(problem, kept);
      image.prune = as<double>(prune);
      prune.require(image.prune >= 0 && image.prune * batch.model.labels < 1, "0 <= prune < 1 / L");
      if (!kept.is_none()) image.kept = room<std::int64_t>(kept, {iterations, 2});
    }
    const Unlocked unlocked;
    return dcrf::mean_field(batch.model, batch.images, threads);
  });
}

void mean_field_backward(const List& problems, const py::object& coupling, int iterations,
                         std::int64_t memory_budget, int threads) {
  if (problems.empty()) return;
  with_dtype(DCRF_ARGUMENT(coupling), [&](auto zero) {
    using T = decltype(zero);
    Batch<T> batch(DCRF_ARGUMENT(coupling), iterations, memory_budget);
    std::vector<dcrf::ImageGradient<T>> gradients;
    const int labels = batch.model.labels;
    for (const py::object& problem : problems) {
      const dcrf::Image<T>& image = batch.add(problem, false);
      const auto count = std::int64_t(image.kernels.size());
      dcrf::ImageGradient<T> to;
      to.d_refined = data<T>(DCRF_FIELD(problem, d_refined), {labels, image.points});
      to.d_logits = room<T>(DCRF_FIELD(problem, d_logits), {labels, image.points});
      to.d_coupling = room<T>(DCRF_FIELD(problem, d_coupling), {count, labels, labels});
      const Named named = DCRF_FIELD(problem, d_kernels);
      const auto d_kernels = as<List>(named);
      named.require(std::int64_t(d_kernels.size()) == count, "as many as there are kernels");
      for (std::int64_t m = 0; m < count; ++m)
        to.kernels.push_back(point_gradient<T>(d_kernels[m], image.kernels[m], image.points));
      gradients.push_back(std::move(to));
    }
    const Unlocked unlocked;
    dcrf::mean_field_backward(batch.model, batch.images, gradients, threads);
  });
}

}  // namespace

void bind_mean_field(py::module_& m) {
  m.def("mean_field", &mean_field, py::arg("problems"), py::arg("coupling"), py::arg("iterations"),
        py::arg("marginals"), py::arg("memory_budget"), py::arg("threads"));
  m.def("mean_field_backward", &mean_field_backward, py::arg("problems"), py::arg("coupling"),
        py::arg("iterations"), py::arg("memory_budget"), py::arg("threads"));
}

}  // namespace bindings
