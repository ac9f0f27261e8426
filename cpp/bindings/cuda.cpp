// The Python modules densecrf_rnn._cuda and, from the same source, densecrf_rnn._serial (the serial
// launcher). Memory comes as addresses and sizes, the stream as a number, so nothing here depends
// on a version of torch. Types, devices and sizes are the business of densecrf_rnn/nn/device.py,
// its only caller. Typed in densecrf_rnn/_cuda.pyi.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../cuda/devices.hpp"
#include "../cuda/engine.hpp"

namespace py = pybind11;
namespace cuda = dcrf::cuda;

namespace {

using Address = std::uintptr_t;
using StreamTuple = std::tuple<int, Address>;  // device, handle
using SortedTuple = std::tuple<std::int64_t, std::int64_t, Address, Address, Address>;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}
template <typename T>
T* at(const py::handle& address) {
  return at<T>(address.cast<Address>());
}

cuda::Stream stream(const StreamTuple& t) { return {std::get<0>(t), at<void>(std::get<1>(t))}; }

// Calls body(T()): double if `wide`, else float.
template <class Body>
auto with_type(bool wide, const Body& body) {
  return wide ? body(double()) : body(float());
}

// Calls body(S(), T()): T as above, S what values are kept in: "full", or for float of 16 bits.
template <class Body>
auto with_storage(bool wide, const std::string& storage, const Body& body) {
  if (storage == "full") return with_type(wide, [&](auto zero) { return body(zero, zero); });
  if (wide) throw std::invalid_argument("_cuda: float64 is kept in full");
  if (storage == "float16") return body(cuda::Half(), float());
  if (storage == "bfloat16") return body(cuda::Bfloat16(), float());
  throw std::invalid_argument("_cuda: unknown storage");
}

std::optional<dcrf::KeyLayout> key_layout(bool wide, const std::vector<double>& least,
                                          const std::vector<double>& greatest,
                                          std::int64_t images) {
  const int d = int(least.size());
  std::int32_t low[dcrf::kMaxDims], high[dcrf::kMaxDims];
  const bool fits = with_type(wide, [&](auto zero) {
    return dcrf::quotient_range<decltype(zero)>(least.data(), greatest.data(), d, low, high);
  });
  if (!fits) return std::nullopt;
  const dcrf::KeyLayout layout(d, low, high, images);
  if (layout.words > dcrf::kMaxKeyWords) return std::nullopt;
  return layout;
}

template <typename T>
cuda::FeatureView<T> features(const py::tuple& t) {
  cuda::FeatureView<T> out;
  out.data = at<const T>(t[0]);
  std::tie(out.image_stride, out.point_stride, out.feature_stride) =
      t[1].cast<std::tuple<std::int64_t, std::int64_t, std::int64_t>>();
  std::int64_t dims;
  std::tie(out.images, out.points, dims) =
      t[2].cast<std::tuple<std::int64_t, std::int64_t, std::int64_t>>();
  out.dims = int(dims);
  return out;
}

void locate(bool wide, const py::tuple& from, const dcrf::KeyLayout& layout, Address weight,
            Address keys, const StreamTuple& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::locate_corners(features<T>(from), layout, at<T>(weight), at<std::uint64_t>(keys),
                         stream(on));
  });
}

std::int64_t number_keys(const dcrf::KeyLayout& layout, std::int64_t count, Address keys,
                         Address order, Address number, Address scratch, const StreamTuple& on) {
  const py::gil_scoped_release released;  // it waits for the device
  return cuda::number_keys(layout, count, at<std::uint64_t>(keys), at<std::int32_t>(order),
                           at<std::int32_t>(number), at<void>(scratch), stream(on));
}

cuda::Sorted sorted(const SortedTuple& t) {
  return {std::get<0>(t), std::get<1>(t), at<std::uint64_t>(std::get<2>(t)),
          at<std::int32_t>(std::get<3>(t)), at<std::int32_t>(std::get<4>(t))};
}

void link_vertices(const dcrf::KeyLayout& layout, const SortedTuple& corners, Address touched_keys,
                   std::int64_t vertices, Address keys, Address vertex, Address links,
                   const py::tuple& room, const StreamTuple& on) {
  cuda::LinkRoom parts;
  parts.vertex_of = at<std::int32_t>(room[0]);
  parts.begins = at<std::int32_t>(room[1]);
  parts.chunk_count = at<std::int32_t>(room[2]);
  parts.chunks_before = at<std::int32_t>(room[3]);
  parts.scratch = at<void>(room[4]);
  cuda::link_vertices(layout, sorted(corners), at<std::uint64_t>(touched_keys), vertices,
                      at<std::uint64_t>(keys), at<std::int32_t>(vertex), at<std::int32_t>(links),
                      parts, stream(on));
}

