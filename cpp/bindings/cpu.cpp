// The Python module densecrf_rnn._cpu: NumPy arrays in, the loops of cpp/cpu underneath, the GIL
// released. Dtypes and sizes are checked here once more; the rows inside a plan are trusted, for
// only build() makes them. Typed in densecrf_rnn/_cpu.pyi; reached through
// densecrf_rnn/engines alone.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../core/simplex.hpp"
#include "../cpu/gibbs.hpp"
#include "../cpu/lattice.hpp"
#include "../cpu/mean_field.hpp"
#include "../cpu/pool.hpp"

namespace py = pybind11;

namespace {

template <typename T>
using Rows = py::array_t<T, py::array::c_style>;
using Ints = py::array_t<std::int32_t, py::array::c_style>;
using Tuples = std::vector<py::tuple>;
using Shape = std::initializer_list<std::int64_t>;

// For the length of a native call: the GIL is released, and Ctrl-C is noticed all the same.
class Unlocked {
 public:
  Unlocked() : check_(&raise_pending_signal) {}

 private:
  static void raise_pending_signal() {
    const py::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }

  py::gil_scoped_release released_;
  dcrf::InterruptCheck check_;
};

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("_cpu: ") + what);
}

// The array behind a handle, which must have this dtype and shape and lie in one piece.
template <typename T>
T* data(const py::handle& handle, Shape shape, const char* what) {
  require(Rows<T>::check_(handle), what);
  auto array = py::reinterpret_borrow<Rows<T>>(handle);
  bool same = array.ndim() == py::ssize_t(shape.size());
  py::ssize_t axis = 0;
  for (const std::int64_t length : shape) same = same && array.shape(axis++) == length;
  require(same, what);
  return const_cast<T*>(array.data());
}

// The same for an array that is written to.
template <typename T>
T* room(const py::handle& handle, Shape shape, const char* what) {
  T* const memory = data<T>(handle, shape, what);
  require(py::reinterpret_borrow<py::array>(handle).writeable(),
          "an array to write to is read-only");
  return memory;
}

template <typename T>
T* optional_data(const py::handle& handle, Shape shape, const char* what) {
  return handle.is_none() ? nullptr : data<T>(handle, shape, what);
}

std::int64_t length(const py::handle& handle, int axis, const char* what) {
  require(py::isinstance<py::array>(handle), what);
  const auto array = py::reinterpret_borrow<py::array>(handle);
  require(array.ndim() > axis, what);
  return array.shape(axis);
}

// Calls body(T()) with the dtype of an array.
template <class Body>
auto with_dtype(const py::handle& array, const Body& body) {
  if (py::isinstance<py::array_t<float>>(array)) return body(float());
  require(py::isinstance<py::array_t<double>>(array), "arrays must be float32 or float64");
  return body(double());
}

template <typename T>
dcrf::FeatureView<T> feature_view(const py::handle& handle) {
  require(py::isinstance<py::array_t<T>>(handle), "features must have one dtype");
  const auto array = py::reinterpret_borrow<py::array_t<T>>(handle);
  require(array.ndim() == 2, "features must be [N, d]");
  dcrf::FeatureView<T> out;
  out.data = array.data();
  out.points = array.shape(0);
  out.dims = int(array.shape(1));
  require(out.dims >= 1 && out.dims <= dcrf::kMaxDims, "d must be 1 to 16");
  require(out.points * (out.dims + 1) < (std::int64_t(1) << 31), "N (d+1) must be below 2^31");
  const auto item = std::int64_t(sizeof(T));
  require(array.strides(0) % item == 0 && array.strides(1) % item == 0, "features must be aligned");
  out.point_stride = array.strides(0) / item;
  out.feature_stride = array.strides(1) / item;
  return out;
}

