// The loops over points of Loops. A strip is processed tile by tile; each tile is sliced, updated
// and splatted while its rows are in the first-level cache.
#pragma once

#include <limits>

#include "grid_points.hpp"
#include "lattice_points.hpp"
#include "logits.hpp"
#include "number_points.hpp"
#include "planes.hpp"
#include "softmax_rows.hpp"

namespace dcrf::DCRF_ISA {

// Return the factors of the rows of a tile before the splat: the kernel's `into` times the caller's
// `factor`, each null for 1. `room` [kTile] holds the product.
template <typename T>
DCRF_INLINE const T* row_scale(const PointKernel<T>& k, const Tile& tile, const T* factor,
                               T* room) {
  if (k.into == nullptr) return factor;
  if (factor == nullptr) return k.into + tile.begin;
  for (int p = 0; p < tile.count; ++p) room[p] = factor[p] * k.into[tile.begin + p];
  return room;
}

// Slice and splat of all kernels of a pass, for one strip.
template <int W, typename T>
struct StripKernels {
  const PointKernel<T>* kernels;
  int count, strip, width;
  GridRow<T> rows[kMaxKernels];

  // Take the row buffers of grids from `scratch`, and advance `scratch` past them.
  DCRF_INLINE StripKernels(const PointKernel<T>* list, int n, int s, int w, T*& scratch)
      : kernels(list), count(list != nullptr ? n : 0), strip(s), width(w) {
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex != nullptr) continue;
      const std::int64_t length = kernels[m].grid.cells[2] * width;
      rows[m].values = scratch;
      rows[m].sums = scratch + length;
      scratch += 2 * length;
      for (std::int64_t i = 0; i < length; ++i) rows[m].sums[i] = T(0);
    }
  }
  // Add the messages of all kernels to the rows of a tile. To be called once per tile, before
  // splat().
  DCRF_INLINE void slice(const Tile& tile, T* out) {
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex != nullptr)
        slice_tile<W>(kernels[m], strip, tile, out, width);
      else
        slice_tile<W>(kernels[m], rows[m], tile, out, width);
    }
  }
  // Splat the rows of a tile, times `factor` if it is not null, into all kernels.
  DCRF_INLINE void splat(const Tile& tile, const T* in, const T* factor) {
    T scale[kTile];
    for (int m = 0; m < count; ++m) {
      const T* const by = row_scale(kernels[m], tile, factor, scale);
      if (kernels[m].vertex != nullptr)
        splat_tile<W>(kernels[m], strip, tile, in, by, width);
      else
        splat_tile<W>(kernels[m], strip, rows[m], tile, in, by, width);
    }
  }
  // Record which row of pixels the grid buffers hold now.
  DCRF_INLINE void end_tile(const Tile& tile) {
    for (int m = 0; m < count; ++m) rows[m].row = tile.pixel_row;
  }
  // Add the last row in the grid buffers to the sums.
  DCRF_INLINE void flush() {
    for (int m = 0; m < count; ++m) {
      if (kernels[m].vertex == nullptr && rows[m].row >= 0) {
        flush_grid_row(kernels[m], strip, rows[m].row, rows[m].sums, width);
      }
    }
  }
};

// Compute a forward pass (ForwardPass) in one strip: messages, unaries, softmax and splat.
template <int W, typename T>
bool forward_strip(const ForwardPass<T>& pass, int strip, T* scratch) {
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  const int width = row_stride<W>(pass.width), labels = pass.labels;
  const Strips strips(pass.points);
  T* const rows = scratch;  // [kTile, width]
  for (int i = 0; i < kTile * width; ++i) rows[i] = T(0);
  T inverse[kTile];
  T* const spare = rows + kTile * width;
  scratch = spare + width;
  StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, width, scratch);
  bool good = true;
  for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
    const Tile& tile = tiles.tile;
    if ((pass.first || pass.last) && pass.stored.data != nullptr) {
      load_logits<W>(pass.stored, labels, tile, rows, width);
    } else if (pass.first || pass.last) {
      load_planes<W>(pass.logits, pass.points, labels, tile, rows, width, kLeast);
    } else {
      load_unary<W>(pass, tile, rows);
    }
    if (pass.first) {
      good &= shift_to_peak<W>(rows, tile.count, width, !pass.last);
      if (!pass.last) store_unary<W>(rows, tile, pass);
    } else {
      kernels.slice(tile, rows);
      if (pass.self != nullptr) {
        add_self_terms<W>(pass.self, pass.kernel_count, pass.q_before, tile, rows, width, spare);
      }
    }
    if (!pass.last || (pass.marginals && pass.labels_to.data == nullptr)) {
      exponentiate<W>(rows, tile.count, width, pass.safe && !pass.last, inverse);
    }
    if (pass.last && pass.labels_to.data != nullptr) {
      store_labels<W>(rows, width, tile, labels, pass.labels_to);
    } else if (pass.last) {
      if (pass.marginals) scale_rows<W>(rows, tile.count, width, inverse, rows);
      store_planes<W>(rows, width, tile, labels, pass.refined, pass.points);
    } else {
      // The splat multiplies by `inverse` itself, whether or not the marginals are saved, so that
      // the results do not depend on it.
      if (pass.saved_q != nullptr) {
        scale_rows<W>(rows, tile.count, width, inverse, pass.saved_q + tile.begin * width);
      }
      kernels.splat(tile, rows, inverse);
    }
    kernels.end_tile(tile);
  }
  if (!pass.last) kernels.flush();
  return good;
}

