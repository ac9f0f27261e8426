// Test problems for the CUDA programs, on the serial launcher or a GPU, and the same problems for
// the CPU engine.
#pragma once

#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <tuple>

#include "../cuda/engine.hpp"
#include "child.hpp"
#include "device_memory.hpp"
#include "problems.hpp"

namespace tests {

namespace gpu = dcrf::cuda;  // `cuda` is also a namespace of the CUDA headers

// Set the number of groups of lanes. It has no effect on a GPU, where tests that loop over it
// repeat the same run instead.
inline void set_threads(int count) {
  set_variable("DENSECRF_RNN_SERIAL_THREADS", std::to_string(count));
}

// Set the number of threads that share one row, likewise.
inline void set_lanes(int count) {
  set_variable("DENSECRF_RNN_SERIAL_LANES", std::to_string(count));
}

// Return whether all elements agree within tolerance * max(1, max |wanted|). NaN never agrees.
template <typename T>
bool near(const std::vector<T>& found, const std::vector<T>& wanted, double tolerance) {
  double most = 1;
  for (const T x : wanted) most = std::max(most, std::abs(double(x)));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(double(found[i]) - double(wanted[i])) <= tolerance * most)) return false;
  }
  return found.size() == wanted.size();
}

// Return whether the arrays are bit-identical, NaN included.
template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Return part `part` of an array of `parts` equal parts.
template <typename T>
std::vector<T> slice(const std::vector<T>& all, std::int64_t part, std::int64_t parts) {
  const std::int64_t length = std::int64_t(all.size()) / parts;
  return std::vector<T>(all.begin() + part * length, all.begin() + (part + 1) * length);
}

// Lattices of a batch of images, built with the calls that nn/ops/device_build.py makes.
template <typename T>
struct DeviceLattice {
  std::int64_t images, points, vertices;
  int words;
  std::vector<std::int32_t> vertex, links;  // copies of the results for the host
  std::vector<T> weight;
  gpu::FeatureView<T> features;
  gpu::LatticeView<T> view;

  // `from` holds the features [images, N, d] and `inside` [images, N], unless it is empty, 0 for
  // points that are masked out.
  DeviceLattice(const std::vector<T>& from, std::int64_t image_count, int dims,
                dcrf::Quality quality, const std::vector<unsigned char>& inside = {})
      : images(image_count), points(std::int64_t(from.size()) / dims / images) {
    const int corners = dims + 1;
    const std::int64_t entries = images * points * corners;
    given = put(from);
    mask = put(inside);
    features = {given.data(), points * dims, dims, 1, images, points, dims};
    if (!inside.empty()) features.inside = reinterpret_cast<const bool*>(mask.data());
    const dcrf::KeyLayout layout = key_layout(from, dims, images + !inside.empty());
    words = layout.words;
    vertex_of_corner = unwritten<std::int32_t>(entries);
    weight_of_corner = unwritten<T>(entries);
    auto keys = unwritten<std::uint64_t>(words * entries);
    gpu::locate_corners(features, layout, weight_of_corner.data(), keys.data(), kStream);
    const Numbered touched(layout, entries, keys);
    std::optional<Numbered> all;
    const Array<std::uint64_t>* distinct = &touched.distinct;
    vertices = touched.sorted.distinct;
    if (quality == dcrf::Quality::kFilled) {
      const std::int64_t around = vertices * (2 * corners + 1);
      keys_around = unwritten<std::uint64_t>(words * around);
      gpu::surround(layout, vertices, touched.distinct.data(), keys_around.data(), kStream);
      all.emplace(layout, around, keys_around);
      distinct = &all->distinct;
      vertices = all->sorted.distinct;
    }
    link_array = unwritten<std::int32_t>(gpu::Links::size(vertices, entries, corners));
    auto vertex_of = unwritten<std::int32_t>(touched.sorted.distinct);
    auto chunks_before = unwritten<std::int32_t>(vertices);
    const std::vector<std::int32_t> zeros(vertices, 0);
    auto begins = put(zeros), chunk_count = put(zeros);
    auto scratch = unwritten<char>(gpu::scratch_size(vertices));
    const gpu::LinkRoom room{vertex_of.data(), begins.data(), chunk_count.data(),
                              chunks_before.data(), scratch.data()};
    gpu::link_vertices(layout, touched.sorted, all ? touched.distinct.data() : nullptr, vertices,
                        distinct->data(), features.inside, vertex_of_corner.data(),
                        link_array.data(), room, kStream);
    view.dims = dims;
    view.symmetric = quality != dcrf::Quality::kStandard;
    view.images = images;
    view.vertex = vertex_of_corner.data();
    view.weight = weight_of_corner.data();
    view.links = gpu::Links(link_array.data(), vertices, entries);
    vertex = get(vertex_of_corner);
    weight = get(weight_of_corner);
    links = get(link_array);
  }
  DeviceLattice(const DeviceLattice&) = delete;