void feature_gradient(bool wide, const py::tuple& from, Address d_weight, Address out,
                      const StreamTuple& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::feature_gradient(features<T>(from), at<const T>(d_weight), at<T>(out), stream(on));
  });
}

// (images, points, dims, vertex, weight, links, length of links)
template <typename T>
cuda::LatticeView<T> lattice(const py::tuple& t) {
  cuda::LatticeView<T> out;
  out.images = t[0].cast<std::int64_t>();
  const auto points = t[1].cast<std::int64_t>();
  out.dims = t[2].cast<int>();
  out.vertex = at<const std::int32_t>(t[3]);
  out.weight = at<const T>(t[4]);
  const int corners = out.dims + 1;
  const auto length = t[6].cast<std::int64_t>();
  out.links =
      cuda::Links(at<const std::int32_t>(t[5]), length, out.images * points * corners, corners);
  out.symmetric = cuda::Links::quality(length, out.links.entries, corners) != 0;
  return out;
}

cuda::Shape shape(std::int64_t images, std::int64_t points, int channels, int width) {
  cuda::Shape out;
  out.images = images;
  out.points = points;
  out.channels = channels;
  out.width = width;
  return out;
}

cuda::Shape value_shape(const py::tuple& lattice, std::int64_t images, int channels) {
  return shape(images, lattice[1].cast<std::int64_t>(), channels, channels);
}

std::size_t filter_workspace(bool wide, const py::tuple& of, std::int64_t images, int channels,
                             int filters) {
  return with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    return cuda::filter_workspace(lattice<T>(of), value_shape(of, images, channels), filters);
  });
}

void filter(bool wide, const py::tuple& of, std::int64_t images, int channels, Address values,
            bool transpose, Address out, Address workspace, const StreamTuple& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::filter(lattice<T>(of), value_shape(of, images, channels), at<const T>(values), transpose,
                 at<T>(out), at<void>(workspace), stream(on));
  });
}

void filter_weight_gradient(bool wide, const py::tuple& of, std::int64_t images, int channels,
                            Address values, Address cotangent, bool transpose, Address out,
                            Address workspace, const StreamTuple& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::filter_weight_gradient(lattice<T>(of), value_shape(of, images, channels),
                                 at<const T>(values), at<const T>(cotangent), transpose, at<T>(out),
                                 at<void>(workspace), stream(on));
  });
}

void self_response(bool wide, const py::tuple& of, Address cotangent, Address out,
                   const StreamTuple& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    const auto view = lattice<T>(of);
    cuda::self_response(view, view.images * of[1].cast<std::int64_t>(), at<const T>(cotangent),
                        at<T>(out), stream(on));
  });
}

// One axis: (size, cells, radius, cell, first, splat, slice, band)
template <typename T>
cuda::GridView<T> grid(const std::vector<py::tuple>& axes) {
  cuda::GridView<T> out;
  out.axes = int(axes.size());
  for (int a = 0; a < out.axes; ++a) {
    const py::tuple& t = axes[a];
    out.size[a] = t[0].cast<std::int64_t>();
    out.cells[a] = t[1].cast<std::int64_t>();
    out.radius[a] = t[2].cast<int>();
    out.cell[a] = at<const std::int32_t>(t[3]);
    out.first[a] = at<const std::int32_t>(t[4]);
    out.splat[a] = at<const T>(t[5]);
    out.slice[a] = at<const T>(t[6]);
    out.band[a] = at<const T>(t[7]);
  }
  return out;
}

// (images, points, labels, width, iterations, coupling, kernels); a kernel is (lattice or None,
// axes, before, after, diagonal, whether a grid's scales are those of each image).
template <typename T>
cuda::Model<T> model(const py::tuple& t) {
  cuda::Model<T> out;
  out.shape = shape(t[0].cast<std::int64_t>(), t[1].cast<std::int64_t>(), t[2].cast<int>(),
                    t[3].cast<int>());
  out.iterations = t[4].cast<int>();
  out.coupling = at<const T>(t[5]);
  const auto kernels = t[6].cast<std::vector<py::tuple>>();
  if (kernels.empty() || kernels.size() > std::size_t(dcrf::kMaxKernels))
    throw std::invalid_argument("_cuda: there must be 1 to 6 kernels");
  out.kernels = int(kernels.size());
  for (int m = 0; m < out.kernels; ++m) {
    const py::tuple& k = kernels[m];
    cuda::KernelView<T>& view = out.kernel[m];
    if (k[0].is_none()) {
      view.grid = grid<T>(k[1].cast<std::vector<py::tuple>>());
    } else {
      view.lattice = lattice<T>(k[0].cast<py::tuple>());
    }
    view.before = at<const T>(k[2]);
    view.after = at<const T>(k[3]);
    view.diagonal = at<const T>(k[4]);
    view.grid_scales_per_image = k[5].cast<bool>();
  }
  return out;
}