template <typename T>
bool forward(const ForwardPass<T>& pass, int strip, T* scratch) {
  bool good = true;
  with_width(pass.width,
             [&](auto w) { good = forward_strip<decltype(w)::value>(pass, strip, scratch); });
  return good;
}

// Compute a backward pass (BackwardPass) in one strip.
template <int W, typename T>
void backward_strip(const BackwardPass<T>& pass, int strip, T* scratch) {
  constexpr T kLeast = -std::numeric_limits<T>::infinity();
  const int width = row_stride<W>(pass.width), labels = pass.labels;
  const Strips strips(pass.points);
  T* const g = scratch;  // [kTile, width]
  T* const q_rows = g + kTile * width;
  T inverse[kTile];
  T* const spare = q_rows + kTile * width;
  for (int i = 0; i < kTile * width; ++i) q_rows[i] = T(0);
  scratch = spare + width;
  StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, width, scratch);
  StripKernels<W, T> forward(pass.forward, pass.kernel_count, strip, width, scratch);
  for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
    const Tile& tile = tiles.tile;
    const std::int64_t start = tile.begin * width;
    if (pass.first) {
      load_planes<W>(pass.d_refined, pass.points, labels, tile, g, width, T(0));
    } else {
      const T* q = q_rows;
      if (pass.q != nullptr) {
        q = pass.q + start;
      } else {
        load_planes<W>(pass.logits, pass.points, labels, tile, q_rows, width, kLeast);
        shift_to_peak<W>(q_rows, tile.count, width, true);  // as in the forward pass
        forward.slice(tile, q_rows);
        exponentiate<W>(q_rows, tile.count, width, false, inverse);
        scale_rows<W>(q_rows, tile.count, width, inverse, q_rows);
      }
      for (int i = 0; i < tile.count * width; ++i) g[i] = T(0);
      kernels.slice(tile, g);
      if (pass.self != nullptr) {
        add_self_terms<W>(pass.self, pass.kernel_count, pass.gradient, tile, g, width, spare);
      }
      for (int m = 0; m < pass.kernel_count && pass.wanted != nullptr; ++m) {
        const PointGradient<T>& to = pass.wanted[m];
        if (to.weight == nullptr) continue;
        add_weight_gradient<W>(pass.kernels[m], strip, tile, q, width, to.weight, to.before);
        if (to.diagonal == nullptr) continue;
        // In the adjoint kernel, `into` is the factor `after` and `out_of` the factor `before`.
        const PointKernel<T>& k = pass.kernels[m];
        for (int p = 0; p < tile.count; ++p) {
          const std::int64_t point = tile.begin + p;
          couple<W>(pass.forward_self[m].coupling, q + p * width, spare, width);
          T inner = 0;
          for (int c = 0; c < width; ++c) inner += spare[c] * pass.gradient[point * width + c];
          const T before = k.out_of != nullptr ? k.out_of[point] : T(1);
          const T after = k.into != nullptr ? k.into[point] : T(1);
          to.diagonal[point] += before * after * inner;
          if (to.before != nullptr) to.before[point] += after * pass.diagonal[m][point] * inner;
          if (to.after != nullptr) to.after[point] += before * pass.diagonal[m][point] * inner;
        }
      }
      for (int p = 0; p < tile.count; ++p) {  // multiply by the Jacobian of the softmax
        T inner = 0;
        in_blocks<W>(width, [&](auto block, int at) {
          Row<T, decltype(block)::value> row;
          row.load(q + p * width + at);
          inner += row.dot(g + p * width + at);
        });
        in_blocks<W>(width, [&](auto block, int at) {
          Row<T, decltype(block)::value> row, marginal;
          row.load(g + p * width + at);
          row.subtract(inner);
          marginal.load(q + p * width + at);
          row.multiply(marginal);
          row.store(g + p * width + at);
          row.add(pass.sum + start + p * width + at);
          row.store(pass.last ? g + p * width + at : pass.sum + start + p * width + at);
        });
      }
    }
    if (pass.first) __builtin_memcpy(pass.sum + start, g, sizeof(T) * tile.count * width);
    if (pass.gradient != nullptr)
      __builtin_memcpy(pass.gradient + start, g, sizeof(T) * tile.count * width);
    if (pass.last) {
      store_planes<W>(g, width, tile, labels, pass.d_logits, pass.points);
    } else {
      for (int m = 0; m < pass.kernel_count && pass.wanted != nullptr; ++m) {
        const PointGradient<T>& to = pass.wanted[m];
        if (to.weight == nullptr) continue;
        add_weight_gradient<W>(pass.forward[m], strip, tile, g, width, to.weight, to.after);
      }
      kernels.splat(tile, g, nullptr);
    }
    kernels.end_tile(tile);
    forward.end_tile(tile);
  }
  if (!pass.last) kernels.flush();
}

