// Implements prune.hpp. The labels are divided into groups of four, each with sums and values of
// its own (KernelRun), so that passes and blurs skip the groups that no tile needs.
#include "prune.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "../core/half.hpp"
#include "binary.hpp"
#include "kernel_run.hpp"

namespace dcrf {
namespace {

constexpr int kGroup = 4;

// Return a logit, of any layout.
template <typename T>
T logit(const Image<T>& image, int label, std::int64_t point) {
  const LogitsView<T>& from = image.stored;
  if (from.data == nullptr) return image.logits[label * image.points + point];
  const std::int64_t at = label * from.label_stride + point * from.point_stride;
  if (from.dtype == LogitsDtype::kSame) return static_cast<const T*>(from.data)[at];
  if (from.dtype == LogitsDtype::kHalf)
    return T(of_half(static_cast<const std::uint16_t*>(from.data)[at]));
  return (T(static_cast<const std::uint8_t*>(from.data)[at]) - from.zero) * from.scale;
}

// Copy logits of another layout to planes, in blocks of points that stay in the cache.
template <typename T>
Buffer<T> planes(const Image<T>& image, int labels, int threads) {
  Buffer<T> out = make_buffer<T>(labels * image.points);
  parallel_ranges(image.points, kRowChunk / 16, threads, [&](std::int64_t begin, std::int64_t end) {
    for (int l = 0; l < labels; ++l) {
      for (std::int64_t p = begin; p < end; ++p) out[l * image.points + p] = logit(image, l, p);
    }
  });
  return out;
}

// Call body(point, maximum logit) for some points: runs of neighbours, all over the image.
template <typename T, class Body>
void over_sample(const Image<T>& image, int labels, const Body& body) {
  constexpr std::int64_t kRuns = 256, kLength = 16;
  for (std::int64_t run = 0; run < kRuns; ++run) {
    const std::int64_t begin = std::max<std::int64_t>(0, image.points - kLength) * run / kRuns;
    for (std::int64_t p = begin; p < std::min(begin + kLength, image.points); ++p) {
      T peak = logit(image, 0, p);
      for (int l = 1; l < labels; ++l) peak = std::max(peak, logit(image, l, p));
      body(p, peak);
    }
  }
}

// Return the labels in order of how many points they matter to, so that those which matter together
// share a group. Any order is correct.
template <typename T>
std::vector<std::int32_t> by_importance(const Image<T>& image, int labels) {
  std::vector<std::int64_t> score(labels, 0);
  over_sample(image, labels, [&](std::int64_t p, T peak) {
    for (int l = 0; l < labels; ++l) {
      const T x = logit(image, l, p);
      score[l] += (x >= peak ? 8 : 0) + (x > peak - 4 ? 1 : 0);
    }
  });
  std::vector<std::int32_t> order(labels);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score[a] > score[b]; });
  return order;
}

// Return whether pruning is likely to be faster than exact passes over whole rows of labels. A
// group of four labels costs more than a sixth of a row of 24, so it is where few labels of a point
// are near its maximum; the ratio is measured (docs/performance.md).
template <typename T>
bool is_worthwhile(const Image<T>& image, int labels) {
  constexpr std::int64_t kSmall = 1 << 14;  // images of fewer points take no time worth saving
  if (image.points < kSmall) return true;
  const T reach = T(-std::log(image.prune));
  std::int64_t points = 0, near = 0;
  over_sample(image, labels, [&](std::int64_t p, T peak) {
    ++points;
    for (int l = 0; l < labels; ++l) near += logit(image, l, p) > peak - reach;
  });
  return 5 * near <= points * row_width(labels);
}

// Return whether each label sends messages to itself alone.
template <typename T>
bool is_diagonal(const Model<T>& model, std::size_t kernel) {
  const std::int64_t labels = model.labels;
  const T* const c = model.coupling + std::int64_t(kernel) * labels * labels;
  for (std::int64_t i = 0; i < labels * labels; ++i) {
    if (i % (labels + 1) != 0 && c[i] != 0) return false;
  }
  return true;
}

