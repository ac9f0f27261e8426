// Divides the points of a strip into tiles: a few points whose rows stay in the first-level cache.
#pragma once

#include "coupling.hpp"

namespace dcrf::DCRF_ISA {

// Points [begin, begin + count) of one strip; if there is a grid kernel, all are in the same row of
// pixels, `pixel_row`.
struct Tile {
  std::int64_t begin = 0;
  int count = 0;
  std::int64_t pixel_row = 0;
};

// Iterates over the tiles of a strip, in order. If there is a grid kernel, tiles also end where a
// row of pixels ends.
template <typename T>
struct Tiles {
  const GridView<T>* grid = nullptr;
  std::int64_t end;
  Tile tile;

  DCRF_INLINE Tiles(const PointPass<T>& pass, std::int64_t first, std::int64_t last) : end(last) {
    for (int m = 0; m < pass.kernel_count; ++m) {
      if (pass.kernels[m].vertex == nullptr) grid = &pass.kernels[m].grid;
    }
    tile.begin = first;
  }
  DCRF_INLINE bool next() {
    tile.begin += tile.count;
    if (tile.begin >= end) return false;
    std::int64_t last = tile.begin + kTile < end ? tile.begin + kTile : end;
    if (grid != nullptr) {
      const std::int64_t length = grid->size[2];
      if (grid->pixel == nullptr) {
        tile.pixel_row = tile.begin / length;
        const std::int64_t row_end = (tile.pixel_row + 1) * length;
        if (row_end < last) last = row_end;
      } else {
        tile.pixel_row = grid->pixel[tile.begin] / length;
        while (grid->pixel[last - 1] / length != tile.pixel_row) --last;
      }
    }
    tile.count = int(last - tile.begin);
    return true;
  }
};

// Prefetch the corners of points that come soon: there is more memory to read than arithmetic.
template <typename T>
DCRF_INLINE void prefetch_corners(const std::int32_t* vertex, const T* weight) {
  __builtin_prefetch(vertex + 2048 / sizeof(std::int32_t));
  __builtin_prefetch(weight + 2048 / sizeof(T));
}

// Return the width of a row of label values: a compile-time constant if W > 0.
template <int W>
DCRF_INLINE int row_stride(int width) {
  return W > 0 ? W : width;
}

// Number of rows and columns of the blocks in which tiles are transposed; it divides the row width.
template <typename T, int W>
constexpr int kBlock = W == 0                         ? 4
                       : W % 8 == 0 && kLanes<T> >= 8 ? 8
                                                      : 4;

}  // namespace dcrf::DCRF_ISA
