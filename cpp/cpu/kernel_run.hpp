// One kernel of mean_field.cpp during a mean field: the splatted values (`sums`), the values to
// slice (`values`), and the blur and the coupling C that compute the values from the sums, at
// lattice vertices or grid cells. For the adjoint, before and after are swapped, splat and slice
// are swapped, axes are blurred in reverse order, and C is transposed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "coupling.hpp"
#include "mean_field.hpp"
#include "pool.hpp"

namespace dcrf {

// Whether a kernel or its adjoint (for the backward pass) is applied.
enum class Sense { kForward, kAdjoint };

// One kernel of an image, or its adjoint, with its sums and values. Rows of width 1 hold a single
// number, on which the coupling is a factor (labels = 1); bound(), `raw` and outer() are for others.
template <typename T>
class KernelRun {
 public:
  KernelRun(const KernelView<T>& view, std::int64_t points, const T* coupling, int labels,
            Sense sense, int threads, int width = 0)
      : view_(view),
        labels_(labels),
        width_(width > 0 ? width : row_width(labels)),
        adjoint_(sense == Sense::kAdjoint),
        is_lattice_(view.lattice.vertex != nullptr),
        threads_(threads),
        strips_(points),
        scale_(is_lattice_ ? slice_scale<T>(view.lattice.dims) : T(1)),
        coupling_(coupling, labels, -scale_),
        taken_back_(coupling, labels, T(1)) {
    if (is_lattice_)
      links_.emplace_back(view.lattice.links, view.lattice.dims);
    else
      prepare_grid();
    sums_ = zeros(sums_size());
    values_ = make_buffer<T>(rows() * width_);
  }

  // Return the view for the loops over points.
  PointKernel<T> points() const {
    PointKernel<T> k;
    if (is_lattice_) {
      k = point_kernel(view_.lattice, links_[0]);
    } else {
      k.grid = view_.grid;
      if (adjoint_) std::swap(k.grid.splat, k.grid.slice);
      k.first_slab = first_slab_.data();
      k.slab_offset = slab_offset_.data();
    }
    k.into = adjoint_ ? view_.after : view_.before;
    k.out_of = adjoint_ ? view_.before : view_.after;
    k.sums = sums_.get();
    k.values = values_.get();
    return k;
  }

  // Return the factor of the values that a slice needs.
  T scale() const { return scale_; }
  // Return an upper bound on the magnitude of a message.
  T bound() {
    if (out_of_bound_ < 0) {
      const T* const out_of = adjoint_ ? view_.before : view_.after;
      const std::int64_t points = strips_.begin[strips_.count];
      const bool any = out_of != nullptr && points > 0;
      out_of_bound_ = any ? *std::max_element(out_of, out_of + points) : T(1);
    }
    return greatest_ * slice_bound_ * out_of_bound_;
  }

  // Return the number of rows of values: rows of the lattice, ghosts included, or cells.
  std::int64_t rows() const { return is_lattice_ ? links_[0].rows : cells(); }
  // Return C with the sign that removes the diagonal terms: messages are subtracted, with -C.
  CouplingView<T> taken_back() const { return taken_back_.view(adjoint_); }
  // Return the number of scratch elements that the loops over points need for this kernel.
  std::int64_t scratch() const { return is_lattice_ ? 0 : 2 * view_.grid.cells[2] * width_; }