template <typename T>
void backward(const BackwardPass<T>& pass, int strip, T* scratch) {
  with_width(pass.width, [&](auto w) { backward_strip<decltype(w)::value>(pass, strip, scratch); });
}

// --- splat, slice and their gradient by themselves, for rows that the caller owns ---

// Copy the rows of a tile's points, `stride` elements apart, to rows [count, width]; the padding is
// not written.
template <typename T>
DCRF_INLINE void load_rows(const T* from, std::int64_t stride, const PointPass<T>& pass,
                           const Tile& tile, T* rows) {
  for (int p = 0; p < tile.count; ++p) {
    const T* const row = from + (tile.begin + p) * stride;
    for (int l = 0; l < pass.labels; ++l) rows[p * pass.width + l] = row[l];
  }
}

template <typename T>
void splat(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride, T* scratch) {
  if (pass.width == 1) return splat_numbers(pass, strip, from, stride);
  with_width(pass.width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    const Strips strips(pass.points);
    T* const rows = scratch;
    scratch += kTile * pass.width;
    StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, pass.width, scratch);
    for (int i = 0; i < kTile * pass.width; ++i) rows[i] = T(0);
    for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      load_rows(from, stride, pass, tile, rows);
      kernels.splat(tile, rows, nullptr);
      kernels.end_tile(tile);
    }
    kernels.flush();
  });
}

template <typename T>
void slice(const PointPass<T>& pass, int strip, T* to, std::int64_t stride, T* scratch) {
  if (pass.width == 1) return slice_numbers(pass, strip, to, stride);
  with_width(pass.width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    const Strips strips(pass.points);
    T* const rows = scratch;
    scratch += kTile * pass.width;
    StripKernels<W, T> kernels(pass.kernels, pass.kernel_count, strip, pass.width, scratch);
    for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      for (int i = 0; i < tile.count * pass.width; ++i) rows[i] = T(0);
      kernels.slice(tile, rows);
      kernels.end_tile(tile);
      for (int p = 0; p < tile.count; ++p) {
        T* const row = to + (tile.begin + p) * stride;
        for (int l = 0; l < pass.labels; ++l) row[l] = rows[p * pass.width + l];
      }
    }
  });
}

template <typename T>
void weight_gradient(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride,
                     T* d_weight, T* scratch) {
  with_width(pass.width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    const Strips strips(pass.points);
    T* const rows = scratch;
    for (int i = 0; i < kTile * pass.width; ++i) rows[i] = T(0);
    for (Tiles<T> tiles(pass, strips.begin[strip], strips.begin[strip + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      load_rows(from, stride, pass, tile, rows);
      T* const no_scale = nullptr;
      add_weight_gradient<W>(pass.kernels[0], strip, tile, rows, pass.width, d_weight, no_scale);
    }
  });
}

}  // namespace dcrf::DCRF_ISA