bool build(const Tuples& tuples, int quality, int threads) {
  require(quality >= 0 && quality <= 2, "quality must be 0 to 2");
  if (tuples.empty()) return true;
  return with_dtype(tuples[0][0], [&](auto zero) {
    using T = decltype(zero);
    struct Job {
      dcrf::FeatureView<T> features;
      std::int32_t* vertex;
      T* weight;
      std::int32_t* links;
      bool good = true;
    };
    std::vector<Job> jobs;
    for (const py::tuple& t : tuples) {
      require(t.size() == 4, "a plan is a tuple of four");
      Job job{feature_view<T>(t[0]), nullptr, nullptr, nullptr};
      const std::int64_t n = job.features.points, corners = job.features.dims + 1;
      job.vertex = room<std::int32_t>(t[1], {n, corners}, "vertex must be int32 [N, d+1]");
      job.weight = room<T>(t[2], {n, corners}, "weight must be [N, d+1]");
      const std::int64_t size = dcrf::links_size(n, job.features.dims, dcrf::Quality(quality));
      job.links = room<std::int32_t>(t[3], {size}, "links must be int32 [links_size]");
      jobs.push_back(job);
    }
    const Unlocked unlocked;
    const auto run = [&](Job& job, int inner) {
      job.good = dcrf::build(job.features, dcrf::Quality(quality), job.vertex, job.weight,
                             job.links, inner);
    };
    if (jobs.size() > 1 && std::int64_t(jobs.size()) >= threads) {
      dcrf::parallel_for(std::int64_t(jobs.size()), threads,
                         [&](std::int64_t i) { run(jobs[i], 1); });
    } else {
      for (Job& job : jobs) run(job, threads);
    }
    bool good = true;
    for (const Job& job : jobs) good = good && job.good;
    return good;
  });
}

template <typename T>
dcrf::LatticeView<T> lattice_view(const py::handle& vertex, const py::handle& weight,
                                  const py::handle& links) {
  dcrf::LatticeView<T> out;
  out.points = length(vertex, 0, "vertex must be [N, d+1]");
  const std::int64_t corners = length(vertex, 1, "vertex must be [N, d+1]");
  out.dims = int(corners) - 1;
  require(out.dims >= 1 && out.dims <= dcrf::kMaxDims, "d must be 1 to 16");
  out.vertex = data<std::int32_t>(vertex, {out.points, corners}, "vertex must be int32 [N, d+1]");
  out.weight =
      data<T>(weight, {out.points, corners}, "weight must be [N, d+1], of the values' dtype");
  const std::int64_t size = length(links, 0, "links must be [links_size]");
  out.links = data<std::int32_t>(links, {size}, "links must be int32 [links_size]");
  require(size > dcrf::Links::kData, "links is too short");
  const int quality = out.links[dcrf::Links::kQuality];
  require(quality >= 0 && quality <= 2 &&
              size == dcrf::links_size(out.points, out.dims, dcrf::Quality(quality)),
          "links must hold links_size items");
  return out;
}

void filter(const py::array& vertex, const py::array& weight, const py::array& links,
            const py::array& values, const py::array& out, bool transpose, int threads) {
  with_dtype(values, [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(vertex, weight, links);
    const std::int64_t channels = length(values, 1, "values must be [N, C]");
    const T* const in = data<T>(values, {lattice.points, channels}, "values must be [N, C]");
    T* const result = room<T>(out, {lattice.points, channels}, "out must have the shape of values");
    const Unlocked unlocked;
    dcrf::filter(lattice, in, int(channels), transpose, result, threads);
  });
}

void filter_weight_gradient(const py::array& vertex, const py::array& weight,
                            const py::array& links, const py::array& values,
                            const py::array& cotangent, const py::array& out, bool transpose,
                            int threads) {
  with_dtype(values, [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(vertex, weight, links);
    const std::int64_t n = lattice.points, channels = length(values, 1, "values must be [N, C]");
    const T* const x = data<T>(values, {n, channels}, "values must be [N, C]");
    const T* const g = data<T>(cotangent, {n, channels}, "cotangent must be [N, C]");
    T* const result = room<T>(out, {n, lattice.dims + 1}, "out must be [N, d+1]");
    const Unlocked unlocked;
    dcrf::filter_weight_gradient(lattice, x, g, int(channels), transpose, result, threads);
  });
}

void feature_gradient(const py::array& features, const py::array& d_weight, const py::array& out,
                      int threads) {
  with_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    const auto view = feature_view<T>(features);
    const T* const from =
        data<T>(d_weight, {view.points, view.dims + 1}, "d_weight must be [N, d+1]");
    T* const result = room<T>(out, {view.points, view.dims}, "out must be [N, d]");
    const Unlocked unlocked;
    dcrf::feature_gradient(view, from, result, threads);
  });
}

void self_response(const py::array& vertex, const py::array& weight, const py::array& links,
                   const py::array& out, int threads) {
  with_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(vertex, weight, links);
    T* const result = room<T>(out, {lattice.points}, "out must be [N]");
    const Unlocked unlocked;
    dcrf::self_response(lattice, result, threads);
  });
}

