// Implements mean_field.hpp. Each iteration is a pass over the points (loops.hpp), followed by the
// blur and the coupling of every kernel (kernel_run.hpp).
#include "mean_field.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "binary.hpp"
#include "kernel_run.hpp"
#include "prune.hpp"

namespace dcrf {
namespace {

// The kernels of one image, forward or adjoint, with their views for the loops over points.
template <typename T>
class Runs {
 public:
  Runs(const Model<T>& model, const Image<T>& image, Sense sense, int threads) {
    const std::int64_t matrix = std::int64_t(model.labels) * model.labels;
    for (std::size_t m = 0; m < image.kernels.size(); ++m) {
      const T* const coupling = model.coupling + std::int64_t(m) * matrix;
      runs_.push_back(std::make_unique<KernelRun<T>>(image.kernels[m], image.points, coupling,
                                                     model.labels, sense, threads));
      points_.push_back(runs_.back()->points());
      scratch_ += runs_.back()->scratch();
    }
  }
  KernelRun<T>& operator[](std::size_t m) { return *runs_[m]; }
  std::size_t size() const { return runs_.size(); }
  const PointKernel<T>* points() const { return points_.data(); }
  void fill(PointPass<T>& pass, std::int64_t count, int labels, const T* padding) const {
    pass = {count, labels, row_width(labels), points_.data(), int(points_.size()), padding};
  }
  std::int64_t scratch() const { return scratch_; }
  std::int64_t rows() const {
    std::int64_t sum = 0;
    for (const auto& run : runs_) sum += run->rows();
    return sum;
  }

 private:
  std::vector<std::unique_ptr<KernelRun<T>>> runs_;
  std::vector<PointKernel<T>> points_;
  std::int64_t scratch_ = 0;
};

// Return PointPass::padding: 0 at labels, -infinity in the padding.
template <typename T>
std::vector<T> padding(int labels) {
  std::vector<T> out(row_width(labels), -std::numeric_limits<T>::infinity());
  std::fill(out.begin(), out.begin() + labels, T(0));
  return out;
}

// Return whether the diagonal term of a kernel is to be removed.
template <typename T>
bool has_self_terms(const Image<T>& image) {
  return std::any_of(image.kernels.begin(), image.kernels.end(),
                     [](const KernelView<T>& k) { return k.diagonal != nullptr; });
}

// Return whether `saved` holds the values at vertices and cells instead of the marginals. The
// forward and the backward pass get the same answer.
template <typename T>
bool saves_vertices(const Model<T>& model, const Image<T>& image, std::int64_t rows) {
  const std::int64_t marginals =
      model.iterations * image.points * row_width(model.labels) * std::int64_t(sizeof(T));
  return marginals > model.memory_budget && rows <= image.points && !has_self_terms(image);
}

// The diagonal (i = j) terms to remove from the messages of each kernel: before * after * diagonal.
template <typename T>
class SelfTerms {
 public:
  SelfTerms(const Image<T>& image, Runs<T>& runs) : scales_(runs.size()), terms_(runs.size()) {
    for (std::size_t m = 0; m < runs.size(); ++m) {
      const KernelView<T>& k = image.kernels[m];
      if (k.diagonal == nullptr) continue;
      any_ = true;
      scales_[m].assign(k.diagonal, k.diagonal + image.points);
      for (const T* const factor : {k.before, k.after}) {
        for (std::int64_t p = 0; p < image.points && factor != nullptr; ++p)
          scales_[m][p] *= factor[p];
      }
      terms_[m].scale = scales_[m].data();
      terms_[m].coupling = runs[m].taken_back();
    }
  }
  const SelfTerm<T>* get() const { return any_ ? terms_.data() : nullptr; }

