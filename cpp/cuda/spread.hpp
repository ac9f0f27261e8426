// Splats rows of values at points to the vertices of a lattice or the cells of a grid, blurs them
// there and applies the coupling. These operations together are called a spread. Each function here
// is one step of it; spread_steps.hpp launches them in turn.
#pragma once

#include "narrow.hpp"
#include "world.hpp"

namespace dcrf::cuda {

constexpr int kTaps = 3;  // consecutive cells per axis that a pixel is splatted to or sliced from

// Buffers of one spread, [kernel.rows(images), width] unless noted. S is the storage type: T, the
// type of the arithmetic, or a 16-bit type of narrow.hpp.
template <typename S>
struct SpreadRoom {
  // Lattice: sums per chunk [copies, most_chunks, width]; grid: results after splatting along some
  // axes.
  S* parts = nullptr;
  S* sums = nullptr;    // the splatted values
  S* blurred[2] = {};   // blur i writes blurred[i % 2] and reads the other one (i = 0: sums)
  S* reversed[2] = {};  // the same for blurs in reverse axis order, if the kernel needs them

  // Return the rows that blur i reads; `pair` is `blurred` or `reversed`.
  DCRF_HOST_DEVICE const S* input(S* const* pair, int i) const {
    return i == 0 ? sums : pair[(i - 1) % 2];
  }
};

// Return the number of rows of `parts`.
template <typename T>
std::int64_t parts_rows(const KernelView<T>& kernel, std::int64_t images) {
  if (!kernel.is_grid())
    return kernel.lattice.links.most_chunks() * (images / kernel.lattice.images);
  const GridView<T>& g = kernel.grid;
  std::int64_t rows = 0, cells = images;
  // Add the sizes of the results of all splats along one axis but the last.
  for (int axis = g.axes - 1; axis > 0; --axis) {
    cells *= g.cells[axis];
    std::int64_t pixels = 1;
    for (int other = 0; other < axis; ++other) pixels *= g.size[other];
    rows += cells * pixels;
  }
  return rows;
}

// Return the number of levels of the tree that adds up the chunks of a vertex, before the last step
// adds at most kSegmentChunk sums; a vertex has at most one entry per point of an image.
inline int tree_levels(std::int64_t points) {
  int levels = 0;
  std::int64_t sums = (points + kSegmentChunk - 1) / kSegmentChunk;
  for (; sums > kSegmentChunk; sums = (sums + kSegmentChunk - 1) / kSegmentChunk) ++levels;
  return levels;
}

// Return the number of chunks that `levels` levels of the tree have added up.
DCRF_HOST_DEVICE inline std::int64_t tree_stride(int levels) {
  std::int64_t stride = 1;
  for (int i = 0; i < levels; ++i) stride *= kSegmentChunk;
  return stride;
}

// One spread: its buffers and options. The result is scale * coupling * blurred rows; values()
// returns it.
template <typename T, typename S = T>
struct Spread {
  SpreadRoom<S> room;
  bool transpose = false;       // apply the transposed kernel
  bool blurred = true;          // false: splat only, into `sums`
  const T* columns = nullptr;  // the coupling [L, L], column after column; null: the identity
  T scale = 1;
  int levels = 0;  // tree_levels() of a lattice

  // Return whether to average the blurs in both axis orders.
  DCRF_HOST_DEVICE bool both(const KernelView<T>& k) const {
    return !k.is_grid() && k.lattice.symmetric;
  }
  // Return the number of blurs, one per axis.
  DCRF_HOST_DEVICE int axes(const KernelView<T>& k) const {
    return k.is_grid() ? k.grid.axes : k.lattice.dims + 1;
  }
  // Return the output of the last blur (in the given axis order), before the coupling.
  DCRF_HOST_DEVICE const S* blurred_rows(const KernelView<T>& k) const {
    return room.blurred[(axes(k) - 1) % 2];
  }
  // Return the output of the last blur in reverse axis order, or null if there is none.
  DCRF_HOST_DEVICE const S* other_blurred_rows(const KernelView<T>& k) const {
    return both(k) ? room.reversed[(axes(k) - 1) % 2] : nullptr;
  }
  DCRF_HOST_DEVICE S* values(const KernelView<T>& k) const { return room.blurred[axes(k) % 2]; }
};

// Call body(i, channel) for the up to kPerLane channels of this lane in a block of a row. The first
// of them is `c`; they are lanes.size() apart.
template <class Body>
DCRF_DEVICE void for_held(const Lanes& lanes, int c, int channels, const Body& body) {
  for (int i = 0; i < kPerLane; ++i) {
    const int channel = c + i * lanes.size();
    if (channel < channels) body(i, channel);
  }
}

// Sums for one block of a row, kPerLane elements per lane, held in registers.
template <typename T>
struct BlockSum {
  T x[kPerLane] = {};

