// The order in which passes that leave labels out visit the points of a strip: tiles of up to 4
// rows of 16 pixels. Compact tiles hold few labels and share many vertices and cells.
#pragma once

#include "coupling.hpp"

namespace dcrf::DCRF_ISA {

constexpr int kTileColumns = 16;
static_assert(kTileColumns * kTileRows == kTile, "the tiles of both kinds of passes are as large");

// Consecutive rows of points of one strip: `rows` rows of `columns` points, the first of which is
// `begin`; the next row begins `columns` points later. If there is a grid kernel, they are rows of
// pixels, the first of them `pixel_row`.
struct Band {
  std::int64_t begin = 0, columns = 0;
  int rows = 0;
  std::int64_t pixel_row = 0;

  __attribute__((always_inline)) std::int64_t point(int row, std::int64_t column) const {
    return begin + row * columns + column;
  }
};

// Iterates over the bands of a strip, in order. Bands have kTileRows rows where all pixels are
// points. A strip may begin and end within a row of pixels; these parts of rows, and all rows of a
// masked image, are bands of one row. Without a grid kernel nothing is known about rows, and the
// strip is one band of one row.
template <typename T>
struct Bands {
  const GridView<T>* grid = nullptr;
  std::int64_t end, next_begin;
  Band band;

  DCRF_INLINE Bands(const PointPass<T>& pass, std::int64_t first, std::int64_t last)
      : end(last), next_begin(first) {
    for (int m = 0; m < pass.kernel_count; ++m) {
      if (pass.kernels[m].vertex == nullptr) grid = &pass.kernels[m].grid;
    }
  }
  DCRF_INLINE bool next() {
    if (next_begin >= end) return false;
    band.begin = next_begin;
    band.rows = 1;
    band.columns = end - next_begin;
    if (grid != nullptr) {
      const std::int64_t length = grid->size[2];
      if (grid->pixel != nullptr) {
        band.pixel_row = grid->pixel[band.begin] / length;
        const std::int64_t beyond = (band.pixel_row + 1) * length;
        std::int64_t last = band.begin + 1;
        while (last < end && grid->pixel[last] < beyond) ++last;
        band.columns = last - band.begin;
      } else {
        band.pixel_row = band.begin / length;
        const std::int64_t left = (band.pixel_row + 1) * length - band.begin;
        if (left < band.columns) band.columns = left;
        if (left == length && band.columns == length) {
          const std::int64_t whole = (end - band.begin) / length;
          band.rows = int(whole < kTileRows ? whole : kTileRows);
        }
      }
    }
    next_begin = band.begin + band.rows * band.columns;
    return true;
  }
};

}  // namespace dcrf::DCRF_ISA
