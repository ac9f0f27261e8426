// Test problems for the CPU engine: lattices, grids and mean fields that own their arrays, and
// their results by definition, computed with dense matrices.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "../cpu/lattice.hpp"
#include "../cpu/mean_field.hpp"
#include "check.hpp"

namespace tests {

constexpr dcrf::Quality kQualities[] = {dcrf::Quality::kStandard, dcrf::Quality::kSymmetric,
                                        dcrf::Quality::kFilled};

// A lattice built by dcrf::build.
template <typename T>
struct Lattice {
  std::vector<std::int32_t> vertex, links;
  std::vector<T> weight;
  dcrf::LatticeView<T> view;

  // `features` is [N, d].
  Lattice(const std::vector<T>& features, int dims, dcrf::Quality quality, int threads) {
    dcrf::FeatureView<T> f;
    f.data = features.data();
    f.dims = dims;
    f.points = std::int64_t(features.size()) / dims;
    f.point_stride = dims;
    f.feature_stride = 1;
    vertex.resize(f.points * (dims + 1));
    weight.resize(f.points * (dims + 1));
    links.resize(dcrf::links_size(f.points, dims, quality));
    CHECK(dcrf::build(f, quality, vertex.data(), weight.data(), links.data(), threads));
    view = {f.points, dims, vertex.data(), weight.data(), links.data()};
  }
  Lattice(const Lattice&) = delete;

  // Return K values, or K' values; [N, channels].
  std::vector<T> filter(const std::vector<T>& values, int channels, bool transpose,
                        int threads) const {
    std::vector<T> out(values.size());
    dcrf::filter(view, values.data(), channels, transpose, out.data(), threads);
    return out;
  }

  // Return K as a dense matrix [N, N].
  std::vector<T> matrix(bool transpose = false) const {
    const std::int64_t n = view.points;
    std::vector<T> identity(n * n, T(0));
    for (std::int64_t i = 0; i < n; ++i) identity[i * n + i] = 1;
    return filter(identity, int(n), transpose, 1);
  }
};

// Return a lattice of random points.
template <typename T>
std::unique_ptr<Lattice<T>> lattice(std::int64_t points, int dims, double spread,
                                    dcrf::Quality quality, unsigned seed) {
  return std::make_unique<Lattice<T>>(random_numbers<T>(points * dims, spread, seed), dims, quality,
                                      1);
}

// A grid with `step` pixels per cell, random taps and random symmetric bands, over an image (depth
// 0) or a volume. If `masked`, every third pixel is excluded.
template <typename T>
struct Grid {
  std::vector<std::int32_t> cell[3], pixel;
  std::vector<T> splat[3], slice[3], band[3];
  dcrf::GridView<T> view;

  Grid(int depth, int height, int width, int step, bool masked, unsigned seed) {
    const int size[3] = {std::max(depth, 1), height, width};
    for (int a = 0; a < 3; ++a) {
      const bool flat = a == 0 && depth == 0;
      const int taps = flat ? 1 : 3, radius = flat ? 0 : a + 1;
      for (int x = 0; x < size[a]; ++x) cell[a].push_back(flat ? 0 : x / step);
      splat[a] = positive_numbers<T>(size[a] * taps, 0.1, 0.6, seed + 10 * a);
      slice[a] = positive_numbers<T>(size[a] * taps, 0.1, 0.6, seed + 10 * a + 1);
      band[a] = positive_numbers<T>(2 * radius + 1, 0.2, 0.9, seed + 10 * a + 2);
      for (int k = 0; k < radius; ++k) band[a][k] = band[a][2 * radius - k];
      if (flat) splat[a][0] = slice[a][0] = band[a][0] = 1;
      view.size[a] = size[a];
      view.cells[a] = cell[a].back() + taps;
      view.taps[a] = taps;
      view.radius[a] = radius;
      view.cell[a] = cell[a].data();
      view.splat[a] = splat[a].data();
      view.slice[a] = slice[a].data();
      view.band[a] = band[a].data();
    }
    const int pixels = size[0] * size[1] * size[2];
    for (int p = 0; masked && p < pixels; ++p) {
      if (p % 3 != 1) pixel.push_back(p);
    }
    if (masked) view.pixel = pixel.data();
  }
  Grid(const Grid&) = delete;