void self_response_gradient(const py::array& vertex, const py::array& weight,
                            const py::array& links, const py::array& cotangent,
                            const py::array& out, int threads) {
  with_dtype(out, [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(vertex, weight, links);
    const T* const from = data<T>(cotangent, {lattice.points}, "cotangent must be [N]");
    T* const result = room<T>(out, {lattice.points, lattice.dims + 1}, "out must be [N, d+1]");
    const Unlocked unlocked;
    dcrf::self_response_gradient(lattice, from, result, threads);
  });
}

// The small tables of a grid, in the dtype of the values.
template <typename T>
struct GridTables {
  std::vector<T> splat[3], slice[3], band[3];
};

template <typename T>
std::vector<T> numbers(const py::handle& handle, Shape shape, const char* what) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  const double* const from = data<double>(handle, shape, what);
  return std::vector<T>(from, from + count);
}

// The last axes of `axes` are those of the image; a flat one has a single layer.
template <typename T>
dcrf::GridView<T> grid_view(const std::vector<py::tuple>& axes, const py::handle& pixel,
                            std::int64_t points, GridTables<T>& tables) {
  static const std::int32_t only_cell = 0;
  static const T one = 1;
  dcrf::GridView<T> grid;
  require(axes.size() == 2 || axes.size() == 3, "a grid has two or three axes");
  grid.cell[0] = &only_cell;
  grid.splat[0] = grid.slice[0] = grid.band[0] = &one;
  std::int64_t pixels = 1;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::size_t a = 3 - axes.size() + i;
    const py::tuple& axis = axes[i];
    require(axis.size() == 5, "an axis is a tuple of five");
    const std::int64_t n = length(axis[0], 0, "cell must be [n]");
    grid.size[a] = n;
    pixels *= n;
    grid.taps[a] = 3;
    grid.cell[a] = data<std::int32_t>(axis[0], {n}, "cell must be int32 [n]");
    tables.splat[a] = numbers<T>(axis[1], {n, 3}, "splat must be float64 [n, 3]");
    tables.slice[a] = numbers<T>(axis[2], {n, 3}, "slice must be float64 [n, 3]");
    const std::int64_t band = length(axis[3], 0, "band must be [2 r + 1]");
    require(band % 2 == 1, "band must be [2 r + 1]");
    tables.band[a] = numbers<T>(axis[3], {band}, "band must be float64 [2 r + 1]");
    grid.radius[a] = int(band / 2);
    grid.cells[a] = axis[4].cast<std::int64_t>();
    for (std::int64_t x = 0; x < n; ++x) {
      require(grid.cell[a][x] >= 0 && grid.cell[a][x] + 3 <= grid.cells[a] &&
                  (x == 0 || grid.cell[a][x] >= grid.cell[a][x - 1]),
              "cell must ascend and leave room for three");
    }
    grid.splat[a] = tables.splat[a].data();
    grid.slice[a] = tables.slice[a].data();
    grid.band[a] = tables.band[a].data();
  }
  grid.pixel = optional_data<std::int32_t>(pixel, {points}, "pixel must be int32 [N]");
  if (grid.pixel == nullptr) require(pixels == points, "the grid must have N pixels");
  for (std::int64_t p = 0; grid.pixel != nullptr && p < points; ++p) {
    require(grid.pixel[p] < pixels && grid.pixel[p] >= (p > 0 ? grid.pixel[p - 1] + 1 : 0),
            "pixel must ascend within the image");
  }
  return grid;
}

// Tuples of kernels as views; what they point to lives as long as this and the tuples.
template <typename T>
class Kernels {
 public:
  Kernels(const Tuples& tuples, std::int64_t points) : tables_(tuples.size()) {
    require(!tuples.empty() && tuples.size() <= dcrf::kMaxKernels, "there must be 1 to 8 kernels");
    for (std::size_t m = 0; m < tuples.size(); ++m) {
      const py::tuple& t = tuples[m];
      dcrf::KernelView<T> k;
      const bool lattice = t[0].cast<std::string>() == "lattice";
      require(t.size() == std::size_t(lattice ? 7 : 6), "a kernel is a tuple of seven, or of six");
      if (lattice) {
        k.lattice = lattice_view<T>(t[1], t[2], t[3]);
        require(k.lattice.points == points, "the lattice must have N points");
      } else {
        k.grid = grid_view<T>(t[1].cast<Tuples>(), t[2], points, tables_[m]);
      }
      const int at = lattice ? 4 : 3;
      k.before = optional_data<T>(t[at], {points}, "before must be [N], of the logits' dtype");
      k.after = optional_data<T>(t[at + 1], {points}, "after must be [N], of the logits' dtype");
      k.diagonal =
          optional_data<T>(t[at + 2], {points}, "diagonal must be [N], of the logits' dtype");
      views_.push_back(k);
    }
  }
  const std::vector<dcrf::KernelView<T>>& views() const { return views_; }