// Return whether each label sends one message to all labels but itself, and none to itself.
template <typename T>
bool is_potts(const Model<T>& model, std::size_t kernel) {
  const std::int64_t labels = model.labels;
  const T* const c = model.coupling + std::int64_t(kernel) * labels * labels;
  for (std::int64_t i = 0; i < labels * labels; ++i) {
    const std::int64_t own = i / labels, other = i % labels;
    if (c[i] != (own == other ? T(0) : c[(other == 0 ? labels : 0) + other])) return false;
  }
  return true;
}

template <typename T>
class Pruned {
 public:
  Pruned(const Model<T>& model, const Image<T>& image, int threads)
      : model_(model),
        image_(image),
        threads_(threads),
        groups_((model.labels + kGroup - 1) / kGroup),
        kernels_(int(image.kernels.size())),
        strips_(image.points),
        label_(by_importance(image, model.labels)),
        active_(groups_, 0),
        touched_(strips_.count * groups_),
        kept_(strips_.count) {
    label_.resize(groups_ * kGroup, -1);
    for (int g = 0; g < groups_; ++g) {
      for (int m = 0; m < kernels_; ++m) {
        T coupling[kGroup * kGroup] = {};
        for (int k = 0; k < kGroup && label_[g * kGroup + k] >= 0; ++k)
          coupling[k * kGroup + k] = own_weight(m, label_[g * kGroup + k]);
        runs_.push_back(std::make_unique<KernelRun<T>>(image.kernels[m], image.points, coupling,
                                                       kGroup, Sense::kForward, threads));
        points_.push_back(runs_.back()->points());
      }
    }
    pass_.points = image.points;
    pass_.labels = model.labels;
    pass_.width = kGroup;
    pass_.kernels = pass_.kernels_of = points_.data();
    pass_.kernel_count = kernels_;
    pass_.groups = groups_;
    pass_.label = label_.data();
    if (image.stored.dtype == LogitsDtype::kHalf && image.stored.point_stride == 1) {
      pass_.halves = static_cast<const std::uint16_t*>(image.stored.data);
      pass_.half_stride = image.stored.label_stride;
    } else if (image.stored.data != nullptr) {
      planes_ = planes(image, model.labels, threads);
    }
    pass_.logits = planes_ != nullptr ? planes_.get() : image.logits;
    pass_.refined = image.refined;
    pass_.labels_to = image.labels;
    pass_.marginals = model.marginals;
    for (int m = 0; m < kernels_; ++m) pass_.common |= !is_diagonal(model, m);
    peak_ = make_buffer<T>(image.points);
    pass_.peak = peak_.get();
    pass_.delta = T(image.prune);
    pass_.log_delta = T(std::log(image.prune) - 1e-3);  // rounding
    pass_.active = active_.data();
    for (int s = 0; s < strips_.count; ++s)
      pass_.first_tile[s + 1] = pass_.first_tile[s] + loops<T>().tiles(pass_, s);
    const std::int64_t tiles = pass_.first_tile[strips_.count];
    reach_ = make_buffer<T>(tiles * kernels_ * 2);
    head_ = make_buffer<T>(tiles * (groups_ + 3));
    foot_ = make_buffer<T>(tiles * kGroup);
    pass_.reach = reach_.get();
    pass_.head = head_.get();
    pass_.foot = foot_.get();
    measured_.assign(tiles, Measured::kNone);
    pass_.measured = measured_.data();
    single_.assign(tiles, -1);
    pass_.single = single_.data();
    pass_.freezes = true;
    pass_.share_width = groups_ <= 6 ? 8 : groups_ <= 16 ? 16 : 32;
    for (int m = 0; m < kernels_; ++m) {
      const std::int64_t rows = run(0, m).rows();
      mass_.push_back(make_buffer<T>(rows));
      share_.push_back(make_buffer<std::uint8_t>(rows * pass_.share_width));
      clear(mass_[m].get(), rows, threads);
      clear(share_[m].get(), rows * pass_.share_width, threads);
      T greatest = 0;
      for (int l = 0; l < model.labels; ++l) greatest = std::max(greatest, -own_weight(m, l));
      greatest *= run(0, m).scale();
      step_.push_back(std::max(greatest, T(1e-6)) / T(254));
      pass_.share[m] = share_[m].get();
      pass_.step[m] = step_[m];
      pass_.mass[m] = mass_[m].get();
      for (int l = 0; l < model.labels; ++l) pass_.freezes &= own_weight(m, l) <= 0;
      static_.push_back(make_buffer<T>(run(0, m).sums_size()));
      clear(static_[m].get(), run(0, m).sums_size(), threads);
      static_points_.push_back(points_[m]);
      static_points_[m].sums = static_[m].get();
      const LatticeView<T>& lattice = image.kernels[m].lattice;
      const bool is_lattice = lattice.vertex != nullptr;
      list_.push_back(make_buffer<std::int32_t>(
          is_lattice ? image.points * (lattice.dims + 1) + 1 : 0));
      list_begin_.push_back(make_buffer<std::int64_t>(is_lattice ? 2 * tiles : 0));
      stamp_.push_back(make_buffer<std::uint32_t>(is_lattice ? rows : 0));
      clear(stamp_[m].get(), is_lattice ? rows : 0, threads);
      pass_.list[m] = list_[m].get();
      pass_.list_begin[m] = list_begin_[m].get();
      pass_.list_end[m] = list_begin_[m].get() + tiles;
      pass_.stamp[m] = stamp_[m].get();
    }
    pass_.static_kernels = static_points_.data();
    pass_.touched = touched_.data();
    pass_.kept = kept_.data();
  }