 private:
  std::vector<std::vector<T>> scales_;
  std::vector<SelfTerm<T>> terms_;
  bool any_ = false;
};

// Call body(strip, scratch memory) for each strip in parallel.
template <typename T, class Body>
void in_strips(const Strips& strips, int threads, std::int64_t scratch_size, const Body& body) {
  parallel_for(strips.count, threads, [&](std::int64_t s) {
    const Buffer<T> scratch = make_buffer<T>(scratch_size);
    body(int(s), scratch.get());
  });
}

// Run all iterations for one image; return whether its logits were valid.
template <typename T>
bool forward_image(const Model<T>& model, const Image<T>& image, int threads) {
  if (image.prune > 0 && can_prune(model, image)) return pruned_image(model, image, threads);
  if (is_binary(model, image)) return binary_image(model, image, threads);
  Runs<T> runs(model, image, Sense::kForward, threads);
  const Strips strips(image.points);
  const int width = row_width(model.labels);
  const std::int64_t size = image.points * width;
  const std::vector<T> padded = padding<T>(model.labels);
  const SelfTerms<T> self(image, runs);
  const bool vertices = image.saved != nullptr && saves_vertices(model, image, runs.rows());
  const bool marginals = image.saved != nullptr && !vertices;
  const Buffer<T> kept = make_buffer<T>(self.get() != nullptr && !marginals ? size : 0);

  ForwardPass<T> pass;
  runs.fill(pass, image.points, model.labels, padded.data());
  pass.logits = image.logits;
  pass.stored = image.stored;
  pass.labels_to = image.labels;
  // Without an output that has room for the point-major copy of the logits, it has its own.
  const Buffer<T> room = make_buffer<T>(image.refined == nullptr ? image.points * model.labels : 0);
  pass.unary = pass.refined = image.refined != nullptr ? image.refined : room.get();
  pass.self = self.get();
  pass.marginals = model.marginals;
  char good[16];
  for (int t = 0; t <= model.iterations; ++t) {
    pass.first = t == 0;
    pass.last = t == model.iterations;
    pass.q_before = pass.saved_q;
    pass.saved_q = pass.last    ? nullptr
                   : marginals  ? image.saved + t * size
                   : self.get() ? kept.get()
                                : nullptr;
    in_strips<T>(strips, threads, (kTile + 1) * width + runs.scratch(), [&](int s, T* scratch) {
      const bool ok = loops<T>().forward(pass, s, scratch);
      if (pass.first) good[s] = ok;
    });
    if (pass.first && !std::all_of(good, good + strips.count, [](char g) { return g != 0; }))
      return false;
    if (pass.last) break;
    T* raw = vertices ? image.saved + t * runs.rows() * width : nullptr;
    T bound = 0;
    for (std::size_t m = 0; m < runs.size(); ++m) {
      if (image.kernels[m].lattice.vertex != nullptr) runs[m].fold();
      runs[m].spread(raw);
      if (raw != nullptr) raw += runs[m].rows() * width;
      bound += runs[m].bound();
    }
    pass.safe = bound < T(40) && self.get() == nullptr;
  }
  return true;
}

// Computes the gradient of one image.
template <typename T>
class Backward {
 public:
  Backward(const Model<T>& model, const Image<T>& image, const ImageGradient<T>& to, int threads)
      : model_(model),
        image_(image),
        to_(to),
        threads_(threads),
        strips_(image.points),
        width_(row_width(model.labels)),
        size_(image.points * width_),
        adjoint_(model, image, Sense::kAdjoint, threads),
        forward_(model, image, Sense::kForward, threads),
        vertices_(saves_vertices(model, image, forward_.rows())),
        self_(image, adjoint_),
        forward_self_(image, forward_),
        sums_(forward_.size(), std::vector<double>(model.labels * width_, 0.0)) {
    for (std::size_t m = 0; m < to.kernels.size(); ++m) {
      const PointGradient<T>& g = to.kernels[m];
      if (g.weight == nullptr) continue;
      features_ = true;
      std::fill(g.weight, g.weight + image.points * (image.kernels[m].lattice.dims + 1), T(0));
      for (T* const scale : {g.before, g.after, g.diagonal}) {
        if (scale != nullptr) std::fill(scale, scale + image.points, T(0));
      }
    }
  }

  void run() {
    const std::vector<T> padded = padding<T>(model_.labels);
    const Buffer<T> sum = make_buffer<T>(size_);
    const Buffer<T> gradient = make_buffer<T>(self_.get() != nullptr ? size_ : 0);
    const bool values = features_ || vertices_;  // whether forward values are recomputed
    const Buffer<T> raw = make_buffer<T>(vertices_ ? 0 : forward_.rows() * width_);
    std::vector<const T*> diagonals;
    for (const KernelView<T>& k : image_.kernels) diagonals.push_back(k.diagonal);

    BackwardPass<T> pass;
    adjoint_.fill(pass, image_.points, model_.labels, padded.data());
    pass.d_refined = to_.d_refined;
    pass.d_logits = to_.d_logits;
    pass.sum = sum.get();
    pass.gradient = self_.get() != nullptr ? gradient.get() : nullptr;
    pass.logits = image_.logits;
    pass.wanted = features_ ? to_.kernels.data() : nullptr;
    pass.self = self_.get();
    pass.forward_self = forward_self_.get();
    pass.diagonal = diagonals.data();
    for (int t = model_.iterations; t >= 0; --t) {  // gradient of the logits of iteration t
      pass.first = t == model_.iterations;
      pass.last = t == 0;
      pass.q = vertices_ || pass.first ? nullptr : image_.saved + t * size_;
      const T* const before = pass.last   ? nullptr
                              : vertices_ ? image_.saved + (t - 1) * forward_.rows() * width_
                                          : raw.get();
      if (!pass.last && values) make_forward_values(t - 1, raw.get());
      pass.forward = !pass.last && values ? forward_.points() : nullptr;
      if (pass.first && pass.last) {  // no iterations: the refined logits are the logits
        std::copy(to_.d_refined, to_.d_refined + image_.points * model_.labels, to_.d_logits);
        break;
      }
      if (self_.get() != nullptr && !pass.first)
        add_self_outer(gradient.get(), image_.saved + t * size_);
      const std::int64_t room = (2 * kTile + 1) * width_ + adjoint_.scratch() + forward_.scratch();
      in_strips<T>(strips_, threads_, room,
                   [&](int s, T* scratch) { loops<T>().backward(pass, s, scratch); });
      if (pass.last) break;
      std::int64_t skip = 0;
      if (!values) splat_marginals(t - 1);
      for (std::size_t m = 0; m < adjoint_.size(); ++m) {
        adjoint_[m].fold();
        if (values) {
          forward_[m].outer(adjoint_[m].sums(), before + skip, sums_[m]);
          adjoint_[m].spread(nullptr);
        } else {
          T* const spread = raw.get() + skip;
          adjoint_[m].spread(spread);
          forward_[m].outer(spread, forward_[m].sums(), sums_[m]);
          forward_[m].clear_sums();
        }
        skip += forward_[m].rows() * width_;
      }
    }
    write_coupling();
  }