 private:
  std::vector<GridTables<T>> tables_;
  std::vector<dcrf::KernelView<T>> views_;
};

template <typename T>
dcrf::Model<T> model(const py::array& coupling, int labels, int iterations, std::int64_t budget) {
  dcrf::Model<T> out;
  const std::int64_t kernels = length(coupling, 0, "coupling must be [kernels, L, L]");
  out.coupling = data<T>(coupling, {kernels, labels, labels}, "coupling must be [kernels, L, L]");
  require(labels >= 1 && iterations >= 0, "there must be a label, and iterations at least 0");
  out.labels = labels;
  out.iterations = iterations;
  out.memory_budget = budget;
  return out;
}

bool is_empty(const py::handle& array) {
  return py::reinterpret_borrow<py::array>(array).size() == 0;
}

bool mean_field(const Tuples& problems, const py::array& coupling, int iterations, bool marginals,
                std::int64_t memory_budget, int threads) {
  if (problems.empty()) return true;
  return with_dtype(coupling, [&](auto zero) {
    using T = decltype(zero);
    const int labels = int(length(coupling, 1, "coupling must be [kernels, L, L]"));
    dcrf::Model<T> shared = model<T>(coupling, labels, iterations, memory_budget);
    shared.marginals = marginals;
    std::vector<std::unique_ptr<Kernels<T>>> kernels;
    std::vector<dcrf::Image<T>> images;
    for (const py::tuple& t : problems) {
      require(t.size() == 4, "a problem is a tuple of four");
      dcrf::Image<T> image;
      const std::int64_t n = length(t[1], 1, "logits must be [L, N]");
      image.points = n;
      image.logits = data<T>(t[1], {labels, n}, "logits must be [L, N]");
      image.refined = room<T>(t[2], {labels, n}, "refined must be [L, N]");
      if (!is_empty(t[3])) {
        image.saved = data<T>(t[3], {iterations, n, dcrf::row_width(labels)},
                              "saved must be empty or [T, N, row_width(L)]");
      }
      kernels.push_back(std::make_unique<Kernels<T>>(t[0].cast<Tuples>(), n));
      image.kernels = kernels.back()->views();
      require(std::int64_t(image.kernels.size()) == coupling.shape(0),
              "a coupling is wanted per kernel");
      images.push_back(image);
    }
    const Unlocked unlocked;
    return dcrf::mean_field(shared, images, threads);
  });
}