  // Return the links as the host can read them.
  gpu::Links host_links() const { return {links.data(), vertices, view.links.entries}; }

  gpu::Shape shape(std::int64_t batch, int channels) const {
    gpu::Shape out;
    out.points = points;
    out.images = batch;
    out.channels = out.width = channels;
    return out;
  }
  std::vector<T> filter(const std::vector<T>& values, int channels, bool transpose) const {
    const auto batch = std::int64_t(values.size()) / channels / points;
    auto out = unwritten<T>(values.size());
    auto room = unwritten<char>(gpu::filter_workspace(view, shape(batch, channels), 1));
    const auto from = put(values);
    gpu::filter(view, shape(batch, channels), from.data(), transpose, out.data(), room.data(),
                 kStream);
    return get(out);
  }
  std::vector<T> weight_gradient(const std::vector<T>& values, const std::vector<T>& cotangent,
                                 int channels, bool transpose) const {
    const auto batch = std::int64_t(values.size()) / channels / points;
    auto out = unwritten<T>(batch * points * (view.dims + 1));
    auto room = unwritten<char>(gpu::filter_workspace(view, shape(batch, channels), 2));
    const auto from = put(values), returned = put(cotangent);
    gpu::filter_weight_gradient(view, shape(batch, channels), from.data(), returned.data(),
                                 transpose, out.data(), room.data(), kStream);
    return get(out);
  }
  // Return the diagonal of K or, if `cotangent` is not empty, the gradient with respect to the
  // weights.
  std::vector<T> self_response(const std::vector<T>& cotangent) const {
    auto out = unwritten<T>(images * points * (cotangent.empty() ? 1 : view.dims + 1));
    const auto returned = put(cotangent);
    gpu::self_response(view, images * points, cotangent.empty() ? nullptr : returned.data(),
                        out.data(), kStream);
    return get(out);
  }
  std::vector<T> feature_gradient(const std::vector<T>& d_weight) const {
    auto out = unwritten<T>(images * points * view.dims);
    const auto returned = put(d_weight);
    gpu::feature_gradient(features, returned.data(), out.data(), kStream);
    return get(out);
  }

 private:
  struct Numbered {
    Numbered(const dcrf::KeyLayout& layout, std::int64_t count,
             const Array<std::uint64_t>& keys)
        : order(unwritten<std::int32_t>(count)), number(unwritten<std::int32_t>(count)) {
      auto scratch = unwritten<char>(gpu::scratch_size(count));
      gpu::number_keys(layout, count, keys.data(), order.data(), number.data(), scratch.data(),
                       kStream);
      const std::int64_t found = count == 0 ? 0 : get(number).back();
      sorted = {count, found, keys.data(), order.data(), number.data()};
      distinct = unwritten<std::uint64_t>(layout.words * found);
      gpu::distinct_keys(layout, sorted, distinct.data(), kStream);
    }
    Array<std::int32_t> order, number;
    Array<std::uint64_t> distinct;
    gpu::Sorted sorted;
  };
  Array<T> given, weight_of_corner;
  Array<unsigned char> mask;
  Array<std::int32_t> vertex_of_corner, link_array;
  Array<std::uint64_t> keys_around;