  // Add weight * row.
  template <typename S>
  DCRF_DEVICE void add(const Lanes& lanes, int c, int channels, T weight, const S* row) {
    for_held(lanes, c, channels, [&](int i, int channel) { x[i] += weight * T(row[channel]); });
  }
  // Store the sums in the row.
  template <typename S>
  DCRF_DEVICE void store(const Lanes& lanes, int c, int channels, S* row) const {
    for_held(lanes, c, channels, [&](int i, int channel) { row[channel] = S(x[i]); });
  }
};

// Call body(c) for each block of a row, c being the first channel of this lane in the block. All
// lanes run the same number of blocks.
template <class Body>
DCRF_DEVICE void for_blocks(const Lanes& lanes, int channels, const Body& body) {
  for (int c = lanes.rank(); c < channels + lanes.rank(); c += kPerLane * lanes.size()) body(c);
}

// Add C x to `sum`, where x(l) is the value of label l and `columns` holds C [L, L] column after
// column: neighbouring lanes read neighbouring elements.
template <typename T, class Row>
DCRF_DEVICE void add_coupled(const Lanes& lanes, int labels, int c, const T* columns, const Row& x,
                             BlockSum<T>& sum) {
  for (int l = 0; l < labels; ++l) {
    const T value = x(l);
    const T* const column = columns + std::int64_t(l) * labels;
    for_held(lanes, c, labels, [&](int i, int label) { sum.x[i] += value * column[label]; });
  }
}

// Splat, first step: sum each chunk of entries. A vertex that has one chunk is then complete.
template <typename T, typename S>
DCRF_DEVICE void splat_chunks(const World& world, const Lanes& lanes, const LatticeView<T>& lattice,
                              const Shape& shape, const T* from, const T* factor,
                              const SpreadRoom<S>& room) {
  const Links& links = lattice.links;
  const std::int64_t copies = shape.images / lattice.images;
  const std::int64_t chunks = links.chunk_first[links.vertices];
  const int corners = lattice.dims + 1;
  for_items(world, lanes, chunks * copies, [&](std::int64_t item) {
    const std::int64_t copy = copies > 1 ? item / chunks : 0, chunk = item - copy * chunks;
    const std::int64_t v = links.chunk_vertex[chunk];
    const std::int32_t first = links.chunk_first[v];
    const std::int32_t begin = links.segment[v] + std::int32_t(chunk - first) * kSegmentChunk;
    const std::int32_t limit = links.segment[v + 1];
    const std::int32_t end = limit - begin > kSegmentChunk ? begin + kSegmentChunk : limit;
    const bool only = links.chunk_first[v + 1] == first + 1;
    S* const out = only ? room.sums + (copy * links.vertices + v) * shape.width
                        : room.parts + item * shape.width;
    for_blocks(lanes, shape.channels, [&](int c) {
      BlockSum<T> sum;
      for (std::int32_t e = begin; e < end; ++e) {
        const std::int32_t slot = links.entry[e];
        const std::int64_t point = slot / corners;
        const T weight =
            factor == nullptr ? lattice.weight[slot] : lattice.weight[slot] * factor[point];
        const T* const row = from + (copy * shape.points + point) * shape.width;
        sum.add(lanes, c, shape.channels, weight, row);
      }
      sum.store(lanes, c, shape.channels, out);
    });
  });
}

// Splat, a step between the first and the last: level `level` (from 1) of the tree that adds up the
// chunks of vertices that have very many. The sum of kSegmentChunk^level consecutive chunks of a
// vertex, counted from its own start, replaces the first of them.
template <typename T, typename S>
DCRF_DEVICE void splat_level(const World& world, const Lanes& lanes, const LatticeView<T>& lattice,
                             const Shape& shape, int level, const SpreadRoom<S>& room) {
  const Links& links = lattice.links;
  const std::int64_t copies = shape.images / lattice.images;
  const std::int64_t chunks = links.chunk_first[links.vertices];
  const std::int64_t stride = tree_stride(level - 1), whole = stride * kSegmentChunk;
  for_items(world, lanes, chunks * copies, [&](std::int64_t item) {
    const std::int64_t copy = copies > 1 ? item / chunks : 0, chunk = item - copy * chunks;
    const std::int64_t v = links.chunk_vertex[chunk], limit = links.chunk_first[v + 1];
    if ((chunk - links.chunk_first[v]) % whole != 0 || chunk + stride >= limit) return;
    const std::int64_t end = limit - chunk > whole ? chunk + whole : limit;
    S* const out = room.parts + item * shape.width;
    for_blocks(lanes, shape.channels, [&](int c) {
      BlockSum<T> sum;
      for (std::int64_t other = 0; other < end - chunk; other += stride)
        sum.add(lanes, c, shape.channels, T(1), out + other * shape.width);
      sum.store(lanes, c, shape.channels, out);
    });
  });
}

// Splat, last step: add up the chunks of vertices that have several, after `levels` levels of the
// tree, and write 0 to vertices that have none.
template <typename T, typename S>
DCRF_DEVICE void splat_vertices(const World& world, const Lanes& lanes,
                                const LatticeView<T>& lattice, const Shape& shape,
                                int levels, const SpreadRoom<S>& room) {
  const Links& links = lattice.links;
  const std::int64_t copies = shape.images / lattice.images;
  const std::int64_t chunks = links.chunk_first[links.vertices], stride = tree_stride(levels);
  for_items(world, lanes, links.vertices * copies, [&](std::int64_t item) {
    const std::int64_t copy = copies > 1 ? item / links.vertices : 0;
    const std::int64_t v = item - copy * links.vertices;
    const std::int32_t begin = links.chunk_first[v], end = links.chunk_first[v + 1];
    if (end == begin + 1) return;
    for_blocks(lanes, shape.channels, [&](int c) {
      BlockSum<T> sum;
      for (std::int64_t chunk = begin; chunk < end; chunk += stride) {
        const S* const row = room.parts + (copy * chunks + chunk) * shape.width;
        sum.add(lanes, c, shape.channels, T(1), row);
      }
      sum.store(lanes, c, shape.channels, room.sums + item * shape.width);
    });
  });
}

// Blur along one lattice axis. Missing neighbours count as 0.
template <typename T, typename S>
DCRF_DEVICE void blur_axis(const World& world, const Lanes& lanes, const LatticeView<T>& lattice,
                           const Shape& shape, int axis, const S* from, S* to) {
  const Links& links = lattice.links;
  const std::int64_t copies = shape.images / lattice.images;
  const std::int32_t* const neighbour = links.neighbour + 2 * axis * links.vertices;
  for_items(world, lanes, links.vertices * copies, [&](std::int64_t item) {
    const std::int64_t base = copies > 1 ? item / links.vertices * links.vertices : 0;
    const std::int64_t v = item - base;
    const std::int32_t back = neighbour[2 * v], forth = neighbour[2 * v + 1];
    const S* const row = from + item * shape.width;
    const S* const left = back < 0 ? nullptr : from + (base + back) * shape.width;
    const S* const right = forth < 0 ? nullptr : from + (base + forth) * shape.width;
    S* const out = to + item * shape.width;
    for (int c = lanes.rank(); c < shape.channels; c += lanes.size()) {
      const T sides =
          (left == nullptr ? T(0) : T(left[c])) + (right == nullptr ? T(0) : T(right[c]));
      out[c] = S(T(row[c]) + T(kBlurSide) * sides);
    }
  });
}

// Splat along one grid axis, from pixels to cells: [outer, size, inner] -> [outer, cells, inner].
template <typename T, typename From, typename S>
DCRF_DEVICE void contract_axis(const World& world, const Lanes& lanes, const GridView<T>& grid,
                               const Shape& shape, int axis, const T* taps, const From* from,
                               const T* factor, bool factor_per_image, S* to) {
  std::int64_t outer = shape.images, inner = 1;
  for (int a = 0; a < axis; ++a) outer *= grid.size[a];
  for (int a = axis + 1; a < grid.axes; ++a) inner *= grid.cells[a];
  const std::int64_t cells = grid.cells[axis], size = grid.size[axis];
  for_items(world, lanes, outer * cells * inner, [&](std::int64_t item) {
    const std::int64_t line = item / inner, i = item - line * inner;
    const std::int64_t o = line / cells, j = line - o * cells;
    // Factors are per pixel, so the first splat (last axis, `inner` = 1) applies them.
    const std::int64_t in_image = factor == nullptr ? 0 : o * size % shape.points;
    const std::int64_t begin = grid.first[axis][j < kTaps ? 0 : j - kTaps + 1],
                       end = grid.first[axis][j + 1];
    for_blocks(lanes, shape.channels, [&](int c) {
      BlockSum<T> sum;
      for (std::int64_t x = begin; x < end; ++x) {
        const std::int64_t at = (o * size + x) * inner + i;
        T weight = taps[kTaps * x + j - grid.cell[axis][x]];
        if (factor != nullptr) weight *= factor[factor_per_image ? at : in_image + x];
        sum.add(lanes, c, shape.channels, weight, from + at * shape.width);
      }
      sum.store(lanes, c, shape.channels, to + item * shape.width);
    });
  });
}

// Blur along one grid axis: multiply the cells along the axis by its band matrix.
template <typename T, typename S>
DCRF_DEVICE void band_axis(const World& world, const Lanes& lanes, const GridView<T>& grid,
                           const Shape& shape, int axis, const S* from, S* to) {
  std::int64_t all = shape.images, inner = 1;
  for (int a = 0; a < grid.axes; ++a) all *= grid.cells[a];
  for (int a = axis + 1; a < grid.axes; ++a) inner *= grid.cells[a];
  const std::int64_t cells = grid.cells[axis];
  const int radius = grid.radius[axis];
  for_items(world, lanes, all, [&](std::int64_t item) {
    const std::int64_t j = item / inner % cells;
    const std::int64_t begin = j < radius ? -j : -radius;
    const std::int64_t end = cells - 1 - j < radius ? cells - 1 - j : radius;
    for_blocks(lanes, shape.channels, [&](int c) {
      BlockSum<T> sum;
      for (std::int64_t k = begin; k <= end; ++k) {
        const S* const row = from + (item + k * inner) * shape.width;
        sum.add(lanes, c, shape.channels, grid.band[axis][radius + k], row);
      }
      sum.store(lanes, c, shape.channels, to + item * shape.width);
    });
  });
}

// Compute to = scale * C * from or, if `other` is not null, scale * C * (from + other) / 2. C is
// the coupling of `spread` [L, L], and the identity if it is null.
template <typename T, typename S>
DCRF_DEVICE void couple(const World& world, const Lanes& lanes, std::int64_t rows,
                        const Shape& shape, const Spread<T, S>& spread, const S* from,
                        const S* other, S* to) {
  const int labels = shape.channels;
  const T scale = other == nullptr ? spread.scale : T(0.5) * spread.scale;
  for_items(world, lanes, rows, [&](std::int64_t item) {
    const S* const row = from + item * shape.width;
    const S* const second = other == nullptr ? nullptr : other + item * shape.width;
    S* const out = to + item * shape.width;
    const auto blurred = [&](int l) {
      return scale * (second == nullptr ? T(row[l]) : T(row[l]) + T(second[l]));
    };
    if (spread.columns == nullptr) {
      for (int c = lanes.rank(); c < labels; c += lanes.size()) out[c] = S(blurred(c));
      return;
    }
    for_blocks(lanes, labels, [&](int c) {
      BlockSum<T> sum;
      add_coupled(lanes, labels, c, spread.columns, blurred, sum);
      sum.store(lanes, c, labels, out);
    });
  });
}

}  // namespace dcrf::cuda
