// The Python modules densecrf_rnn._cuda and, from the same source, densecrf_rnn._serial (the serial
// launcher). They read the structs of densecrf_rnn/engines/device.py by field name. Arrays are
// passed as addresses, so that the modules do not depend on a version of torch; dtypes, devices and
// sizes are checked by densecrf_rnn/nn/ops/device*.py, the only callers. The type stubs are in
// densecrf_rnn/_cuda.pyi.
#include <optional>
#include <string>
#include <vector>

#include "../cuda/devices.hpp"
#include "../cuda/engine.hpp"
#include "fields.hpp"
#include "gil.hpp"

namespace {

namespace cuda = dcrf::cuda;
namespace py = pybind11;
using Address = std::uintptr_t;
using List = std::vector<py::object>;
using bindings::as;

// Return an address as a pointer.
template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

cuda::Stream stream(const py::object& of) {
  cuda::Stream out;
  DCRF_READ(of, out, device, handle);
  return out;
}

// Call body(T()), where T is double if `wide`, otherwise float.
template <class Body>
auto with_type(bool wide, const Body& body) {
  return wide ? body(double()) : body(float());
}

// Call body(S(), T()), where T is as above and S is the type in which values at vertices and cells
// are stored: T or a 16-bit type.
template <class Body>
auto with_storage(bool wide, const std::string& storage, const Body& body) {
  if (storage == "full") return with_type(wide, [&](auto zero) { return body(zero, zero); });
  if (wide) throw std::invalid_argument("native code: float64 is stored in full");
  if (storage == "float16") return body(cuda::Half(), float());
  if (storage == "bfloat16") return body(cuda::Bfloat16(), float());
  throw std::invalid_argument("native code: there is no storage '" + storage + "'");
}

// Return the key layout for features between `minimum` and `maximum` [d], or none if the features
// are not finite or their keys would be too long.
std::optional<dcrf::KeyLayout> key_layout(bool wide, const std::vector<double>& minimum,
                                          const std::vector<double>& maximum, std::int64_t images) {
  const int d = int(minimum.size());
  std::int32_t low[dcrf::kMaxDims], high[dcrf::kMaxDims];
  const bool fits = with_type(wide, [&](auto zero) {
    return dcrf::quotient_range<decltype(zero)>(minimum.data(), maximum.data(), d, low, high);
  });
  if (!fits) return std::nullopt;
  const dcrf::KeyLayout layout(d, low, high, images);
  if (layout.words > dcrf::kMaxKeyWords) return std::nullopt;
  return layout;
}

template <typename T>
cuda::FeatureView<T> features(const py::object& of) {
  cuda::FeatureView<T> out;
  DCRF_READ(of, out, data, image_stride, point_stride, feature_stride, images, points, dims,
            inside);
  return out;
}

void locate(bool wide, const py::object& from, const dcrf::KeyLayout& layout, Address weight,
            Address keys, const py::object& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::locate_corners(features<T>(from), layout, at<T>(weight), at<std::uint64_t>(keys),
                         stream(on));
  });
}

void number_keys(const dcrf::KeyLayout& layout, std::int64_t count, Address keys, Address order,
                 Address number, Address scratch, const py::object& on) {
  const cuda::Stream queue = stream(on);
  const bindings::Released released;  // the serial launcher sorts in this thread
  cuda::number_keys(layout, count, at<std::uint64_t>(keys), at<std::int32_t>(order),
                    at<std::int32_t>(number), at<void>(scratch), queue);
}

cuda::Sorted sorted(const py::object& of) {
  cuda::Sorted out;
  out.count = as<std::int64_t>(DCRF_FIELD(of, entries));
  DCRF_READ(of, out, distinct, keys, order, number);
  return out;
}

void distinct_keys(const dcrf::KeyLayout& layout, const py::object& from, Address out,
                   const py::object& on) {
  cuda::distinct_keys(layout, sorted(from), at<std::uint64_t>(out), stream(on));
}

void surround(const dcrf::KeyLayout& layout, std::int64_t count, Address keys, Address out,
              const py::object& on) {
  cuda::surround(layout, count, at<std::uint64_t>(keys), at<std::uint64_t>(out), stream(on));
}