  dcrf::KeyLayout key_layout(const std::vector<T>& from, int dims, std::int64_t count) const {
    std::vector<double> least(from.begin(), from.begin() + dims), greatest = least;
    for (std::size_t i = 0; i < from.size(); ++i) {
      least[i % dims] = std::min(least[i % dims], double(from[i]));
      greatest[i % dims] = std::max(greatest[i % dims], double(from[i]));
    }
    std::int32_t low[dcrf::kMaxDims] = {}, high[dcrf::kMaxDims] = {};
    CHECK(dcrf::quotient_range<T>(least.data(), greatest.data(), dims, low, high));
    return dcrf::KeyLayout(dims, low, high, count);
  }
};

// The grid of a CPU test problem as a view for the CUDA programs.
template <typename T>
struct DeviceGrid {
  Array<std::int32_t> cell[3], first[3];
  Array<T> splat[3], slice[3], band[3];
  gpu::GridView<T> view;

  explicit DeviceGrid(const Grid<T>& grid) {
    const int skipped = grid.view.taps[0] == 1 ? 1 : 0;
    view.axes = 3 - skipped;
    for (int a = 0; a < view.axes; ++a) {
      const int from = a + skipped;
      view.size[a] = grid.view.size[from];
      view.cells[a] = grid.view.cells[from];
      view.radius[a] = grid.view.radius[from];
      const auto& cells = grid.cell[from];
      std::vector<std::int32_t> smaller;
      for (std::int64_t j = 0; j <= view.cells[a]; ++j) {
        smaller.push_back(
            std::int32_t(std::lower_bound(cells.begin(), cells.end(), j) - cells.begin()));
      }
      cell[a] = put(cells);
      first[a] = put(smaller);
      splat[a] = put(grid.splat[from]);
      slice[a] = put(grid.slice[from]);
      band[a] = put(grid.band[from]);
      view.cell[a] = cell[a].data();
      view.first[a] = first[a].data();
      view.splat[a] = splat[a].data();
      view.slice[a] = slice[a].data();
      view.band[a] = band[a].data();
    }
  }
  DeviceGrid(const DeviceGrid&) = delete;
};

// Results of the mean field of a batch, forward and backward.
template <typename T>
struct Outcome {
  struct OfKernel {
    std::vector<T> weight, before, after, diagonal;  // empty: not computed
  };
  std::vector<T> refined, saved, d_logits, d_coupling;
  std::vector<OfKernel> kernels;

  // Return the arrays whose first axis is the image.
  std::vector<std::vector<T>*> parts() {
    std::vector<std::vector<T>*> out{&refined, &d_logits};
    for (OfKernel& k : kernels)
      for (auto* part : {&k.weight, &k.before, &k.after, &k.diagonal}) out.push_back(part);
    return out;
  }
};

// A mean-field problem of a batch of images with the given kinds of kernels.
template <typename T>
struct Batch {
  struct Kind {
    int dims = 0;  // 0: a grid, otherwise a lattice
    double spread = 1;
    dcrf::Quality quality = dcrf::Quality::kStandard;
    bool shared = false;  // one lattice serves all images
    bool before = false, after = false, diagonal = false;
  };
  std::int64_t images, points;
  int depth, labels, iterations;
  std::vector<Kind> kinds;
  std::vector<std::unique_ptr<Scene<T>>> scenes;      // [images]
  std::vector<std::vector<std::vector<T>>> features;  // [kernels, images, N d]
  std::vector<T> d_refined;                           // [images, L, N]

