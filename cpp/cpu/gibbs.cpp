// Implements cpu/gibbs.hpp: converts a batch to the layouts of the inner loop (loops/gibbs.hpp) and
// divides each image into parts that threads draw independently.
#include "gibbs.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "buffer.hpp"
#include "loops/gibbs.hpp"
#include "pool.hpp"

namespace dcrf {
namespace {

constexpr std::int64_t kPixelsPerChunk = 4096;  // in the parallel loop that transposes logits
// Minimum number of pixels of one colour per part; with fewer, threads would mostly wait.
constexpr std::int64_t kPixelsPerPart = 128;

// Return the number of labels padded to a width that the loops use.
int gibbs_width(int labels) {
  constexpr int kHalf = kGibbsLanes / 2;
  return labels <= kHalf ? kHalf : (labels + kGibbsLanes - 1) / kGibbsLanes * kGibbsLanes;
}

// Layout of the padded image of labels. Its margin is as wide as the longest offset, above, below
// and to the right of the image; the right margin of each row is also the left margin of the next
// row.
struct Padded {
  std::int64_t rows = 0, columns = 0;  // size of the margin
  std::int64_t stride = 0, size = 0;   // length of a row and of the whole image, in elements

  explicit Padded(const GibbsBatch& batch) {
    for (int c = 0; c < batch.classes; ++c) {
      rows = std::max<std::int64_t>(rows, std::abs(batch.offsets[2 * c]));
      columns = std::max<std::int64_t>(columns, std::abs(batch.offsets[2 * c + 1]));
    }
    stride = batch.width + columns;
    size = (batch.height + 2 * rows) * stride + columns;
  }
  // Return the index of the first pixel of a row.
  std::int64_t at(std::int64_t row) const { return columns + (rows + row) * stride; }
};

// Return the columns of each colour in each row, [colour, row mod m].
std::vector<GibbsStripe> stripes(const GibbsBatch& batch) {
  std::vector<GibbsStripe> found(std::size_t(batch.m) * batch.m);
  const int step = batch.m / std::gcd(batch.a, batch.m);
  for (int row = 0; row < batch.m; ++row) {
    for (int x = 0; x < step; ++x) {
      const std::int64_t colour =
          (std::int64_t(batch.a) * x + std::int64_t(batch.b) * row) % batch.m;
      found[colour * batch.m + row] = {x, step};
    }
  }
  return found;
}

// Return the tables in the layout of Neighbours::rows.
Buffer<float> table_rows(const GibbsBatch& batch, int width) {
  const int labels = batch.labels;
  const std::int64_t size = 2 * std::int64_t(batch.classes) * (labels + 1) * width;
  Buffer<float> rows = make_buffer<float>(size);
  std::fill_n(rows.get(), size, 0.0f);
  for (int c = 0; c < batch.classes; ++c) {
    const float* const table = batch.tables + std::int64_t(c) * labels * labels;
    float* const begins = rows.get() + std::int64_t(c) * (labels + 1) * width;
    float* const ends = begins + std::int64_t(batch.classes) * (labels + 1) * width;
    for (std::int64_t l = 0; l < labels; ++l) {
      for (std::int64_t k = 0; k < labels; ++k) {
        begins[l * width + k] = table[k * labels + l];
        ends[l * width + k] = table[l * labels + k];
      }
    }
  }
  return rows;
}

// Return the tables in the layout of GibbsPass::columns, or null if the L + 1 labels do not fit
// into one vector.
Buffer<float> table_columns(const GibbsBatch& batch, int width, const float* rows) {
  const int labels = batch.labels, tables = 2 * batch.classes;
  if (labels >= kGibbsLanes) return nullptr;
  const std::int64_t size = std::int64_t(tables) * labels * kGibbsLanes;
  Buffer<float> columns = make_buffer<float>(size);
  std::fill_n(columns.get(), size, 0.0f);
  for (int t = 0; t < tables; ++t) {
    for (int l = 0; l < labels; ++l) {
      for (int k = 0; k < labels; ++k)
        columns[(t * labels + l) * kGibbsLanes + k] = rows[(t * (labels + 1) + k) * width + l];
    }
  }
  return columns;
}

// A range of rows of an image. Its next colour may be drawn once the part itself and all parts that
// its edges lead to have finished the previous colour. So the image needs no barrier between
// colours.
struct alignas(64) Part {
  std::int64_t begin = 0, end = 0;       // rows
  int first = 0, last = 0;               // first and last part that edges lead to
  std::atomic<std::int64_t> colours{0};  // number of colours finished, over all sweeps
  std::atomic<bool> taken{false};        // whether a thread is drawing it
};

// Two adjacent parts that one thread draws as long as possible, because they are in its caches.
// Even pairs draw their second part first, odd pairs their first part. So the two parts at the
// border of two pairs are drawn at about the same time, and each thread can draw its other part
// before it has to wait.
struct alignas(64) Pair {
  Part part[2];
  std::atomic<const void*> owner{nullptr};  // identifies the thread that last drew a part of it
};

// The parts of an image; decides which of them may be drawn.
class Parts {
 public:
  // Divide `rows` into 1 part or an even number of them; `reach` is the longest edge, in rows.
  Parts(std::int64_t rows, std::int64_t reach, int parts, std::int64_t colours)
      : pairs_((parts + 1) / 2), colours_(colours) {
    for (int i = 0; i < parts; ++i) {
      at(i).begin = rows * i / parts;
      at(i).end = rows * (i + 1) / parts;
    }
    for (int i = 0; i < parts; ++i) {
      Part& part = at(i);
      while (at(part.first).end <= part.begin - reach) ++part.first;
      part.last = parts - 1;
      while (at(part.last).begin >= part.end + reach) --part.last;
    }
  }