void link_vertices(const dcrf::KeyLayout& layout, const py::object& corners, Address touched_keys,
                   std::int64_t vertices, Address keys, Address inside, Address vertex,
                   Address links,
                   const py::object& room, const py::object& on) {
  cuda::LinkRoom parts;
  DCRF_READ(room, parts, vertex_of, begins, chunk_count, chunks_before, scratch);
  cuda::link_vertices(layout, sorted(corners), at<std::uint64_t>(touched_keys), vertices,
                      at<std::uint64_t>(keys), at<const bool>(inside), at<std::int32_t>(vertex),
                      at<std::int32_t>(links), parts, stream(on));
}

void feature_gradient(bool wide, const py::object& from, Address d_weight, Address out,
                      const py::object& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::feature_gradient(features<T>(from), at<const T>(d_weight), at<T>(out), stream(on));
  });
}

std::int64_t points_of(const py::object& of) { return as<std::int64_t>(DCRF_FIELD(of, points)); }

template <typename T>
cuda::LatticeView<T> lattice(const py::object& of) {
  cuda::LatticeView<T> out;
  DCRF_READ(of, out, images, dims, symmetric, vertex, weight);
  out.links = cuda::Links(at<const std::int32_t>(as<Address>(DCRF_FIELD(of, links))),
                          as<std::int64_t>(DCRF_FIELD(of, vertices)),
                          out.images * points_of(of) * (out.dims + 1));
  return out;
}

// Return the shape of the values that a lattice filters; the rows are not padded.
cuda::Shape value_shape(const py::object& lattice, std::int64_t images, int channels) {
  return {points_of(lattice), images, channels, channels};
}

std::size_t filter_workspace(bool wide, const py::object& of, std::int64_t images, int channels,
                             int filters) {
  return with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    return cuda::filter_workspace(lattice<T>(of), value_shape(of, images, channels), filters);
  });
}

void filter(bool wide, const py::object& of, std::int64_t images, int channels, Address values,
            bool transpose, Address out, Address workspace, const py::object& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::filter(lattice<T>(of), value_shape(of, images, channels), at<const T>(values), transpose,
                 at<T>(out), at<void>(workspace), stream(on));
  });
}

void filter_weight_gradient(bool wide, const py::object& of, std::int64_t images, int channels,
                            Address values, Address cotangent, bool transpose, Address out,
                            Address workspace, const py::object& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::filter_weight_gradient(lattice<T>(of), value_shape(of, images, channels),
                                 at<const T>(values), at<const T>(cotangent), transpose, at<T>(out),
                                 at<void>(workspace), stream(on));
  });
}

void self_response(bool wide, const py::object& of, Address cotangent, Address out,
                   const py::object& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    const auto view = lattice<T>(of);
    cuda::self_response(view, view.images * points_of(of), at<const T>(cotangent), at<T>(out),
                        stream(on));
  });
}

template <typename T>
cuda::GridView<T> grid(const List& axes) {
  cuda::GridView<T> out;
  out.axes = int(axes.size());
  if (out.axes < 2 || out.axes > 3)
    throw std::invalid_argument("native code: a kernel has a lattice, or 2 or 3 axes");
  for (int a = 0; a < out.axes; ++a) {
    bindings::read(DCRF_FIELD(axes[a], size), out.size[a]);
    bindings::read(DCRF_FIELD(axes[a], cells), out.cells[a]);
    bindings::read(DCRF_FIELD(axes[a], radius), out.radius[a]);
    bindings::read(DCRF_FIELD(axes[a], cell), out.cell[a]);
    bindings::read(DCRF_FIELD(axes[a], first), out.first[a]);
    bindings::read(DCRF_FIELD(axes[a], splat), out.splat[a]);
    bindings::read(DCRF_FIELD(axes[a], slice), out.slice[a]);
    bindings::read(DCRF_FIELD(axes[a], band), out.band[a]);
  }
  return out;
}