void mean_field_backward(const Tuples& problems, const py::array& coupling, int iterations,
                         std::int64_t memory_budget, int threads) {
  if (problems.empty()) return;
  with_dtype(coupling, [&](auto zero) {
    using T = decltype(zero);
    const int labels = int(length(coupling, 1, "coupling must be [kernels, L, L]"));
    const dcrf::Model<T> shared = model<T>(coupling, labels, iterations, memory_budget);
    std::vector<std::unique_ptr<Kernels<T>>> kernels;
    std::vector<dcrf::Image<T>> images;
    std::vector<dcrf::ImageGradient<T>> gradients;
    for (const py::tuple& t : problems) {
      require(t.size() == 7, "a problem is a tuple of seven");
      dcrf::Image<T> image;
      dcrf::ImageGradient<T> gradient;
      const std::int64_t n = length(t[1], 1, "logits must be [L, N]");
      image.points = n;
      image.logits = data<T>(t[1], {labels, n}, "logits must be [L, N]");
      image.saved = data<T>(t[2], {iterations, n, dcrf::row_width(labels)},
                            "saved must be [T, N, row_width(L)]");
      kernels.push_back(std::make_unique<Kernels<T>>(t[0].cast<Tuples>(), n));
      image.kernels = kernels.back()->views();
      const auto count = std::int64_t(image.kernels.size());
      require(count == coupling.shape(0), "a coupling is wanted per kernel");
      gradient.d_refined = data<T>(t[3], {labels, n}, "d_refined must be [L, N]");
      gradient.d_logits = room<T>(t[4], {labels, n}, "d_logits must be [L, N]");
      gradient.d_coupling =
          room<T>(t[5], {count, labels, labels}, "d_coupling must be [kernels, L, L]");
      const auto wanted = t[6].cast<std::vector<py::object>>();
      require(std::int64_t(wanted.size()) == count, "a gradient or None is wanted per kernel");
      for (std::int64_t m = 0; m < count; ++m) {
        dcrf::PointGradient<T> to;
        if (!wanted[m].is_none()) {
          const auto parts = wanted[m].cast<py::tuple>();
          const dcrf::KernelView<T>& k = image.kernels[m];
          require(parts.size() == 4 && k.lattice.vertex != nullptr,
                  "only a lattice has gradients, four");
          to.weight = room<T>(parts[0], {n, k.lattice.dims + 1}, "d_weight must be [N, d+1]");
          to.before = optional_data<T>(parts[1], {n}, "d_before must be [N]");
          to.after = optional_data<T>(parts[2], {n}, "d_after must be [N]");
          to.diagonal = optional_data<T>(parts[3], {n}, "d_diagonal must be [N]");
          require((to.before == nullptr) == (k.before == nullptr) &&
                      (to.after == nullptr) == (k.after == nullptr) &&
                      (to.diagonal == nullptr) == (k.diagonal == nullptr),
                  "d_before, d_after, d_diagonal must be None where the kernel's are");
        }
        gradient.kernels.push_back(to);
      }
      images.push_back(image);
      gradients.push_back(gradient);
    }
    const Unlocked unlocked;
    dcrf::mean_field_backward(shared, images, gradients, threads);
  });
}

// The edge classes of a grid CRF: [C, 2], each at most the size of the image.
void set_offsets(const py::array& offsets, dcrf::GibbsBatch& batch) {
  const std::int64_t classes = length(offsets, 0, "offsets must be [C, 2]");
  batch.classes = int(classes);
  batch.offsets = data<std::int32_t>(offsets, {classes, 2}, "offsets must be int32 [C, 2]");
  for (std::int64_t c = 0; c < classes; ++c) {
    require(std::abs(std::int64_t(batch.offsets[2 * c])) <= batch.height &&
                std::abs(std::int64_t(batch.offsets[2 * c + 1])) <= batch.width,
            "an offset is longer than the image");
  }
}

void check_labels(const dcrf::GibbsBatch& batch, const std::int32_t* labels) {
  const std::int64_t pixels = batch.images * batch.height * batch.width;
  std::int32_t greatest = 0;
  for (std::int64_t p = 0; p < pixels; ++p) greatest = labels[p] > greatest ? labels[p] : greatest;
  require(greatest < batch.labels, "labels must be below L");
}

void gibbs_sweep(const py::array& logits, const py::array& labels, const py::array& tables,
                 const py::array& offsets, const std::tuple<int, int, int>& colouring,
                 std::uint64_t seed, const py::array& chains, const py::array& first_sweep,
                 const py::array& inverse_temperature, const py::object& marginals,
                 const py::array& changes, int threads) {
  dcrf::GibbsBatch batch;
  const std::int64_t images = length(logits, 0, "logits must be [B, L, H, W]");
  const std::int64_t count = length(logits, 1, "logits must be [B, L, H, W]");
  const std::int64_t height = length(logits, 2, "logits must be [B, L, H, W]");
  const std::int64_t width = length(logits, 3, "logits must be [B, L, H, W]");
  require(count >= 1 && count < 65536 && height >= 1 && width >= 1 &&
              height * width < (std::int64_t(1) << 31),
          "L must be 1 to 65535, and H W 1 to below 2^31");
  batch.images = images;
  batch.height = height;
  batch.width = width;
  batch.labels = int(count);
  batch.logits = data<float>(logits, {images, count, height, width}, "logits must be float32");
  set_offsets(offsets, batch);
  batch.tables =
      data<float>(tables, {batch.classes, count, count}, "tables must be float32 [C, L, L]");
  std::tie(batch.a, batch.b, batch.m) = colouring;
  require(batch.m >= 1 && batch.m < (1 << 15) && batch.a >= 0 && batch.a < batch.m &&
              batch.b >= 0 && batch.b < batch.m,
          "a colouring is (a, b, m) with a and b below m");
  for (int c = 0; c < batch.classes; ++c) {
    const std::int64_t apart = std::int64_t(batch.a) * batch.offsets[2 * c + 1] +
                               std::int64_t(batch.b) * batch.offsets[2 * c];
    require(apart % batch.m != 0, "neighbours must differ in colour");
  }
  batch.seed = seed;
  batch.chain = data<std::uint64_t>(chains, {images}, "chains must be uint64 [B]");
  batch.first_sweep = data<std::uint64_t>(first_sweep, {images}, "first_sweep must be uint64 [B]");
  batch.sweeps = int(length(inverse_temperature, 0, "inverse_temperature must be [S]"));
  batch.inverse_temperature =
      data<float>(inverse_temperature, {batch.sweeps}, "inverse_temperature must be float32 [S]");
  std::int32_t* const to =
      room<std::int32_t>(labels, {images, height, width}, "labels must be int32 [B, H, W]");
  check_labels(batch, to);
  double* const sums = marginals.is_none() ? nullptr
                                           : room<double>(marginals, {images, height, width, count},
                                                          "marginals must be float64 [B, H, W, L]");
  std::int64_t* const changed =
      room<std::int64_t>(changes, {images, batch.sweeps}, "changes must be int64 [B, S]");
  const Unlocked unlocked;
  dcrf::gibbs_sweep(batch, to, sums, changed, threads);
}