  bool run_all() {
    char good[16];
    const std::int64_t room = (kTile + 2) * kGroup * (groups_ + 2) + 16 +
                              std::int64_t(kTileRows) * (groups_ + 1) * scratch();
    for (int t = 0; t <= model_.iterations; ++t) {
      pass_.first = t == 0;
      pass_.last = t == model_.iterations;
      std::fill(touched_.begin(), touched_.end(), 0);
      std::fill(kept_.begin(), kept_.end(), 0);

      // Only the marginals that a tile keeps are written.
      if (pass_.last && model_.marginals && image_.labels.data == nullptr)
        clear(image_.refined, model_.labels * image_.points, threads_);
      parallel_for(strips_.count, threads_, [&](std::int64_t s) {
        const Buffer<T> memory = make_buffer<T>(room);
        const bool ok = loops<T>().prune(pass_, int(s), memory.get());
        if (pass_.first) good[s] = ok;
      });
      if (pass_.first && !std::all_of(good, good + strips_.count, [](char g) { return g != 0; }))
        return false;
      if (pass_.last) break;
      if (image_.kept != nullptr) {
        image_.kept[2 * t] = pass_.first_tile[strips_.count];
        image_.kept[2 * t + 1] = std::accumulate(kept_.begin(), kept_.end(), std::int64_t(0));
      }
      spread(t == 0);
    }
    return true;
  }

 private:
  KernelRun<T>& run(int g, int m) { return *runs_[g * kernels_ + m]; }

  // Return the coupling of a label with itself minus that with the others.
  T own_weight(int m, int label) const {
    const T* const c = model_.coupling + std::int64_t(m) * model_.labels * model_.labels;
    const int other = label == 0 ? 1 : 0;
    return c[std::int64_t(label) * model_.labels + label] -
           c[std::int64_t(other) * model_.labels + label];
  }

  std::int64_t scratch() const {
    std::int64_t sum = 0;
    for (int m = 0; m < kernels_; ++m) sum += runs_[m]->scratch();
    return sum;
  }