template <typename T>
cuda::KernelView<T> kernel(const py::object& of) {
  cuda::KernelView<T> out;
  const bindings::Named own = DCRF_FIELD(of, lattice);
  if (own.is_none()) {
    out.grid = grid<T>(as<List>(DCRF_FIELD(of, axes)));
  } else {
    out.lattice = lattice<T>(own.value);
  }
  DCRF_READ(of, out, before, after, diagonal, grid_scales_per_image);
  return out;
}

template <typename T>
cuda::Model<T> model(const py::object& of) {
  cuda::Model<T> out;
  out.shape = {points_of(of), as<std::int64_t>(DCRF_FIELD(of, images)),
               as<int>(DCRF_FIELD(of, labels)), as<int>(DCRF_FIELD(of, width))};
  DCRF_READ(of, out, iterations, coupling, coupling_columns);
  const bindings::Named kernels = DCRF_FIELD(of, kernels);
  const auto list = as<List>(kernels);
  kernels.require(!list.empty() && list.size() <= std::size_t(dcrf::kMaxKernels),
                  "1 to MAX_KERNELS kernels");
  out.kernels = int(list.size());
  for (int m = 0; m < out.kernels; ++m) out.kernel[m] = kernel<T>(list[m]);
  return out;
}

std::size_t mean_field_workspace(bool wide, const std::string& storage, const py::object& of,
                                 bool saves) {
  return with_storage(wide, storage, [&](auto stored, auto zero) {
    return cuda::mean_field_workspace<decltype(stored)>(model<decltype(zero)>(of), saves);
  });
}

void mean_field(bool wide, const std::string& storage, const py::object& of, Address logits,
                Address refined, Address saved, Address workspace, const py::object& on) {
  with_storage(wide, storage, [&](auto stored, auto zero) {
    using T = decltype(zero);
    cuda::mean_field<decltype(stored)>(model<T>(of), at<const T>(logits), at<T>(refined),
                                       at<T>(saved), at<void>(workspace), stream(on));
  });
}

template <typename T>
std::vector<cuda::PointGradient<T>> point_gradients(const List& d_kernels, int kernels) {
  if (d_kernels.size() != std::size_t(kernels))
    throw std::invalid_argument("native code: d_kernels must be as many as there are kernels");
  std::vector<cuda::PointGradient<T>> out(d_kernels.size());
  for (std::size_t m = 0; m < out.size(); ++m) {
    DCRF_READ(d_kernels[m], out[m], weight, before, after, diagonal);
  }
  return out;
}

std::size_t backward_workspace(bool wide, const py::object& of, const List& d_kernels) {
  return with_type(wide, [&](auto zero) {
    const auto whole = model<decltype(zero)>(of);
    const auto to = point_gradients<decltype(zero)>(d_kernels, whole.kernels);
    return cuda::backward_workspace(whole, to.data());
  });
}

void mean_field_backward(bool wide, const py::object& of, Address saved, Address d_refined,
                         Address d_logits, Address d_coupling, const List& d_kernels,
                         Address workspace, const py::object& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    const auto whole = model<T>(of);
    const auto to = point_gradients<T>(d_kernels, whole.kernels);
    cuda::mean_field_backward(whole, at<const T>(saved), at<const T>(d_refined), at<T>(d_logits),
                              at<T>(d_coupling), to.data(), at<void>(workspace), stream(on));
  });
}

// Return the view of a batch of densecrf_rnn/engines/gibbs.py for a Gibbs sweep.
cuda::GibbsBatch gibbs_batch(const py::object& of) {
  cuda::GibbsBatch out;
  DCRF_READ(of, out, images, height, width, logits, labels, padded_size, padded_first,
            padded_stride);
  DCRF_READ(of, out, colours, step, first, seed, chain, first_sweep, sweeps, inverse_temperature);
  DCRF_READ(of, out, marginals, changes);
  const py::object edges = DCRF_FIELD(of, neighbours).value;
  DCRF_READ(edges, out.neighbours, classes, labels, rows, step);
  out.neighbours.width = out.neighbours.labels;
  return out;
}

