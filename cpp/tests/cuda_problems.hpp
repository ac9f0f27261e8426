// Test problems for the CUDA programs on the serial launcher, and the same problems for the CPU
// engine. Output memory is first filled with NaN (integers: -1), so that elements that are not
// written are found.
#pragma once

#include <cstring>
#include <optional>
#include <string>
#include <tuple>

#include "../cuda/engine.hpp"
#include "problems.hpp"

namespace tests {

namespace cuda = dcrf::cuda;
const cuda::Stream kStream;

// Set the number of groups of lanes.
inline void set_threads(int count) {
  setenv("DENSECRF_RNN_SERIAL_THREADS", std::to_string(count).c_str(), 1);
}

// Set the number of threads that share one row.
inline void set_lanes(int count) {
  setenv("DENSECRF_RNN_SERIAL_LANES", std::to_string(count).c_str(), 1);
}

template <typename T>
std::vector<T> unwritten(std::int64_t count) {
  std::vector<T> out(count);
  if (count > 0) std::memset(static_cast<void*>(out.data()), 0xFF, count * sizeof(T));
  return out;
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

// Lattices of a batch of images, built with the calls that nn/ops/device.py makes.
template <typename T>
struct DeviceLattice {
  std::int64_t images, points, vertices;
  int words;
  std::vector<std::int32_t> vertex, links;
  std::vector<T> weight;
  cuda::FeatureView<T> features;
  cuda::LatticeView<T> view;

  // `from` holds the features [images, N, d] and must outlive this object.
  DeviceLattice(const std::vector<T>& from, std::int64_t image_count, int dims,
                dcrf::Quality quality)
      : images(image_count), points(std::int64_t(from.size()) / dims / images) {
    const int corners = dims + 1;
    const std::int64_t entries = images * points * corners;
    features = {from.data(), points * dims, dims, 1, images, points, dims};
    const dcrf::KeyLayout layout = key_layout(from, dims);
    words = layout.words;
    vertex = unwritten<std::int32_t>(entries);
    weight = unwritten<T>(entries);
    auto keys = unwritten<std::uint64_t>(words * entries);
    cuda::locate_corners(features, layout, weight.data(), keys.data(), kStream);
    const Numbered touched(layout, entries, keys);
    std::optional<Numbered> all;
    const std::vector<std::uint64_t>* distinct = &touched.distinct;
    vertices = touched.sorted.distinct;
    if (quality == dcrf::Quality::kFilled) {
      const std::int64_t around = vertices * (2 * corners + 1);
      keys_around = unwritten<std::uint64_t>(words * around);
      cuda::surround(layout, vertices, touched.distinct.data(), keys_around.data(), kStream);
      all.emplace(layout, around, keys_around);
      distinct = &all->distinct;
      vertices = all->sorted.distinct;
    }
    links = unwritten<std::int32_t>(cuda::Links::size(vertices, entries, corners));
    auto vertex_of = unwritten<std::int32_t>(touched.sorted.distinct);
    auto chunks_before = unwritten<std::int32_t>(vertices);
    std::vector<std::int32_t> begins(vertices, 0), chunk_count(vertices, 0);
    auto scratch = unwritten<char>(cuda::scratch_size(vertices));
    const cuda::LinkRoom room{vertex_of.data(), begins.data(), chunk_count.data(),
                              chunks_before.data(), scratch.data()};
    cuda::link_vertices(layout, touched.sorted, all ? touched.distinct.data() : nullptr, vertices,
                        distinct->data(), vertex.data(), links.data(), room, kStream);
    view.dims = dims;
    view.symmetric = quality != dcrf::Quality::kStandard;
    view.images = images;
    view.vertex = vertex.data();
    view.weight = weight.data();
    view.links = cuda::Links(links.data(), vertices, entries);
  }
  DeviceLattice(const DeviceLattice&) = delete;

  cuda::Shape shape(std::int64_t batch, int channels) const {
    cuda::Shape out;
    out.points = points;
    out.images = batch;
    out.channels = out.width = channels;
    return out;
  }
  std::vector<T> filter(const std::vector<T>& values, int channels, bool transpose) const {
    const auto batch = std::int64_t(values.size()) / channels / points;
    auto out = unwritten<T>(values.size());
    auto room = unwritten<char>(cuda::filter_workspace(view, shape(batch, channels), 1));
    cuda::filter(view, shape(batch, channels), values.data(), transpose, out.data(), room.data(),
                 kStream);
    return out;
  }
  std::vector<T> weight_gradient(const std::vector<T>& values, const std::vector<T>& cotangent,
                                 int channels, bool transpose) const {
    const auto batch = std::int64_t(values.size()) / channels / points;
    auto out = unwritten<T>(batch * points * (view.dims + 1));
    auto room = unwritten<char>(cuda::filter_workspace(view, shape(batch, channels), 2));
    cuda::filter_weight_gradient(view, shape(batch, channels), values.data(), cotangent.data(),
                                 transpose, out.data(), room.data(), kStream);
    return out;
  }
  // Return the diagonal of K or, if `cotangent` is not empty, the gradient with respect to the
  // weights.
  std::vector<T> self_response(const std::vector<T>& cotangent) const {
    auto out = unwritten<T>(images * points * (cotangent.empty() ? 1 : view.dims + 1));
    cuda::self_response(view, images * points, cotangent.empty() ? nullptr : cotangent.data(),
                        out.data(), kStream);
    return out;
  }
  std::vector<T> feature_gradient(const std::vector<T>& d_weight) const {
    auto out = unwritten<T>(images * points * view.dims);
    cuda::feature_gradient(features, d_weight.data(), out.data(), kStream);
    return out;
  }

 private:
  struct Numbered {
    Numbered(const dcrf::KeyLayout& layout, std::int64_t count,
             const std::vector<std::uint64_t>& keys)
        : order(unwritten<std::int32_t>(count)), number(unwritten<std::int32_t>(count)) {
      auto scratch = unwritten<char>(cuda::scratch_size(count));
      const auto found = cuda::number_keys(layout, count, keys.data(), order.data(), number.data(),
                                           scratch.data(), kStream);
      sorted = {count, found, keys.data(), order.data(), number.data()};
      distinct = unwritten<std::uint64_t>(layout.words * found);
      cuda::distinct_keys(layout, sorted, distinct.data(), kStream);
    }
    std::vector<std::int32_t> order, number;
    std::vector<std::uint64_t> distinct;
    cuda::Sorted sorted;
  };
  std::vector<std::uint64_t> keys_around;

  dcrf::KeyLayout key_layout(const std::vector<T>& from, int dims) const {
    std::vector<double> least(from.begin(), from.begin() + dims), greatest = least;
    for (std::size_t i = 0; i < from.size(); ++i) {
      least[i % dims] = std::min(least[i % dims], double(from[i]));
      greatest[i % dims] = std::max(greatest[i % dims], double(from[i]));
    }
    std::int32_t low[dcrf::kMaxDims] = {}, high[dcrf::kMaxDims] = {};
    CHECK(dcrf::quotient_range<T>(least.data(), greatest.data(), dims, low, high));
    return dcrf::KeyLayout(dims, low, high, images);
  }
};

// The grid of a CPU test problem as a view for the CUDA programs.
template <typename T>
struct DeviceGrid {
  std::vector<std::int32_t> first[3];
  cuda::GridView<T> view;

  explicit DeviceGrid(const Grid<T>& grid) {
    const int skipped = grid.view.taps[0] == 1 ? 1 : 0;
    view.axes = 3 - skipped;
    for (int a = 0; a < view.axes; ++a) {
      const int from = a + skipped;
      view.size[a] = grid.view.size[from];
      view.cells[a] = grid.view.cells[from];
      view.radius[a] = grid.view.radius[from];
      view.cell[a] = grid.view.cell[from];
      view.splat[a] = grid.view.splat[from];
      view.slice[a] = grid.view.slice[from];
      view.band[a] = grid.view.band[from];
      for (std::int64_t j = 0; j <= view.cells[a]; ++j) {
        const auto& cell = grid.cell[from];
        first[a].push_back(
            std::int32_t(std::lower_bound(cell.begin(), cell.end(), j) - cell.begin()));
      }
      view.first[a] = first[a].data();
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
    std::vector<std::vector<T>> kept;  // arrays of the batch that views point to
    kept.reserve(4 * kinds.size());
    cuda::Model<T> model;
    model.shape = {points, count, labels, dcrf::row_width(labels)};
    model.kernels = int(kinds.size());
    model.iterations = iterations;
    model.coupling = scenes[0]->coupling.data();
    Outcome<T> out;
    out.kernels.resize(kinds.size());
    std::vector<cuda::PointGradient<T>> wanted(kinds.size());
    for (std::size_t m = 0; m < kinds.size(); ++m) {
      const Kind& kind = kinds[m];
      const std::int64_t own = kind.dims == 0 || kind.shared ? 1 : count;
      cuda::KernelView<T>& view = model.kernel[m];
      const auto join = [&](auto part) {
        kept.emplace_back();
        for (std::int64_t b = begin; b < begin + own; ++b) {
          const std::vector<T>& one = part(b);
          kept.back().insert(kept.back().end(), one.begin(), one.end());
        }
        return kept.back().empty() ? nullptr : kept.back().data();
      };
      if (kind.dims == 0) {
        grids.push_back(std::make_unique<DeviceGrid<T>>(*scenes[begin]->kernels[m].grid));
        view.grid = grids.back()->view;
      } else {
        join([&](std::int64_t b) { return features[m][b]; });
        lattices.push_back(
            std::make_unique<DeviceLattice<T>>(kept.back(), own, kind.dims, kind.quality));
        view.lattice = lattices.back()->view;
      }
      view.before = join([&](std::int64_t b) { return scenes[b]->kernels[m].before; });
      view.after = join([&](std::int64_t b) { return scenes[b]->kernels[m].after; });
      view.diagonal = join([&](std::int64_t b) { return scenes[b]->kernels[m].diagonal; });
      if (kind.dims == 0) continue;
      const auto room = [&](std::vector<T>& to, bool is_wanted, int each) {
        if (is_wanted) to = unwritten<T>(count * points * each);
        return is_wanted ? to.data() : nullptr;
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
    out.refined = unwritten<T>(numbers);
    out.saved = unwritten<T>(saves ? iterations * count * points * model.shape.width : 0);
    auto room = unwritten<char>(cuda::mean_field_workspace<T>(model, saves));
    cuda::mean_field<T>(model, logits.data(), out.refined.data(),
                        saves ? out.saved.data() : nullptr, room.data(), kStream);
    if (!saves) return out;
    out.d_logits = unwritten<T>(numbers);
    out.d_coupling = unwritten<T>(scenes[0]->coupling.size());
    room = unwritten<char>(cuda::backward_workspace(model, wanted.data()));
    cuda::mean_field_backward(model, out.saved.data(), d_refined.data() + begin * points * labels,
                              out.d_logits.data(), out.d_coupling.data(), wanted.data(),
                              room.data(), kStream);
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