  // Blur the sums of the groups that were touched, and bound their values.
  void spread(bool first) {
    for (int m = 0; m < kernels_; ++m) {
      const std::int64_t rows = run(0, m).rows();
      const Buffer<T> raw = make_buffer<T>(first ? rows * kGroup : 0);
      for (int g = 0; g < groups_; ++g) {
        bool any = false;
        for (int s = 0; s < strips_.count; ++s) any |= touched_[s * groups_ + g] != 0;
        if (any) {
          if (g == 0) run(g, m).add_sums(static_[m].get());
          if (image_.kernels[m].lattice.vertex != nullptr) run(g, m).fold();
          run(g, m).spread(first ? raw.get() : nullptr);
          if (first) add_mass(m, raw.get());
        }
        active_[g] = any;
      }
      if (first) invert_mass(m);
      std::vector<const T*> values(groups_);
      for (int g = 0; g < groups_; ++g)
        values[g] = active_[g] ? points_[g * kernels_ + m].values : nullptr;
      parallel_ranges(rows, kRowChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
        loops<T>().shares(values.data(), groups_, inverse_[m].get(), T(1) / pass_.step[m], begin,
                          end, share_[m].get(), pass_.share_width);
      });
    }
  }

  // Call body(row) for each row that a blur computes.
  template <class Body>
  void over_own_rows(int m, const Body& body) {
    const LatticeView<T>& lattice = image_.kernels[m].lattice;
    const std::int64_t rows = run(0, m).rows();
    if (lattice.vertex == nullptr) {
      for (std::int64_t i = 0; i < rows; ++i) body(i);
    } else {
      const Links links(lattice.links, lattice.dims);
      for (std::int64_t i = 0; i < links.vertices; ++i) body(links.own_row[i]);
    }
  }

  void add_mass(int m, const T* raw) {
    T* const mass = mass_[m].get();
    over_own_rows(m, [&](std::int64_t row) {
      for (int k = 0; k < kGroup; ++k) mass[row] += raw[row * kGroup + k];
    });
  }

  void invert_mass(int m) {
    const std::int64_t rows = run(0, m).rows();
    T* const mass = mass_[m].get();
    const LatticeView<T>& lattice = image_.kernels[m].lattice;
    if (lattice.vertex != nullptr) {
      const Links links(lattice.links, lattice.dims);
      for (std::int64_t i = 0; i < links.ghosts; ++i) mass[links.ghost[i]] = mass[links.owner[i]];
    }
    inverse_.push_back(make_buffer<T>(rows));
    for (std::int64_t i = 0; i < rows; ++i) inverse_[m][i] = mass[i] > 0 ? T(1) / mass[i] : T(0);
  }

  const Model<T>& model_;
  const Image<T>& image_;
  int threads_, groups_, kernels_;
  Strips strips_;
  std::vector<std::int32_t> label_;
  std::vector<std::unique_ptr<KernelRun<T>>> runs_;  // [groups, kernels]
  std::vector<PointKernel<T>> points_;               // [groups, kernels]
  std::vector<char> active_;                         // [groups]
  std::vector<char> touched_;                        // [strips, groups]
  std::vector<std::int64_t> kept_;                   // [strips]
  std::vector<T> step_;                              // [kernels]
  Buffer<T> planes_;  // logits, if the image's have another layout
  Buffer<T> peak_, reach_, head_, foot_;
  std::vector<Measured> measured_;                   // [tiles]
  std::vector<signed char> single_;                  // [tiles]
  std::vector<PointKernel<T>> static_points_;        // [kernels]
  std::vector<Buffer<T>> static_;                    // [kernels], static sums
  std::vector<Buffer<std::int32_t>> list_;           // [kernels]
  std::vector<Buffer<std::int64_t>> list_begin_;     // [kernels], each [2, tiles]
  std::vector<Buffer<std::uint32_t>> stamp_;         // [kernels], each [rows]
  std::vector<Buffer<T>> mass_, inverse_;            // [kernels], each [rows]
  std::vector<Buffer<std::uint8_t>> share_;          // [kernels], each [rows, share_width]
  PrunePass<T> pass_;
};

}  // namespace

template <typename T>
bool can_prune(const Model<T>& model, const Image<T>& image) {
  const int labels = model.labels;
  if (image.saved != nullptr || is_binary(model, image)) return false;
  if (labels < 2 || labels > kGroup * kMaxGroups) return false;
  bool potts = true, diagonal = true;
  for (std::size_t m = 0; m < image.kernels.size(); ++m) {
    if (image.kernels[m].diagonal != nullptr) return false;
    potts = potts && is_potts(model, m);
    diagonal = diagonal && is_diagonal(model, m);
  }
  if (!potts && !diagonal) return false;
  return image.prune > 0 && model.iterations > 0 && is_worthwhile(image, labels);
}

template <typename T>
bool pruned_image(const Model<T>& model, const Image<T>& image, int threads) {
  return Pruned<T>(model, image, threads).run_all();
}

template bool can_prune(const Model<float>&, const Image<float>&);
template bool can_prune(const Model<double>&, const Image<double>&);
template bool pruned_image(const Model<float>&, const Image<float>&, int);
template bool pruned_image(const Model<double>&, const Image<double>&, int);

}  // namespace dcrf