std::size_t gibbs_workspace(const py::object& of) { return cuda::gibbs_workspace(gibbs_batch(of)); }

void gibbs_sweep(const py::object& batch, Address workspace, const py::object& on) {
  const cuda::GibbsBatch of = gibbs_batch(batch);
  const cuda::Stream queue = stream(on);
  const bindings::Released released;  // the serial launcher runs the program in this thread
  cuda::gibbs_sweep(of, at<void>(workspace), queue);
}

}  // namespace

PYBIND11_MODULE(DCRF_MODULE, m) {
  m.doc() = "Whole batches on one device; use densecrf_rnn.CRFRNN instead.";
  m.attr("compiler") = DCRF_COMPILER;
  m.attr("architectures") = DCRF_ARCHITECTURES;
  m.attr("limits") = bindings::limits();
  // module_local, since _cuda and _serial may both be loaded.
  py::class_<cuda::Device>(m, "Device", py::module_local())
      .def_readonly("name", &cuda::Device::name)
      .def_readonly("capability", &cuda::Device::capability)
      .def_readonly("memory", &cuda::Device::memory);
  m.def("devices", &cuda::devices,
        "Return the usable devices; raise RuntimeError if there is none.");
  m.def("driver", &cuda::driver,
        "Return the CUDA version that the driver supports, or why there is none.");
  py::class_<dcrf::KeyLayout>(m, "KeyLayout", py::module_local())
      .def_readonly("words", &dcrf::KeyLayout::words)
      .def("covers", &dcrf::KeyLayout::covers, py::arg("other"));
  const py::arg wide("wide"), layout("layout"), features("features"), count("count"), keys("keys"),
      out("out"), stream("stream"), lattice("lattice"), images("images"), channels("channels"),
      values("values"), cotangent("cotangent"), transpose("transpose"), workspace("workspace"),
      storage("storage"), model("model"), saved("saved"), d_kernels("d_kernels"), batch("batch"),
      d_weight("d_weight"), vertices("vertices");
  m.def("key_layout", &key_layout, wide, py::arg("minimum"), py::arg("maximum"), images);
  m.def("locate", &locate, wide, features, layout, py::arg("weight"), keys, stream);
  m.def("scratch_size", &cuda::scratch_size, count);
  m.def("number_keys", &number_keys, layout, count, keys, py::arg("order"), py::arg("number"),
        py::arg("scratch"), stream);
  m.def("distinct_keys", &distinct_keys, layout, py::arg("sorted"), out, stream);
  m.def("surround", &surround, layout, count, keys, out, stream);
  m.def("links_size", &cuda::Links::size, vertices, py::arg("entries"), py::arg("corners"));
  m.def("link", &link_vertices, layout, py::arg("sorted"), py::arg("touched_keys"), vertices, keys,
        py::arg("inside"), py::arg("vertex"), py::arg("links"), py::arg("room"), stream);
  m.def("feature_gradient", &feature_gradient, wide, features, d_weight, out, stream);
  m.def("filter_workspace", &filter_workspace, wide, lattice, images, channels, py::arg("filters"));
  m.def("filter", &filter, wide, lattice, images, channels, values, transpose, out, workspace,
        stream);
  m.def("filter_weight_gradient", &filter_weight_gradient, wide, lattice, images, channels, values,
        cotangent, transpose, out, workspace, stream);
  m.def("self_response", &self_response, wide, lattice, cotangent, out, stream);
  m.def("mean_field_workspace", &mean_field_workspace, wide, storage, model, py::arg("saves"));
  m.def("mean_field", &mean_field, wide, storage, model, py::arg("logits"), py::arg("refined"),
        saved, workspace, stream);
  m.def("backward_workspace", &backward_workspace, wide, model, d_kernels);
  m.def("mean_field_backward", &mean_field_backward, wide, model, saved, py::arg("d_refined"),
        py::arg("d_logits"), py::arg("d_coupling"), d_kernels, workspace, stream);
  m.def("gibbs_workspace", &gibbs_workspace, batch);
  m.def("gibbs_sweep", &gibbs_sweep, batch, workspace, stream);
}