std::size_t mean_field_workspace(bool wide, const std::string& storage, const py::tuple& of,
                                 bool saves) {
  return with_storage(wide, storage, [&](auto kept, auto zero) {
    return cuda::mean_field_workspace<decltype(kept)>(model<decltype(zero)>(of), saves);
  });
}

void mean_field(bool wide, const std::string& storage, const py::tuple& of, Address logits,
                Address refined, Address saved, Address workspace, const StreamTuple& on) {
  with_storage(wide, storage, [&](auto kept, auto zero) {
    using T = decltype(zero);
    cuda::mean_field<decltype(kept)>(model<T>(of), at<const T>(logits), at<T>(refined),
                                     at<T>(saved), at<void>(workspace), stream(on));
  });
}

using Wanted = std::vector<std::tuple<Address, Address, Address, Address>>;

template <typename T>
std::vector<cuda::PointGradient<T>> wanted(const Wanted& tuples) {
  std::vector<cuda::PointGradient<T>> out;
  for (const auto& [weight, before, after, diagonal] : tuples)
    out.push_back({at<T>(weight), at<T>(before), at<T>(after), at<T>(diagonal)});
  return out;
}

std::size_t backward_workspace(bool wide, const py::tuple& of, const Wanted& tuples) {
  return with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    return cuda::backward_workspace(model<T>(of), wanted<T>(tuples).data());
  });
}

void mean_field_backward(bool wide, const py::tuple& of, Address saved, Address d_refined,
                         Address d_logits, Address d_coupling, const Wanted& tuples,
                         Address workspace, const StreamTuple& on) {
  with_type(wide, [&](auto zero) {
    using T = decltype(zero);
    cuda::mean_field_backward(model<T>(of), at<const T>(saved), at<const T>(d_refined),
                              at<T>(d_logits), at<T>(d_coupling), wanted<T>(tuples).data(),
                              at<void>(workspace), stream(on));
  });
}

// (images, height, width, labels, (size, first, stride) of the margin, (colours, step, first),
// rows, steps, classes, logits, label addresses, seed, chains, first_sweep, sweeps,
// inverse_temperature, marginals or 0, changes)
cuda::GibbsBatch gibbs_batch(const py::tuple& t) {
  cuda::GibbsBatch out;
  out.images = t[0].cast<std::int64_t>();
  out.height = t[1].cast<std::int64_t>();
  out.width = t[2].cast<std::int64_t>();
  out.neighbours.labels = out.neighbours.width = t[3].cast<int>();
  std::tie(out.padded_size, out.padded_first, out.padded_stride) =
      t[4].cast<std::tuple<std::int64_t, std::int64_t, std::int64_t>>();
  const auto colouring = t[5].cast<std::tuple<int, int, Address>>();
  out.colours = std::get<0>(colouring);
  out.step = std::get<1>(colouring);
  out.first = at<const std::int32_t>(std::get<2>(colouring));
  out.neighbours.rows = at<const float>(t[6]);
  out.neighbours.step = at<const std::int64_t>(t[7]);
  out.neighbours.classes = t[8].cast<int>();
  out.logits = at<const float>(t[9]);
  out.labels = at<std::int32_t>(t[10]);
  out.seed = t[11].cast<std::uint64_t>();
  out.chain = at<const std::uint64_t>(t[12]);
  out.first_sweep = at<const std::uint64_t>(t[13]);
  out.sweeps = t[14].cast<int>();
  out.inverse_temperature = at<const float>(t[15]);
  out.marginals = at<double>(t[16]);
  out.changes = at<std::int64_t>(t[17]);
  return out;
}

std::size_t gibbs_workspace(const py::tuple& batch) {
  return cuda::gibbs_workspace(gibbs_batch(batch));
}

void gibbs_sweep(const py::tuple& batch, Address workspace, const StreamTuple& on) {
  const cuda::GibbsBatch of = gibbs_batch(batch);
  const py::gil_scoped_release released;  // the serial launcher computes here
  cuda::gibbs_sweep(of, at<void>(workspace), stream(on));
}

}  // namespace