  // Return the number of pixels that are not masked out.
  std::int64_t points() const {
    return view.pixel != nullptr ? std::int64_t(pixel.size())
                                 : view.size[0] * view.size[1] * view.size[2];
  }

  // Return K as a dense matrix [N, N]: the Kronecker product of the matrices of the axes.
  std::vector<T> matrix() const {
    const std::int64_t n = points();
    std::vector<T> out(n * n);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        std::int64_t to = view.pixel != nullptr ? pixel[i] : i,
                     from = view.pixel != nullptr ? pixel[j] : j;
        double product = 1;
        for (int a = 2; a >= 0; --a) {
          product *= along(a, to % view.size[a], from % view.size[a]);
          to /= view.size[a];
          from /= view.size[a];
        }
        out[i * n + j] = T(product);
      }
    }
    return out;
  }

 private:
  // Return an element of the matrix of axis `a`: slice * band * splat.
  double along(int a, std::int64_t to, std::int64_t from) const {
    const int taps = view.taps[a], radius = view.radius[a];
    double sum = 0;
    for (int i = 0; i < taps; ++i) {
      for (int k = 0; k < taps; ++k) {
        const int step = cell[a][to] + i - cell[a][from] - k;
        if (std::abs(step) > radius) continue;
        sum += double(slice[a][to * taps + i]) * band[a][step + radius] * splat[a][from * taps + k];
      }
    }
    return sum;
  }
};

// An image (depth 0) or a volume, and how many of its pixels are not masked out.
struct Size {
  int depth, height, width;
  bool masked;
  std::int64_t points;
};

// A lattice and a grid over the pixels of an image that takes five strips or more.
struct FiveStrips {
  static constexpr int kHeight = 590, kWidth = 571;
  std::unique_ptr<Grid<float>> grid;
  std::unique_ptr<Lattice<float>> lattice;

  explicit FiveStrips(bool masked)
      : grid(std::make_unique<Grid<float>>(0, kHeight + (masked ? kHeight / 2 : 0), kWidth, 7,
                                           masked, 1)) {
    const std::int64_t n = grid->points();
    CHECK(masked || n == kHeight * kWidth);
    CHECK(dcrf::Strips(n).count >= 5);
    std::vector<float> features;
    for (std::int64_t p = 0; p < n; ++p)
      features.insert(features.end(), {float(p / kWidth) * 0.05f, float(p % kWidth) * 0.05f});
    lattice = std::make_unique<Lattice<float>>(features, 2, dcrf::Quality::kStandard, 2);
  }
};

// A mean-field problem of one image. An empty `before`, `after` or `diagonal` means that the kernel
// has none.
template <typename T>
struct Scene {
  struct Kernel {
    std::unique_ptr<Lattice<T>> lattice;  // either this or `grid` is set
    std::unique_ptr<Grid<T>> grid;
    std::vector<T> before, after, diagonal;
  };
  std::int64_t points;
  int labels, iterations;
  bool marginals = false;
  std::int64_t memory_budget = std::int64_t(1) << 40;
  std::vector<Kernel> kernels;
  std::vector<T> logits, coupling, refined, saved;  // `saved` is empty unless keep()

  Scene(std::int64_t n, int l, int t, unsigned seed)
      : points(n),
        labels(l),
        iterations(t),
        logits(random_numbers<T>(n * l, 1.5, seed)),
        refined(n * l) {}

