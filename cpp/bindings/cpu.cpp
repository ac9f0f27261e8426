// The Python module densecrf_rnn._cpu: NumPy arrays in, the loops of cpp/cpu underneath, the GIL
// released. Dtypes and sizes are checked here once more; the ids inside a plan are trusted, for only
// build() makes them. Typed in densecrf_rnn/_cpu.pyi; reached through densecrf_rnn/_backends.py alone.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/simplex.hpp"
#include "../cpu/lattice.hpp"
#include "../cpu/mean_field.hpp"
#include "../cpu/pool.hpp"

namespace py = pybind11;

namespace {

template <typename T>
using Rows = py::array_t<T, py::array::c_style>;
using Ints = py::array_t<std::int32_t, py::array::c_style>;

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

template <typename T>
std::int64_t build(const Rows<T>& features, Ints vertex, Rows<T> weight, Ints neighbour, Ints offset,
                   Ints entry, int threads) {
  require(features.ndim() == 2, "features must be [N, d]");
  const std::int64_t points = features.shape(0);
  const int dims = int(features.shape(1));
  require(dims >= 1 && dims <= dcrf::kMaxDims, "d must be 1 to 16");
  const std::int64_t corners = points * (dims + 1);
  require(corners < (std::int64_t(1) << 31), "N (d+1) must be below 2^31");
  require(vertex.size() == corners && weight.size() == corners && entry.size() == corners,
          "vertex, weight and entry must hold N (d+1) items");
  require(offset.size() == corners + 1 && neighbour.size() == 2 * corners * (dims + 1),
          "offset must hold N (d+1) + 1 items, neighbour 2 N (d+1)^2");
  const dcrf::LatticeBuffers<T> out{vertex.mutable_data(), weight.mutable_data(),
                                    neighbour.mutable_data(), offset.mutable_data(),
                                    entry.mutable_data()};
  const T* const data = features.data();
  const Unlocked unlocked;
  return dcrf::build(data, points, dims, out, threads);
}

template <typename T>
dcrf::LatticeView<T> view(const Ints& vertex, const Rows<T>& weight, const Ints& neighbour,
                          const Ints& offset, const Ints& entry, std::int64_t vertices) {
  require(vertex.ndim() == 2, "vertex must be [N, d+1]");
  dcrf::LatticeView<T> lattice;
  lattice.points = vertex.shape(0);
  lattice.dims = int(vertex.shape(1)) - 1;
  lattice.vertices = vertices;
  require(lattice.dims >= 1 && lattice.dims <= dcrf::kMaxDims, "d must be 1 to 16");
  require(weight.size() == vertex.size() && entry.size() == vertex.size(),
          "weight and entry must hold N (d+1) items");
  require(vertices >= 0 && offset.size() >= vertices + 1 &&
              neighbour.size() >= 2 * vertices * (lattice.dims + 1),
          "offset and neighbour must hold M vertices");
  lattice.vertex = vertex.data();
  lattice.weight = weight.data();
  lattice.neighbour = neighbour.data();
  lattice.offset = offset.data();
  lattice.entry = entry.data();
  return lattice;
}

template <typename T>
void filter(const Ints& vertex, const Rows<T>& weight, const Ints& neighbour, const Ints& offset,
            const Ints& entry, std::int64_t vertices, const Rows<T>& values, Rows<T> out,
            bool transpose, int threads) {
  const dcrf::LatticeView<T> lattice = view(vertex, weight, neighbour, offset, entry, vertices);
  require(values.ndim() == 2 && values.shape(0) == lattice.points, "values must be [N, C]");
  require(out.ndim() == 2 && out.shape(0) == values.shape(0) && out.shape(1) == values.shape(1),
          "out must have the shape of values");
  const T* const in = values.data();
  T* const result = out.mutable_data();
  const int channels = int(values.shape(1));
  const Unlocked unlocked;
  dcrf::filter(lattice, in, channels, transpose, result, threads);
}

template <typename T>
void self_response(const Ints& vertex, const Rows<T>& weight, const Ints& neighbour,
                   const Ints& offset, const Ints& entry, std::int64_t vertices, Rows<T> out,
                   int threads) {
  const dcrf::LatticeView<T> lattice = view(vertex, weight, neighbour, offset, entry, vertices);
  require(out.ndim() == 1 && out.shape(0) == lattice.points, "out must be [N]");
  T* const result = out.mutable_data();
  const Unlocked unlocked;
  dcrf::self_response(lattice, result, threads);
}

// An optional [N] array; null for None.
template <typename T>
const T* optional_rows(const py::handle& array, std::int64_t points) {
  if (array.is_none()) return nullptr;
  require(Rows<T>::check_(array), "before, after and diagonal must have the dtype of logits");
  const auto rows = py::reinterpret_borrow<Rows<T>>(array);
  require(rows.size() == points, "before, after and diagonal must hold N items");
  return rows.data();
}

template <typename T>
dcrf::KernelView<T> kernel_view(const py::tuple& kernel, std::int64_t points, int labels) {
  require(kernel.size() == 10, "a kernel is a tuple of ten");
  for (const int i : {0, 2, 3, 4}) require(Ints::check_(kernel[i]), "indices must be int32");
  for (const int i : {1, 9}) {
    require(Rows<T>::check_(kernel[i]), "weight and coupling must have the dtype of logits");
  }
  const auto ints = [&](int i) { return py::reinterpret_borrow<Ints>(kernel[i]); };
  const auto rows = [&](int i) { return py::reinterpret_borrow<Rows<T>>(kernel[i]); };
  dcrf::KernelView<T> out;
  out.lattice = view<T>(ints(0), rows(1), ints(2), ints(3), ints(4), kernel[5].cast<std::int64_t>());
  require(out.lattice.points == points, "the lattice must have N points");
  out.before = optional_rows<T>(kernel[6], points);
  out.after = optional_rows<T>(kernel[7], points);
  out.diagonal = optional_rows<T>(kernel[8], points);
  require(rows(9).size() == std::int64_t(labels) * labels, "coupling must be [L, L]");
  out.coupling = rows(9).data();
  return out;
}

template <typename T>
std::vector<dcrf::KernelView<T>> kernel_views(const std::vector<py::tuple>& kernels,
                                              std::int64_t points, int labels) {
  require(labels >= 1 && !kernels.empty(), "there must be a label and a kernel");
  std::vector<dcrf::KernelView<T>> views;
  for (const py::tuple& kernel : kernels) views.push_back(kernel_view<T>(kernel, points, labels));
  return views;
}

template <typename T>
void require_shape(const Rows<T>& array, std::initializer_list<std::int64_t> shape,
                   const char* what) {
  bool same = array.ndim() == py::ssize_t(shape.size());
  py::ssize_t axis = 0;
  for (const std::int64_t length : shape) same = same && array.shape(axis++) == length;
  require(same, what);
}

template <typename T>
void mean_field(const std::vector<py::tuple>& kernels, const Rows<T>& logits, Rows<T> refined,
                Rows<T> saved_q, int iterations, int threads) {
  require(logits.ndim() == 2 && iterations >= 0, "logits must be [L, N], iterations at least 0");
  const int labels = int(logits.shape(0));
  const std::int64_t points = logits.shape(1);
  require_shape(refined, {labels, points}, "refined must be [L, N]");
  if (saved_q.size() > 0) {
    require_shape(saved_q, {iterations, points, dcrf::row_width(labels)},
                  "saved_q must be empty or [T, N, row_width(L)]");
  }
  const auto views = kernel_views<T>(kernels, points, labels);
  const T* const in = logits.data();
  T* const out = refined.mutable_data();
  T* const saved = saved_q.size() > 0 ? saved_q.mutable_data() : nullptr;
  const Unlocked unlocked;
  dcrf::mean_field(views.data(), int(views.size()), in, points, labels, iterations, out, saved,
                   threads);
}

template <typename T>
void mean_field_backward(const std::vector<py::tuple>& kernels, const Rows<T>& saved_q,
                         const Rows<T>& d_refined, Rows<T> d_logits, Rows<T> d_coupling,
                         int threads) {
  require(d_refined.ndim() == 2 && saved_q.ndim() == 3, "d_refined must be [L, N]");
  const int labels = int(d_refined.shape(0)), iterations = int(saved_q.shape(0));
  const std::int64_t points = d_refined.shape(1), count = std::int64_t(kernels.size());
  require_shape(saved_q, {iterations, points, dcrf::row_width(labels)},
                "saved_q must be [T, N, row_width(L)]");
  require_shape(d_logits, {labels, points}, "d_logits must be [L, N]");
  require_shape(d_coupling, {count, labels, labels}, "d_coupling must be [M, L, L]");
  const auto views = kernel_views<T>(kernels, points, labels);
  const T* const q = saved_q.data();
  const T* const in = d_refined.data();
  T* const out = d_logits.mutable_data();
  T* const out_coupling = d_coupling.mutable_data();
  const Unlocked unlocked;
  dcrf::mean_field_backward(views.data(), int(count), q, in, points, labels, iterations, out,
                            out_coupling, threads);
}

template <typename T>
void define(py::module_& m) {
  // noconvert: a wrong dtype or a strided array is refused, never copied in silence.
  const auto in = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("build", &build<T>, in("features"), in("vertex"), in("weight"), in("neighbour"),
        in("offset"), in("entry"), py::arg("threads"));
  m.def("filter", &filter<T>, in("vertex"), in("weight"), in("neighbour"), in("offset"),
        in("entry"), py::arg("vertices"), in("values"), in("out"), py::arg("transpose"),
        py::arg("threads"));
  m.def("self_response", &self_response<T>, in("vertex"), in("weight"), in("neighbour"),
        in("offset"), in("entry"), py::arg("vertices"), in("out"), py::arg("threads"));
  m.def("mean_field", &mean_field<T>, py::arg("kernels"), in("logits"), in("refined"),
        in("saved_q"), py::arg("iterations"), py::arg("threads"));
  m.def("mean_field_backward", &mean_field_backward<T>, py::arg("kernels"), in("saved_q"),
        in("d_refined"), in("d_logits"), in("d_coupling"), py::arg("threads"));
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU loops of densecrf_rnn; use densecrf_rnn.PermutohedralLattice instead.";
  m.attr("compiler") = DCRF_COMPILER;
  define<float>(m);
  define<double>(m);
}