  // Create images of 4 x 6 pixels or, if `depth_` is positive, volumes of depth_ x 3 x 4.
  Batch(std::int64_t images_, int depth_, int labels_, int iterations_, std::vector<Kind> kinds_)
      : images(images_),
        points(depth_ == 0 ? 24 : 12 * depth_),
        depth(depth_),
        labels(labels_),
        iterations(iterations_),
        kinds(std::move(kinds_)),
        features(kinds.size()),
        d_refined(random_numbers<T>(images * points * labels, 1.0, 5)) {
    for (std::int64_t b = 0; b < images; ++b) {
      scenes.push_back(std::make_unique<Scene<T>>(points, labels, iterations, unsigned(b)));
      for (std::size_t m = 0; m < kinds.size(); ++m) add(*scenes.back(), int(m), int(b));
    }
  }

  // Run the CUDA programs for the images [begin, end); the backward pass only if `saves`.
  Outcome<T> on_device(std::int64_t begin, std::int64_t end, bool saves) const {
    const std::int64_t count = end - begin;
    std::vector<std::unique_ptr<DeviceLattice<T>>> lattices;
    std::vector<std::unique_ptr<DeviceGrid<T>>> grids;
    std::deque<Array<T>> kept;  // arrays that views point to
    std::deque<std::pair<std::vector<T>*, Array<T>>> results;
    const auto keep = [&](const std::vector<T>& numbers) {
      kept.push_back(put(numbers));
      return numbers.empty() ? nullptr : kept.back().data();
    };
    // Return memory for `size` numbers that are copied to `to` in the end.
    const auto result = [&](std::vector<T>& to, std::int64_t size) {
      results.emplace_back(&to, unwritten<T>(size));
      return results.back().second.data();
    };
    gpu::Model<T> model;
    model.shape = {points, count, labels, dcrf::row_width(labels)};
    model.kernels = int(kinds.size());
    model.iterations = iterations;
    const std::vector<T>& coupling = scenes[0]->coupling;
    std::vector<T> columns(coupling.size());
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const std::size_t matrix = i / (labels * labels), at = i % (labels * labels);
      columns[i] = coupling[(matrix * labels + at % labels) * labels + at / labels];
    }
    model.coupling = keep(coupling);
    model.coupling_columns = keep(columns);
    Outcome<T> out;
    out.kernels.resize(kinds.size());
    std::vector<gpu::PointGradient<T>> wanted(kinds.size());
    for (std::size_t m = 0; m < kinds.size(); ++m) {
      const Kind& kind = kinds[m];
      const std::int64_t own = kind.dims == 0 || kind.shared ? 1 : count;
      gpu::KernelView<T>& view = model.kernel[m];
      const auto join = [&](auto part) {
        std::vector<T> all;
        for (std::int64_t b = begin; b < begin + own; ++b) {
          const std::vector<T>& one = part(b);
          all.insert(all.end(), one.begin(), one.end());
        }
        return all;
      };
      if (kind.dims == 0) {
        grids.push_back(std::make_unique<DeviceGrid<T>>(*scenes[begin]->kernels[m].grid));
        view.grid = grids.back()->view;
      } else {
        lattices.push_back(std::make_unique<DeviceLattice<T>>(
            join([&](std::int64_t b) { return features[m][b]; }), own, kind.dims, kind.quality));
        view.lattice = lattices.back()->view;
      }
      view.before = keep(join([&](std::int64_t b) { return scenes[b]->kernels[m].before; }));
      view.after = keep(join([&](std::int64_t b) { return scenes[b]->kernels[m].after; }));
      view.diagonal = keep(join([&](std::int64_t b) { return scenes[b]->kernels[m].diagonal; }));
      if (kind.dims == 0 || !saves) continue;
      const auto room = [&](std::vector<T>& to, bool is_wanted, int each) {
        return is_wanted ? result(to, count * points * each) : nullptr;
      };
      auto& to = out.kernels[m];
      wanted[m].weight = room(to.weight, true, kind.dims + 1);
      wanted[m].before = room(to.before, kind.before, 1);
      wanted[m].after = room(to.after, kind.after, 1);
      wanted[m].diagonal = room(to.diagonal, kind.diagonal, 1);
    }
    std::vector<T> logits;
    for (std::int64_t b = begin; b < end; ++b)
      logits.insert(logits.end(), scenes[b]->logits.begin(), scenes[b]->logits.end());
    const std::int64_t numbers = count * points * labels;
    T* const refined = result(out.refined, numbers);
    T* const saved =
        saves ? result(out.saved, iterations * count * points * model.shape.width) : nullptr;
    auto room = unwritten<char>(gpu::mean_field_workspace<T>(model, saves));
    gpu::mean_field<T>(model, keep(logits), refined, saved, room.data(), kStream);
    if (saves) {
      const auto first = d_refined.begin() + begin * points * labels;
      T* const d_logits = result(out.d_logits, numbers);
      T* const d_coupling = result(out.d_coupling, coupling.size());
      room = unwritten<char>(gpu::backward_workspace(model, wanted.data()));
      gpu::mean_field_backward(model, saved, keep(std::vector<T>(first, first + numbers)),
                                d_logits, d_coupling, wanted.data(), room.data(), kStream);
    }
    for (auto& [to, array] : results) *to = get(array);
    return out;
  }

  // Run the CPU engine for image `b`, forward and backward.
  Outcome<T> on_cpu(std::int64_t b) {
    Scene<T>& scene = *scenes[b];
    scene.keep();
    CHECK(scene.run(1));
    Outcome<T> out;
    out.kernels.resize(kinds.size());
    out.refined = scene.refined;
    out.d_logits.resize(points * labels);
    out.d_coupling.resize(scene.coupling.size());
    dcrf::ImageGradient<T> to{d_refined.data() + b * points * labels, out.d_logits.data(),
                              out.d_coupling.data(),
                              std::vector<dcrf::PointGradient<T>>(kinds.size())};
    for (std::size_t m = 0; m < kinds.size(); ++m) {
      if (kinds[m].dims == 0) continue;
      const auto room = [&](std::vector<T>& part, bool is_wanted, int each) {
        if (is_wanted) part.resize(points * each);
        return is_wanted ? part.data() : nullptr;
      };
      to.kernels[m] = {room(out.kernels[m].weight, true, kinds[m].dims + 1),
                       room(out.kernels[m].before, kinds[m].before, 1),
                       room(out.kernels[m].after, kinds[m].after, 1),
                       room(out.kernels[m].diagonal, kinds[m].diagonal, 1)};
    }
    dcrf::mean_field_backward(scene.model(), {scene.image()}, {to}, 1);
    return out;
  }

 private:
  void add(Scene<T>& scene, int m, int image) {
    const Kind& kind = kinds[m];
    const bool shared = kind.dims == 0 || kind.shared;
    const unsigned seed = 40 * m + (shared ? 0 : 1000 * image);
    typename Scene<T>::Kernel kernel;
    features[m].emplace_back();
    if (kind.dims == 0) {
      kernel.grid =
          std::make_unique<Grid<T>>(depth, depth == 0 ? 4 : 3, depth == 0 ? 6 : 4, 2, false, seed);
    } else {
      features[m].back() = random_numbers<T>(points * kind.dims, kind.spread, seed);
      kernel.lattice = std::make_unique<Lattice<T>>(features[m].back(), kind.dims, kind.quality, 1);
    }
    const auto scale = [&](bool is_there, unsigned which) {
      return is_there ? positive_numbers<T>(points, 0.05, 0.2, seed + which) : std::vector<T>();
    };
    kernel.before = scale(kind.before, 1);
    kernel.after = scale(kind.after, 2);
    kernel.diagonal = scale(kind.diagonal, 3);
    scene.add(std::move(kernel));
  }
};

}  // namespace tests