void gibbs_statistics(const py::array& labels, const py::array& offsets, const py::array& counts,
                      int threads) {
  dcrf::GibbsBatch batch;
  batch.images = length(labels, 0, "labels must be [B, H, W]");
  batch.height = length(labels, 1, "labels must be [B, H, W]");
  batch.width = length(labels, 2, "labels must be [B, H, W]");
  const std::int32_t* const from = data<std::int32_t>(
      labels, {batch.images, batch.height, batch.width}, "labels must be int32 [B, H, W]");
  set_offsets(offsets, batch);
  const std::int64_t count = length(counts, 1, "counts must be [C, L, L]");
  batch.labels = int(count);
  std::int64_t* const to =
      room<std::int64_t>(counts, {batch.classes, count, count}, "counts must be int64 [C, L, L]");
  check_labels(batch, from);
  const Unlocked unlocked;
  dcrf::gibbs_statistics(batch, from, to, threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU loops of densecrf_rnn; use densecrf_rnn.PermutohedralLattice instead.";
  m.attr("compiler") = DCRF_COMPILER;
  m.def("isa", &dcrf::isa_name, "The instruction set in use: baseline, avx2 or avx512.");
  m.def("build", &build, py::arg("plans"), py::arg("quality"), py::arg("threads"));
  m.def("filter", &filter, py::arg("vertex"), py::arg("weight"), py::arg("links"),
        py::arg("values"), py::arg("out"), py::arg("transpose"), py::arg("threads"));
  m.def("filter_weight_gradient", &filter_weight_gradient, py::arg("vertex"), py::arg("weight"),
        py::arg("links"), py::arg("values"), py::arg("cotangent"), py::arg("out"),
        py::arg("transpose"), py::arg("threads"));
  m.def("feature_gradient", &feature_gradient, py::arg("features"), py::arg("d_weight"),
        py::arg("out"), py::arg("threads"));
  m.def("self_response", &self_response, py::arg("vertex"), py::arg("weight"), py::arg("links"),
        py::arg("out"), py::arg("threads"));
  m.def("self_response_gradient", &self_response_gradient, py::arg("vertex"), py::arg("weight"),
        py::arg("links"), py::arg("cotangent"), py::arg("out"), py::arg("threads"));
  m.def("mean_field", &mean_field, py::arg("problems"), py::arg("coupling"), py::arg("iterations"),
        py::arg("marginals"), py::arg("memory_budget"), py::arg("threads"));
  m.def("mean_field_backward", &mean_field_backward, py::arg("problems"), py::arg("coupling"),
        py::arg("iterations"), py::arg("memory_budget"), py::arg("threads"));
  m.def("gibbs_sweep", &gibbs_sweep, py::arg("logits"), py::arg("labels"), py::arg("tables"),
        py::arg("offsets"), py::arg("colouring"), py::arg("seed"), py::arg("chains"),
        py::arg("first_sweep"), py::arg("inverse_temperature"), py::arg("marginals"),
        py::arg("changes"), py::arg("threads"));
  m.def("gibbs_statistics", &gibbs_statistics, py::arg("labels"), py::arg("offsets"),
        py::arg("counts"), py::arg("threads"));
}