PYBIND11_MODULE(DCRF_MODULE, m) {
  m.doc() = "Whole batches on one device; use densecrf_rnn.CRFRNN instead.";
  m.attr("compiler") = DCRF_COMPILER;
  m.attr("architectures") = DCRF_ARCHITECTURES;
  m.def("devices", &cuda::devices, "What each device is; raises RuntimeError where there is none.");
  m.def("driver", &cuda::driver,
        "The CUDA version that the driver supports, or why there is none.");

  py::class_<dcrf::KeyLayout>(m, "KeyLayout", py::module_local())  // both may be loaded
      .def_readonly("words", &dcrf::KeyLayout::words);
  m.def("key_layout", &key_layout, py::arg("wide"), py::arg("least"), py::arg("greatest"),
        py::arg("images"));
  m.def("locate", &locate, py::arg("wide"), py::arg("features"), py::arg("layout"),
        py::arg("weight"), py::arg("keys"), py::arg("stream"));
  m.def("scratch_size", &cuda::scratch_size, py::arg("count"));
  m.def("number_keys", &number_keys, py::arg("layout"), py::arg("count"), py::arg("keys"),
        py::arg("order"), py::arg("number"), py::arg("scratch"), py::arg("stream"));
  m.def(
      "distinct_keys",
      [](const dcrf::KeyLayout& layout, const SortedTuple& from, Address out,
         const StreamTuple& on) {
        cuda::distinct_keys(layout, sorted(from), at<std::uint64_t>(out), stream(on));
      },
      py::arg("layout"), py::arg("sorted"), py::arg("out"), py::arg("stream"));
  m.def(
      "surround",
      [](const dcrf::KeyLayout& layout, std::int64_t count, Address keys, Address out,
         const StreamTuple& on) {
        cuda::surround(layout, count, at<std::uint64_t>(keys), at<std::uint64_t>(out), stream(on));
      },
      py::arg("layout"), py::arg("count"), py::arg("keys"), py::arg("out"), py::arg("stream"));
  m.def(
      "links_size",
      [](std::int64_t vertices, std::int64_t entries, int corners, int quality) {
        return cuda::Links::size(vertices, entries, corners) + quality;
      },
      py::arg("vertices"), py::arg("entries"), py::arg("corners"), py::arg("quality"));
  m.def("link", &link_vertices, py::arg("layout"), py::arg("sorted"), py::arg("touched_keys"),
        py::arg("vertices"), py::arg("keys"), py::arg("vertex"), py::arg("links"), py::arg("room"),
        py::arg("stream"));
  m.def("feature_gradient", &feature_gradient, py::arg("wide"), py::arg("features"),
        py::arg("d_weight"), py::arg("out"), py::arg("stream"));
  m.def("filter_workspace", &filter_workspace, py::arg("wide"), py::arg("lattice"),
        py::arg("images"), py::arg("channels"), py::arg("filters"));
  m.def("filter", &filter, py::arg("wide"), py::arg("lattice"), py::arg("images"),
        py::arg("channels"), py::arg("values"), py::arg("transpose"), py::arg("out"),
        py::arg("workspace"), py::arg("stream"));
  m.def("filter_weight_gradient", &filter_weight_gradient, py::arg("wide"), py::arg("lattice"),
        py::arg("images"), py::arg("channels"), py::arg("values"), py::arg("cotangent"),
        py::arg("transpose"), py::arg("out"), py::arg("workspace"), py::arg("stream"));
  m.def("self_response", &self_response, py::arg("wide"), py::arg("lattice"), py::arg("cotangent"),
        py::arg("out"), py::arg("stream"));
  m.def("mean_field_workspace", &mean_field_workspace, py::arg("wide"), py::arg("storage"),
        py::arg("model"), py::arg("saves"));
  m.def("mean_field", &mean_field, py::arg("wide"), py::arg("storage"), py::arg("model"),
        py::arg("logits"), py::arg("refined"), py::arg("saved"), py::arg("workspace"),
        py::arg("stream"));
  m.def("backward_workspace", &backward_workspace, py::arg("wide"), py::arg("model"),
        py::arg("wanted"));
  m.def("mean_field_backward", &mean_field_backward, py::arg("wide"), py::arg("model"),
        py::arg("saved"), py::arg("d_refined"), py::arg("d_logits"), py::arg("d_coupling"),
        py::arg("wanted"), py::arg("workspace"), py::arg("stream"));
  m.def("gibbs_workspace", &gibbs_workspace, py::arg("batch"));
  m.def("gibbs_sweep", &gibbs_sweep, py::arg("batch"), py::arg("workspace"), py::arg("stream"));
}
