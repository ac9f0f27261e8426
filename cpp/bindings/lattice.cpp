// Binds the lattice functions of cpp/cpu/lattice.hpp: build, filter, diagonal and their gradients.
#include "lattice.hpp"

#include <algorithm>
#include <limits>
#include <vector>

namespace bindings {
namespace {

// Return the view of features [N, d], which may have any strides.
template <typename T>
dcrf::FeatureView<T> feature_view(const Named& features) {
  features.require(py::isinstance<py::array_t<T>>(features.value), "of one dtype");
  const auto array = py::reinterpret_borrow<py::array_t<T>>(features.value);
  features.require(array.ndim() == 2, "[N, d]");
  dcrf::FeatureView<T> out;
  out.data = array.data();
  out.points = array.shape(0);
  out.dims = int(array.shape(1));
  features.require(out.dims >= 1 && out.dims <= dcrf::kMaxDims, "[N, d], d from 1 to MAX_DIMS");
  features.require((out.points * (out.dims + 1)) >> dcrf::kIndexBits == 0,
                   "[N, d] with N (d+1) below 2^INDEX_BITS");
  const auto item = std::int64_t(sizeof(T));
  features.require(array.strides(0) % item == 0 && array.strides(1) % item == 0, "aligned");
  out.point_stride = array.strides(0) / item;
  out.feature_stride = array.strides(1) / item;
  return out;
}

dcrf::Quality quality_of(const std::string& name) {
  if (name == "standard") return dcrf::Quality::kStandard;
  if (name == "symmetric") return dcrf::Quality::kSymmetric;
  if (name == "filled") return dcrf::Quality::kFilled;
  throw std::invalid_argument("native code: there is no lattice quality '" + name + "'");
}

// Inputs and outputs for building one lattice.
template <typename T>
struct BuildJob {
  dcrf::FeatureView<T> features;
  std::int32_t* vertex;
  T* weight;
  std::int32_t* links;
  bool good = true;
};

bool build(const std::vector<py::object>& features, const std::vector<py::object>& plans,
           const std::string& quality, int threads) {
  const dcrf::Quality wanted = quality_of(quality);
  if (features.size() != plans.size())
    throw std::invalid_argument("native code: there must be as many plans as features");
  if (plans.empty()) return true;
  return with_dtype({features[0], "features"}, [&](auto zero) {
    using T = decltype(zero);
    std::vector<BuildJob<T>> jobs;
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const auto view = feature_view<T>({features[i], "features"});
      const std::int64_t n = view.points, corners = view.dims + 1;
      jobs.push_back({view, room<std::int32_t>(DCRF_FIELD(plans[i], vertex), {n, corners}),
                      room<T>(DCRF_FIELD(plans[i], weight), {n, corners}),
                      room<std::int32_t>(DCRF_FIELD(plans[i], links),
                                         {dcrf::links_size(n, view.dims, wanted)})});
    }
    const Unlocked unlocked;
    dcrf::parallel_items(jobs.size(), threads, [&](std::size_t i, int inner) {
      BuildJob<T>& job = jobs[i];
      job.good = dcrf::build(job.features, wanted, job.vertex, job.weight, job.links, inner);
    });
    return std::all_of(jobs.begin(), jobs.end(), [](const BuildJob<T>& job) { return job.good; });
  });
}

// Return the links of a plan with weights of either dtype.
dcrf::Links links_of(const py::object& plan) {
  return with_dtype(DCRF_FIELD(plan, weight), [&](auto zero) {
    const auto lattice = lattice_view<decltype(zero)>(plan);
    return dcrf::Links(lattice.links, lattice.dims);
  });
}

std::int64_t num_vertices(const py::object& plan) { return links_of(plan).vertices; }
std::int64_t links_used(const py::object& plan) { return links_of(plan).used; }
std::int64_t links_size(std::int64_t points, int dims, const std::string& quality) {
  return dcrf::links_size(points, dims, quality_of(quality));
}

// Return the number C of the channels of values [N, C].
int channels_of(const Named& values) {
  const std::int64_t channels = length(values, 1);
  values.require(channels <= std::numeric_limits<int>::max(), "[N, C] with C below 2^31");
  return int(channels);
}

void filter(const py::object& plan, const py::object& values, const py::object& out, bool transpose,
            int threads) {
  with_dtype(DCRF_ARGUMENT(values), [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(plan);
    const std::int64_t n = lattice.points;
    const int channels = channels_of(DCRF_ARGUMENT(values));
    const T* const from = data<T>(DCRF_ARGUMENT(values), {n, channels});
    T* const to = room<T>(DCRF_ARGUMENT(out), {n, channels});
    const Unlocked unlocked;
    dcrf::filter(lattice, from, channels, transpose, to, threads);
  });
}

void filter_weight_gradient(const py::object& plan, const py::object& values,
                            const py::object& cotangent, bool transpose, const py::object& out,
                            int threads) {
  with_dtype(DCRF_ARGUMENT(values), [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(plan);
    const std::int64_t n = lattice.points;
    const int channels = channels_of(DCRF_ARGUMENT(values));
    const T* const x = data<T>(DCRF_ARGUMENT(values), {n, channels});
    const T* const g = data<T>(DCRF_ARGUMENT(cotangent), {n, channels});
    T* const to = room<T>(DCRF_ARGUMENT(out), {n, lattice.dims + 1});
    const Unlocked unlocked;
    dcrf::filter_weight_gradient(lattice, x, g, channels, transpose, to, threads);
  });
}

void feature_gradient(const py::object& features, const py::object& d_weight, const py::object& out,
                      int threads) {
  with_dtype(DCRF_ARGUMENT(features), [&](auto zero) {
    using T = decltype(zero);
    const auto view = feature_view<T>(DCRF_ARGUMENT(features));
    const T* const from = data<T>(DCRF_ARGUMENT(d_weight), {view.points, view.dims + 1});
    T* const to = room<T>(DCRF_ARGUMENT(out), {view.points, view.dims});
    const Unlocked unlocked;
    dcrf::feature_gradient(view, from, to, threads);
  });
}

void self_response(const py::object& plan, const py::object& out, int threads) {
  with_dtype(DCRF_ARGUMENT(out), [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(plan);
    T* const to = room<T>(DCRF_ARGUMENT(out), {lattice.points});
    const Unlocked unlocked;
    dcrf::self_response(lattice, to, threads);
  });
}

void self_response_gradient(const py::object& plan, const py::object& cotangent,
                            const py::object& out, int threads) {
  with_dtype(DCRF_ARGUMENT(out), [&](auto zero) {
    using T = decltype(zero);
    const auto lattice = lattice_view<T>(plan);
    const T* const from = data<T>(DCRF_ARGUMENT(cotangent), {lattice.points});
    T* const to = room<T>(DCRF_ARGUMENT(out), {lattice.points, lattice.dims + 1});
    const Unlocked unlocked;
    dcrf::self_response_gradient(lattice, from, to, threads);
  });
}

}  // namespace

void bind_lattice(py::module_& m) {
  const py::arg plan("plan"), values("values"), cotangent("cotangent"), out("out"),
      transpose("transpose"), threads("threads"), features("features");
  m.def("row_width", &dcrf::row_width, py::arg("labels"));
  m.def("links_size", &links_size, py::arg("points"), py::arg("dims"), py::arg("quality"));
  m.def("build", &build, features, py::arg("plans"), py::arg("quality"), threads);
  m.def("num_vertices", &num_vertices, plan);
  m.def("links_used", &links_used, plan);
  m.def("filter", &filter, plan, values, out, transpose, threads);
  m.def("filter_weight_gradient", &filter_weight_gradient, plan, values, cotangent, transpose, out,
        threads);
  m.def("feature_gradient", &feature_gradient, features, py::arg("d_weight"), out, threads);
  m.def("self_response", &self_response, plan, out, threads);
  m.def("self_response_gradient", &self_response_gradient, plan, cotangent, out, threads);
}

}  // namespace bindings