  // Wait until a part may be drawn, take it and return it. Prefer this thread's own pairs, then
  // pairs that no thread has drawn, then any pair. The part with the fewest finished colours can
  // always be drawn, so any number of threads makes progress.
  Part& take() {
    static thread_local char me;    // its address identifies the thread
    constexpr int kPatience = 256;  // tries before a part of another thread's pair is taken
    for (int spin = 0;; ++spin) {
      for (const Owner owner : {kMe, kNobody, kAnybody}) {
        if (owner == kAnybody && spin < kPatience) continue;
        for (Pair& pair : pairs_) {
          const void* const found = pair.owner.load(std::memory_order_relaxed);
          if (owner != kAnybody && found != (owner == kMe ? &me : nullptr)) continue;
          if (Part* const part = take_from(pair, &me)) return *part;
        }
      }
      if (spin >= kPatience) std::this_thread::yield();
      poll_interrupt();
    }
  }

  // Release a part whose colour is finished.
  static void give_back(Part& part) {
    part.colours.fetch_add(1, std::memory_order_release);
    part.taken.store(false, std::memory_order_release);
  }

 private:
  enum Owner { kMe, kNobody, kAnybody };

  Part& at(int i) { return pairs_[i / 2].part[i % 2]; }

  Part* take_from(Pair& pair, const void* me) {
    const std::int64_t number = &pair - pairs_.data();
    for (int k = 0; k < 2; ++k) {
      Part& part = pair.part[(number + k + 1) % 2];
      if (part.taken.load(std::memory_order_relaxed) || !ready(part)) continue;
      if (part.taken.exchange(true, std::memory_order_acquire)) continue;
      if (ready(part)) {
        pair.owner.store(me, std::memory_order_relaxed);
        return &part;
      }
      part.taken.store(false, std::memory_order_release);
    }
    return nullptr;
  }

  // Return whether the next colour of a part may be drawn.
  bool ready(const Part& part) {
    const std::int64_t drawn = part.colours.load(std::memory_order_acquire);
    bool all = part.end > part.begin && drawn < colours_;
    for (int i = part.first; all && i <= part.last; ++i)
      all = at(i).colours.load(std::memory_order_acquire) >= drawn;
    return all;
  }

  std::vector<Pair> pairs_;
  std::int64_t colours_;
};

// Runs the sweeps of a batch. Holds the data of the batch in the layouts of the loops.
class Sweeper {
 public:
  Sweeper(const GibbsBatch& batch, std::int32_t* labels, double* marginals, std::int64_t* changes)
      : batch_(batch),
        labels_(labels),
        marginals_(marginals),
        changes_(changes),
        padded_(batch),
        stripes_(stripes(batch)),
        width_(gibbs_width(batch.labels)),
        rows_(table_rows(batch, width_)),
        columns_(table_columns(batch, width_, rows_.get())),
        steps_(batch.classes) {
    for (int c = 0; c < batch.classes; ++c)
      steps_[c] = batch.offsets[2 * c] * padded_.stride + batch.offsets[2 * c + 1];
    neighbours_ = {batch.classes, batch.labels, width_, rows_.get(), steps_.data()};
  }

  // Run all sweeps of one image.
  void run(std::int64_t image, int threads) const {
    const std::int64_t height = batch_.height, width = batch_.width;
    std::vector<Label> padded(padded_.size, Label(batch_.labels));
    const Buffer<float> logits = make_buffer<float>(height * width * width_);
    std::int32_t* const labels = labels_ + image * height * width;
    const std::int64_t chunk = std::max<std::int64_t>(1, kPixelsPerChunk / width);
    parallel_ranges(height, chunk, threads, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t y = begin; y < end; ++y) {
        for (std::int64_t x = 0; x < width; ++x) {
          const std::int32_t label = labels[y * width + x];
          if (label >= 0) padded[padded_.at(y) + x] = Label(label);
        }
      }
      by_pixels(image, begin * width, end * width, logits.get());
    });
    draw_all(image, threads, padded.data(), logits.get());
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        std::int32_t& label = labels[y * width + x];
        if (label >= 0) label = padded[padded_.at(y) + x];
      }
    }
  }

 private:
  // Draw all colours of all sweeps in the padded image of labels.
  void draw_all(std::int64_t image, int threads, Label* padded, const float* logits) const {
    const std::int64_t most = batch_.height * batch_.width / (batch_.m * 2 * kPixelsPerPart);
    const std::int64_t pairs = std::min({most, batch_.height / 2, std::int64_t(threads)});
    const int parties = int(std::max<std::int64_t>(pairs, 1));  // more threads would only wait
    const int count = parties > 1 ? 2 * parties : 1;            // number of parts
    const std::int64_t colours = std::int64_t(batch_.sweeps) * batch_.m;
    Parts parts(batch_.height, padded_.rows, count, colours);
    std::vector<std::atomic<std::int64_t>> changed(batch_.sweeps);
    parallel_for(count * colours, parties, [&](std::int64_t) {
      Part& part = parts.take();
      const std::int64_t sweep = part.colours / batch_.m, colour = part.colours % batch_.m;
      changed[sweep] += draw(image, int(sweep), int(colour), part.begin, part.end, padded, logits);
      Parts::give_back(part);
    });
    std::copy(changed.begin(), changed.end(), changes_ + image * batch_.sweeps);
  }

  // Transpose the logits [L, N] of an image to [N, width], for a range of pixels; the padding is
  // -infinity.
  void by_pixels(std::int64_t image, std::int64_t begin, std::int64_t end, float* out) const {
    constexpr std::int64_t kBlock = 16;  // pixels in one cache line of the input
    const std::int64_t pixels = batch_.height * batch_.width;
    const float* const in = batch_.logits + image * batch_.labels * pixels;
    for (std::int64_t first = begin; first < end; first += kBlock) {
      const std::int64_t last = std::min(first + kBlock, end);
      for (int l = 0; l < batch_.labels; ++l) {
        const float* const from = in + l * pixels;
        for (std::int64_t p = first; p < last; ++p) out[p * width_ + l] = from[p];
      }
      for (std::int64_t p = first; p < last; ++p) {
        for (int l = batch_.labels; l < width_; ++l)
          out[p * width_ + l] = -std::numeric_limits<float>::infinity();
      }
    }
  }

  // Draw the pixels of one colour in a range of rows; return how many labels changed.
  std::int64_t draw(std::int64_t image, int sweep, int colour, std::int64_t begin, std::int64_t end,
                    Label* padded, const float* logits) const {
    std::vector<float> scores(width_);
    std::vector<std::uint32_t> weights(width_);
    GibbsPass pass;
    pass.neighbours = neighbours_;
    pass.columns = columns_.get();
    pass.logits = logits;
    pass.labels = padded + padded_.at(0);
    pass.stride = padded_.stride;
    pass.width = batch_.width;
    pass.stripes = stripes_.data() + std::int64_t(colour) * batch_.m;
    pass.m = batch_.m;
    if (marginals_ != nullptr)
      pass.marginals = marginals_ + image * batch_.height * batch_.width * batch_.labels;
    pass.seed = batch_.seed;
    pass.chain = batch_.chain[image];
    pass.sweep = std::uint32_t(batch_.first_sweep[image] + std::uint64_t(sweep));
    pass.beta = batch_.inverse_temperature[sweep];
    pass.scale = weight_scale(batch_.labels);
    return loops_.rows(pass, begin, end, scores.data(), weights.data());
  }

  const GibbsBatch& batch_;
  std::int32_t* labels_;
  double* marginals_;
  std::int64_t* changes_;
  Padded padded_;
  std::vector<GibbsStripe> stripes_;
  int width_;
  Buffer<float> rows_, columns_;
  std::vector<std::int64_t> steps_;
  Neighbours neighbours_;
  const GibbsLoops& loops_ = gibbs_loops();
};

}  // namespace

void gibbs_sweep(const GibbsBatch& batch, std::int32_t* labels, double* marginals,
                 std::int64_t* changes, int threads) {
  const Sweeper sweeper(batch, labels, marginals, changes);
  if (batch.images > 1 && batch.images >= threads) {
    parallel_for(batch.images, threads, [&](std::int64_t image) { sweeper.run(image, 1); });
  } else {
    for (std::int64_t image = 0; image < batch.images; ++image) sweeper.run(image, threads);
  }
}

void gibbs_statistics(const GibbsBatch& batch, const std::int32_t* labels, std::int64_t* counts,
                      int threads) {
  const std::int64_t height = batch.height, width = batch.width, count = batch.labels;
  parallel_for(batch.classes, threads, [&](std::int64_t c) {
    const std::int64_t down = batch.offsets[2 * c], right = batch.offsets[2 * c + 1];
    std::int64_t* const table = counts + c * count * count;
    const std::int64_t first_row = std::max<std::int64_t>(0, -down);
    const std::int64_t last_row = std::min(height, height - down);
    const std::int64_t first = std::max<std::int64_t>(0, -right);
    const std::int64_t last = std::min(width, width - right);
    for (std::int64_t image = 0; image < batch.images; ++image) {
      for (std::int64_t y = first_row; y < last_row; ++y) {
        const std::int32_t* const from = labels + (image * height + y) * width;
        const std::int32_t* const to = from + down * width + right;
        for (std::int64_t x = first; x < last; ++x) {
          if (from[x] >= 0 && to[x] >= 0) ++table[from[x] * count + to[x]];
        }
      }
    }
  });
}

}  // namespace dcrf