  // Add a kernel with a random coupling matrix, or a Potts matrix.
  void add(Kernel kernel, bool potts = false) {
    CHECK(kernel.lattice ? kernel.lattice->view.points == points : kernel.grid->points() == points);
    const auto matrix = random_numbers<T>(labels * labels, 0.4, unsigned(70 + kernels.size()));
    for (int own = 0; own < labels; ++own) {
      for (int other = 0; other < labels; ++other) {
        coupling.push_back(potts ? T(own == other ? -0.7 : 0.1) : matrix[own * labels + other]);
      }
    }
    kernels.push_back(std::move(kernel));
  }
  // Save the marginals of every iteration, as a backward pass needs; -7 marks what is not written.
  void keep() { saved.assign(iterations * points * dcrf::row_width(labels), T(-7)); }

  dcrf::Model<T> model() const {
    return {labels, iterations, coupling.data(), marginals, memory_budget};
  }
  dcrf::Image<T> image() {
    dcrf::Image<T> out;
    for (const Kernel& k : kernels) {
      dcrf::KernelView<T> view;
      if (k.lattice)
        view.lattice = k.lattice->view;
      else
        view.grid = k.grid->view;
      view.before = k.before.empty() ? nullptr : k.before.data();
      view.after = k.after.empty() ? nullptr : k.after.data();
      view.diagonal = k.diagonal.empty() ? nullptr : k.diagonal.data();
      out.kernels.push_back(view);
    }
    out.points = points;
    out.logits = logits.data();
    out.refined = refined.data();
    out.saved = saved.empty() ? nullptr : saved.data();
    return out;
  }
  // Run the mean field; return whether the logits were valid.
  bool run(int threads) { return dcrf::mean_field(model(), {image()}, threads); }
};

// Return the softmax over the labels of [L, N].
inline std::vector<double> softmax(const std::vector<double>& planes, std::int64_t points,
                                   int labels) {
  std::vector<double> out(planes.size());
  for (std::int64_t p = 0; p < points; ++p) {
    double peak = planes[p], sum = 0;
    for (int l = 1; l < labels; ++l) peak = std::max(peak, planes[l * points + p]);
    for (int l = 0; l < labels; ++l)
      sum += out[l * points + p] = std::exp(planes[l * points + p] - peak);
    for (int l = 0; l < labels; ++l) out[l * points + p] /= sum;
  }
  return out;
}

// Return the result of a mean field, [L, N], from dense kernel matrices in double precision.
template <typename T>
std::vector<double> defined_result(const Scene<T>& s) {
  const std::int64_t n = s.points;
  const std::vector<double> unary(s.logits.begin(), s.logits.end());
  std::vector<double> logits = unary;
  std::vector<std::vector<T>> matrices;
  for (const auto& k : s.kernels)
    matrices.push_back(k.lattice ? k.lattice->matrix() : k.grid->matrix());
  for (int t = 0; t < s.iterations; ++t) {
    const std::vector<double> q = softmax(logits, n, s.labels);
    logits = unary;
    for (std::size_t m = 0; m < s.kernels.size(); ++m) {
      const auto& k = s.kernels[m];
      const auto scale = [](const std::vector<T>& scales, std::int64_t p, double none) {
        return scales.empty() ? none : double(scales[p]);
      };
      for (int other = 0; other < s.labels; ++other) {
        for (std::int64_t i = 0; i < n; ++i) {
          double message = 0;
          for (std::int64_t j = 0; j < n; ++j) {
            const double own = i == j ? scale(k.diagonal, i, 0) : 0;
            message += (matrices[m][i * n + j] - own) * scale(k.before, j, 1) * q[other * n + j];
          }
          message *= scale(k.after, i, 1);
          for (int own = 0; own < s.labels; ++own) {
            logits[own * n + i] -= s.coupling[(m * s.labels + own) * s.labels + other] * message;
          }
        }
      }
    }
  }
  return s.marginals ? softmax(logits, n, s.labels) : logits;
}

}  // namespace tests