  // Add up the sums of all strips, so that sums() is their total, [rows, width].
  void fold() {
    if (is_lattice_) {
      dcrf::fold(links_[0], sums_.get(), width_, threads_);
      return;
    }
    if (!folded_) folded_ = make_buffer<T>(cells() * width_);
    const T one = 1;
    over_cell_rows([&](std::int64_t row, T* scratch) {
      sum_columns(row, &one, 0, scratch, folded_.get() + row * row_length());
    });
    is_folded_ = true;
  }
  // Add `other` to the sums of all strips, before fold().
  void add_sums(const T* other) {
    T* const sums = sums_.get();
    parallel_ranges(sums_size(), kClearChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) sums[i] += other[i];
    });
  }
  // Return the number of elements of the sums of all strips.
  std::int64_t sums_size() const {
    return (is_lattice_ ? rows() : partial_slabs_ * view_.grid.slab()) * width_;
  }
  const T* sums() const { return is_lattice_ ? sums_.get() : folded_.get(); }

  void clear_sums() {
    if (is_lattice_)
      clear(sums_.get(), rows() * width_, threads_);  // the sums of a grid were set to 0 by fold()
    is_folded_ = false;
  }

  // Blur the sums, apply C, store the result in the values, and set the sums to 0. `raw`, if not
  // null, receives the input of C.
  void spread(T* raw) {
    if (is_lattice_)
      spread_lattice(raw);
    else
      spread_grid(raw);
  }

  // Apply C to `raw`, an output of spread(), and store the result in the values.
  void couple_raw(const T* raw) {
    T* const values = values_.get();
    const CouplingView<T> coupling = coupling_.view(adjoint_);
    const std::int32_t* const list = is_lattice_ ? links_[0].own_row : nullptr;
    parallel_ranges(listed(), kRowChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
      // finish() clears its input, so copy one row at a time.
      const Buffer<T> copy = make_buffer<T>(width_);
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = list != nullptr ? list[i] : i;
        std::copy(raw + row * width_, raw + (row + 1) * width_, copy.get());
        loops<T>().finish(coupling, nullptr, 1, copy.get(), nullptr, values + row * width_, nullptr,
                          width_);
      }
    });
    if (is_lattice_) share(links_[0], values, width_, threads_);
  }

  // Add the loss's gradient with respect to the coupling C [L, L] to `sum` [L, width] (rows
  // padded): -scale_ * sum_i a_i b_i', over rows i.
  void outer(const T* a, const T* b, std::vector<double>& sum) const {
    const std::int64_t chunks = (listed() + kRowChunk - 1) / kRowChunk,
                       size = std::int64_t(labels_) * width_;
    // The partial sums are added in the order of the chunks, so that the result is bit-identical
    // for any number of threads.
    const Buffer<T> partial = zeros(chunks * size);
    const std::int32_t* const list = is_lattice_ ? links_[0].own_row : nullptr;
    parallel_ranges(listed(), kRowChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t skip = list != nullptr ? 0 : begin * width_;
      loops<T>().outer(list != nullptr ? list + begin : nullptr, end - begin, a + skip, b + skip,
                       nullptr, labels_, width_, partial.get() + begin / kRowChunk * size);
    });
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (std::int64_t i = 0; i < size; ++i) sum[i] += double(scale_) * -partial[chunk * size + i];
    }
  }

 private:
  std::int64_t cells() const {
    return view_.grid.cells[0] * view_.grid.cells[1] * view_.grid.cells[2];
  }
  std::int64_t cell_rows() const { return view_.grid.cells[0] * view_.grid.cells[1]; }
  std::int64_t row_length() const { return view_.grid.cells[2] * width_; }
  // Return the number of rows that the blur computes: one per vertex or cell.
  std::int64_t listed() const { return is_lattice_ ? links_[0].vertices : cells(); }

  Buffer<T> zeros(std::int64_t count) const {
    Buffer<T> out = make_buffer<T>(count);
    clear(out.get(), count, threads_);
    return out;
  }

  // Lay out the sums of each strip, which cover the slabs of cells that its points touch; compute
  // slice_bound_; allocate the buffers.
  void prepare_grid() {
    const GridView<T>& g = view_.grid;
    const int outer = g.outer();
    const std::int64_t unit = outer == 0 ? g.size[1] * g.size[2] : g.size[2];
    for (int s = 0; s < strips_.count; ++s) {
      const auto slab = [&](std::int64_t point) {
        return g.cell[outer][(g.pixel != nullptr ? g.pixel[point] : point) / unit];
      };
      const bool empty = strips_.begin[s] == strips_.begin[s + 1];
      first_slab_.push_back(empty ? 0 : slab(strips_.begin[s]));
      slab_offset_.push_back(partial_slabs_);
      slabs_.push_back(empty ? 0 : slab(strips_.begin[s + 1] - 1) + g.taps[outer] - first_slab_[s]);
      partial_slabs_ += slabs_[s];
    }
    for (int axis = 0; axis < 3; ++axis) {
      const T* const taps = (adjoint_ ? g.splat : g.slice)[axis];
      T greatest = 0;
      for (std::int64_t x = 0; x < g.size[axis]; ++x) {
        T sum = 0;
        for (int i = 0; i < g.taps[axis]; ++i) sum += taps[x * g.taps[axis] + i];
        greatest = std::max(greatest, sum);
      }
      slice_bound_ *= greatest;
    }
    blurred_ = make_buffer<T>(cells() * width_);
    if (g.cells[0] > 1) blurred_rows_ = make_buffer<T>(cells() * width_);
  }

  // Call body(row, scratch memory of one row) for each row of cells in parallel.
  template <class Body>
  void over_cell_rows(const Body& body) {
    const std::int64_t unit = std::max<std::int64_t>(1, kClearChunk / 4 / row_length());
    parallel_ranges(cell_rows(), unit, threads_, [&](std::int64_t begin, std::int64_t end) {
      const Buffer<T> scratch = make_buffer<T>(row_length());
      for (std::int64_t row = begin; row < end; ++row) body(row, scratch.get());
    });
  }

  // Sum one row of cells over the strips, blur it along the row into `out`, and set the summed rows
  // to 0.
  void sum_columns(std::int64_t row, const T* band, int radius, T* scratch, T* out) {
    const GridView<T>& g = view_.grid;
    T* parts[16];
    int count = 0;
    const std::int64_t slab = row * g.cells[2] / g.slab(), within = row * g.cells[2] % g.slab();
    for (int s = 0; s < strips_.count; ++s) {
      if (slab < first_slab_[s] || slab >= first_slab_[s] + slabs_[s]) continue;
      parts[count++] =
          sums_.get() + ((slab_offset_[s] + slab - first_slab_[s]) * g.slab() + within) * width_;
    }
    loops<T>().grid_columns(parts, count, band, radius, g.cells[2], width_, scratch, out);
  }

  void spread_grid(T* raw) {
    const GridView<T>& g = view_.grid;
    const CouplingView<T> coupling = coupling_.view(adjoint_);
    T* const columns = blurred_.get();
    over_cell_rows([&](std::int64_t row, T* scratch) {
      T* const out = columns + row * row_length();
      if (is_folded_) {
        T* from = folded_.get() + row * row_length();
        loops<T>().grid_columns(&from, 1, g.band[2], g.radius[2], g.cells[2], width_, scratch, out);
      } else {
        sum_columns(row, g.band[2], g.radius[2], scratch, out);
      }
    });
    is_folded_ = false;
    // Blur a row of cells along the rows (axis 1) or layers (axis 0).
    const auto along = [&](int axis, std::int64_t step, const T* from, std::int64_t row, T* out) {
      const std::int64_t at = axis == 1 ? row % g.cells[1] : row / g.cells[1];
      const std::int64_t low = std::max<std::int64_t>(-g.radius[axis], -at);
      const std::int64_t high = std::min<std::int64_t>(g.radius[axis], g.cells[axis] - 1 - at);
      std::vector<const T*> rows;
      for (std::int64_t k = low; k <= high; ++k)
        rows.push_back(from + (row + k * step) * row_length());
      loops<T>().grid_rows(rows.data(), g.band[axis] + g.radius[axis] + low, int(rows.size()),
                           row_length(), out);
    };
    const T* last = columns;
    if (g.cells[0] > 1) {
      over_cell_rows([&](std::int64_t row, T*) {
        along(1, 1, columns, row, blurred_rows_.get() + row * row_length());
      });
      last = blurred_rows_.get();
    }
    std::vector<T> greatest(cell_rows());
    over_cell_rows([&](std::int64_t row, T* scratch) {
      if (g.cells[0] > 1)
        along(0, g.cells[1], last, row, scratch);
      else
        along(1, 1, last, row, scratch);
      const std::int64_t at = row * row_length();
      greatest[row] =
          loops<T>().finish(coupling, nullptr, g.cells[2], scratch, nullptr, values_.get() + at,
                            raw != nullptr ? raw + at : nullptr, width_);
    });
    greatest_ = *std::max_element(greatest.begin(), greatest.end());
  }

  void spread_lattice(T* raw) {
    const Links& links = links_[0];
    T* const values = values_.get();
    const CouplingView<T> coupling = coupling_.view(adjoint_);
    const bool mean =
        blur(links, view_.lattice.dims, adjoint_, sums_.get(), values, width_, threads_);
    if (width_ == 1) {  // in order; the sums of ghosts are 0, and share() copies their values
      T* const sums = sums_.get();
      parallel_ranges(links.rows, kRowChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
        loops<T>().finish(coupling, nullptr, end - begin, sums + begin,
                          mean ? values + begin : nullptr, values + begin, nullptr, 1);
      });
      return share(links, values, 1, threads_);
    }
    std::vector<T> greatest((links.vertices + kRowChunk - 1) / kRowChunk);
    parallel_ranges(links.vertices, kRowChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
      greatest[begin / kRowChunk] =
          loops<T>().finish(coupling, links.own_row + begin, end - begin, sums_.get(),
                            mean ? values : nullptr, values, raw, width_);
    });
    greatest_ = *std::max_element(greatest.begin(), greatest.end());
    share(links, values, width_, threads_);
  }

  KernelView<T> view_;
  int labels_, width_;
  bool adjoint_, is_lattice_;
  int threads_;
  Strips strips_;
  T scale_;
  Coupling<T> coupling_;                  // -scale_ times C
  Coupling<T> taken_back_;                // C
  std::vector<Links> links_;              // one for a lattice, none for a grid
  std::vector<std::int32_t> first_slab_;  // [strips], first slab of each strip
  // [strips]: number of slabs of all strips before each strip; number of slabs of the strip.
  std::vector<std::int64_t> slab_offset_, slabs_;
  std::int64_t partial_slabs_ = 0;  // number of slabs of all strips
  bool is_folded_ = false;          // whether fold() has written folded_
  T greatest_ = 0;                  // maximum magnitude of a value
  T slice_bound_ = 1;               // maximum magnitude of a sliced value if all values are 1 ...
  T out_of_bound_ = -1;             // ... and the greatest factor of a point, once it is known
  Buffer<T> sums_, values_;         // [rows, width]; sums of a grid: the slabs of all strips
  Buffer<T> blurred_, blurred_rows_, folded_;  // [cells, width], for a grid only
};

}  // namespace dcrf