 private:
  // Splat the saved marginals of iteration t into the sums of the forward kernels.
  void splat_marginals(int t) {
    PointPass<T> pass;
    forward_.fill(pass, image_.points, width_, nullptr);
    const T* const q = image_.saved + t * size_;
    in_strips<T>(strips_, threads_, kTile * width_ + forward_.scratch(),
                 [&](int s, T* scratch) { loops<T>().splat(pass, s, q, width_, scratch); });
    for (std::size_t m = 0; m < forward_.size(); ++m) forward_[m].fold();
  }

  // Recompute the values from which iteration t + 1 sliced its messages. `raw` receives the blurred
  // values before the coupling.
  void make_forward_values(int t, T* raw) {
    if (!vertices_) splat_marginals(t);
    const T* saved = image_.saved + t * forward_.rows() * width_;
    for (std::size_t m = 0; m < forward_.size(); ++m) {
      const std::int64_t rows = forward_[m].rows() * width_;
      if (vertices_) {
        forward_[m].couple_raw(saved);
        saved += rows;
      } else {
        forward_[m].spread(raw);
        raw += rows;
      }
    }
  }

  // Add what the removed diagonal terms contribute to the coupling gradients: their messages go
  // from a pixel to itself, not through a lattice or grid.
  void add_self_outer(const T* gradient, const T* q) {
    const std::int64_t chunks = (image_.points + kPointChunk - 1) / kPointChunk;
    const std::int64_t matrix = std::int64_t(model_.labels) * width_;
    const Buffer<T> partial = make_buffer<T>(chunks * matrix);
    for (std::size_t m = 0; m < adjoint_.size(); ++m) {
      const T* const scale = self_.get()[m].scale;
      if (scale == nullptr) continue;
      parallel_ranges(
          image_.points, kPointChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
            T* const sum = partial.get() + begin / kPointChunk * matrix;
            std::fill(sum, sum + matrix, T(0));
            loops<T>().outer(nullptr, end - begin, gradient + begin * width_, q + begin * width_,
                             scale + begin, model_.labels, width_, sum);
          });
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (std::int64_t i = 0; i < matrix; ++i) sums_[m][i] += partial[chunk * matrix + i];
      }
    }
  }

  // Write the coupling gradients without padding.
  void write_coupling() {
    T* out = to_.d_coupling;
    for (const std::vector<double>& sum : sums_) {
      for (int own = 0; own < model_.labels; ++own) {
        for (int other = 0; other < model_.labels; ++other)
          *out++ = T(sum[std::size_t(own) * width_ + other]);
      }
    }
  }

  const Model<T>& model_;
  const Image<T>& image_;
  const ImageGradient<T>& to_;
  int threads_;
  Strips strips_;
  int width_;
  std::int64_t size_;
  Runs<T> adjoint_, forward_;
  bool vertices_, features_ = false;  // saves_vertices(); whether a kernel's gradient is wanted
  SelfTerms<T> self_, forward_self_;
  std::vector<std::vector<double>> sums_;  // gradients of the couplings, [L, width] each
};

}  // namespace

template <typename T>
bool mean_field(const Model<T>& model, const std::vector<Image<T>>& images, int threads) {
  const FlushToZero flush_to_zero;
  std::vector<char> good(images.size(), 1);
  parallel_items(images.size(), threads, [&](std::size_t i, int inner) {
    if (images[i].points > 0) good[i] = forward_image(model, images[i], inner);
  });
  return std::all_of(good.begin(), good.end(), [](char g) { return g != 0; });
}

template <typename T>
void mean_field_backward(const Model<T>& model, const std::vector<Image<T>>& images,
                         const std::vector<ImageGradient<T>>& gradients, int threads) {
  const FlushToZero flush_to_zero;
  parallel_items(images.size(), threads, [&](std::size_t i, int inner) {
    if (images[i].points > 0) Backward<T>(model, images[i], gradients[i], inner).run();
  });
}

#define DCRF_INSTANTIATE(T)                                                        \
  template bool mean_field(const Model<T>&, const std::vector<Image<T>>&, int);    \
  template void mean_field_backward(const Model<T>&, const std::vector<Image<T>>&, \
                                    const std::vector<ImageGradient<T>>&, int);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf
