#include "lattice.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "../core/key.hpp"
#include "../core/simplex.hpp"
#include "buffer.hpp"
#include "pool.hpp"

namespace dcrf {
namespace {

// Calls body(std::integral_constant<int, D>) with D = dims for the common sizes, else D = 0.
template <class Body>
void with_dims(int dims, const Body& body) {
  switch (dims) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    case 4: return body(std::integral_constant<int, 4>());
    case 5: return body(std::integral_constant<int, 5>());
    case 6: return body(std::integral_constant<int, 6>());
    default: return body(std::integral_constant<int, 0>());
  }
}

struct Located {
  Buffer<std::int32_t> quotient;  // [N, d], of vertex 0
  Buffer<std::int8_t> axis;       // [N, d], the axis that leads from vertex k to k + 1
  std::int32_t low[kMaxDims], high[kMaxDims];
};

template <typename T>
Located locate_all(const T* features, std::int64_t points, int dims, T* weight, int threads) {
  Located out;
  out.quotient = make_buffer<std::int32_t>(points * dims);
  out.axis = make_buffer<std::int8_t>(points * dims);
  T scale[kMaxDims];
  for (int i = 0; i < dims; ++i) scale[i] = T(elevation_scale(dims, i));

  struct Range {
    std::int32_t low[kMaxDims], high[kMaxDims];
  };
  std::vector<Range> ranges((points + kPointChunk - 1) / kPointChunk);
  with_dims(dims, [&](auto static_dims) {
    constexpr int kDims = decltype(static_dims)::value;
    parallel_ranges(points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
      const int d = kDims > 0 ? kDims : dims;
      Range& range = ranges[begin / kPointChunk];
      std::fill(range.low, range.low + d, std::numeric_limits<std::int32_t>::max());
      std::fill(range.high, range.high + d, std::numeric_limits<std::int32_t>::min());
      Simplex<T> simplex;
      for (std::int64_t p = begin; p < end; ++p) {
        locate<T, kDims>(features + p * d, scale, d, simplex);
        std::copy(simplex.weight, simplex.weight + d + 1, weight + p * (d + 1));
        for (int j = 0; j < d; ++j) {
          out.quotient[p * d + j] = simplex.quotient[j];
          range.low[j] = std::min(range.low[j], simplex.quotient[j]);
          range.high[j] = std::max(range.high[j], simplex.quotient[j]);
        }
        for (int j = 0; j <= d; ++j) {
          const int step = d - simplex.rank[j];
          if (step < d) out.axis[p * d + step] = std::int8_t(j);
        }
      }
    });
  });
  for (int j = 0; j < dims; ++j) {
    out.low[j] = out.high[j] = 0;
    for (std::size_t r = 0; r < ranges.size(); ++r) {
      out.low[j] = r == 0 ? ranges[r].low[j] : std::min(out.low[j], ranges[r].low[j]);
      out.high[j] = r == 0 ? ranges[r].high[j] : std::max(out.high[j], ranges[r].high[j]);
    }
  }
  return out;
}

// From keys to ids, by open addressing at a load of one half at most.
template <int Words>
class Table {
 public:
  Table() : slots_(std::size_t(1) << kFirstBits), shift_(64 - kFirstBits) {}

  std::int32_t find_or_insert(const Key<Words>& key) {
    std::size_t at = locate(key);
    if (slots_[at].id < 0) {
      if (2 * keys_.size() >= slots_.size()) {
        grow();
        at = locate(key);
      }
      slots_[at] = {key, std::int32_t(keys_.size())};
      keys_.push_back(key);
    }
    return slots_[at].id;
  }

  std::int32_t find(const Key<Words>& key) const { return slots_[locate(key)].id; }  // -1: absent

  const std::vector<Key<Words>>& keys() const { return keys_; }

 private:
  static constexpr int kFirstBits = 12;
  struct Slot {
    Key<Words> key;
    std::int32_t id = -1;
  };

  std::size_t locate(const Key<Words>& key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = std::size_t(key.hash() >> shift_);
    while (slots_[at].id >= 0 && !(slots_[at].key == key)) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    slots_.assign(slots_.size() * 2, Slot());
    --shift_;
    for (std::size_t id = 0; id < keys_.size(); ++id) {
      slots_[locate(keys_[id])] = {keys_[id], std::int32_t(id)};
    }
  }

  std::vector<Slot> slots_;
  std::vector<Key<Words>> keys_;
  int shift_;
};

// Numbers the vertices and links each to its neighbours.
template <int Words>
std::int64_t connect(const Located& located, const KeyLayout& layout, std::int64_t points,
                     std::int32_t* vertex, std::int32_t* neighbour, int threads) {
  const int d = layout.dims;
  const KeyMaths<Words> maths(layout);
  Table<Words> table;
  for (std::int64_t p = 0; p < points; ++p) {
    if (p % kPointChunk == 0) poll_interrupt();
    Key<Words> key = maths.pack(located.quotient.get() + p * d);
    for (int k = 0; k <= d; ++k) {
      vertex[p * (d + 1) + k] = table.find_or_insert(key);
      if (k < d) maths.advance(key, located.axis[p * d + k]);
    }
  }
  const std::int64_t count = std::int64_t(table.keys().size());
  parallel_ranges(2 * (d + 1) * count, 16 * kVertexChunk, threads,
                  [&](std::int64_t begin, std::int64_t end) {
                    std::fill(neighbour + begin, neighbour + end, std::int32_t(count));
                  });
  parallel_ranges(count, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t v = begin; v < end; ++v) {
      for (int axis = 0; axis <= d; ++axis) {
        const std::int32_t other = table.find(maths.neighbour(table.keys()[v], axis));
        if (other < 0) continue;
        neighbour[(axis * count + v) * 2] = other;
        neighbour[(axis * count + other) * 2 + 1] = std::int32_t(v);  // v alone writes here
      }
    }
  });
  return count;
}

// Lists, for every vertex, the corners that touch it, in ascending order: a counting sort.
void list_entries(const std::int32_t* vertex, std::int64_t corners, std::int64_t vertices,
                  std::int32_t* offset, std::int32_t* entry) {
  std::fill(offset, offset + vertices + 1, 0);
  for (std::int64_t c = 0; c < corners; ++c) ++offset[vertex[c] + 1];
  for (std::int64_t v = 0; v < vertices; ++v) offset[v + 1] += offset[v];
  for (std::int64_t c = 0; c < corners; ++c) entry[offset[vertex[c]]++] = std::int32_t(c);
  for (std::int64_t v = vertices; v > 0; --v) offset[v] = offset[v - 1];  // undo the advance
  offset[0] = 0;
}

template <typename T, int Dims>
void splat(const LatticeView<T>& lattice, const T* values, int channels, T* out, int threads) {
  const int corners = Dims > 0 ? Dims + 1 : lattice.dims + 1;
  parallel_ranges(lattice.vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t v = begin; v < end; ++v) {
      T* const row = out + v * channels;
      std::fill(row, row + channels, T(0));
      for (std::int32_t e = lattice.offset[v]; e < lattice.offset[v + 1]; ++e) {
        const std::int32_t corner = lattice.entry[e];
        const T weight = lattice.weight[corner];
        const T* const value = values + std::int64_t(corner / corners) * channels;
        for (int c = 0; c < channels; ++c) row[c] += weight * value[c];
      }
    }
  });
}

// One axis of the blur 1/2, 1, 1/2. Row M of `in` is zero and stands for every missing vertex.
template <typename T>
void blur(const LatticeView<T>& lattice, int axis, const T* in, int channels, T* out, int threads) {
  const std::int32_t* const neighbour = lattice.neighbour + axis * lattice.vertices * 2;
  parallel_ranges(lattice.vertices, kVertexChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t v = begin; v < end; ++v) {
      const T* const centre = in + v * channels;
      const T* const left = in + std::int64_t(neighbour[2 * v]) * channels;
      const T* const right = in + std::int64_t(neighbour[2 * v + 1]) * channels;
      T* const row = out + v * channels;
      for (int c = 0; c < channels; ++c) row[c] = centre[c] + T(0.5) * (left[c] + right[c]);
    }
  });
}

template <typename T, int Dims>
void slice(const LatticeView<T>& lattice, const T* in, int channels, T* out, int threads) {
  const int corners = Dims > 0 ? Dims + 1 : lattice.dims + 1;
  const T alpha = T(1) / (T(1) + std::ldexp(T(1), -lattice.dims));
  parallel_ranges(lattice.points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      T* const row = out + p * channels;
      std::fill(row, row + channels, T(0));
      for (int k = 0; k < corners; ++k) {
        const T weight = alpha * lattice.weight[p * corners + k];
        const T* const value = in + std::int64_t(lattice.vertex[p * corners + k]) * channels;
        for (int c = 0; c < channels; ++c) row[c] += weight * value[c];
      }
    }
  });
}

// What vertex `to` receives of a unit at vertex `from` of the same simplex after the blur of all
// axes. `path[k]` is the axis that leads from corner k to corner k + 1 (mod d+1); a step along
// every axis in the same sense closes, so two routes lead there: the axes between the corners in
// one sense, or all others in the opposite sense. Each step halves; a missing vertex ends a route.
template <typename T>
T blur_between(const LatticeView<T>& lattice, const int* path, std::int32_t start, int from, int to) {
  const int corners = lattice.dims + 1;
  bool between[kMaxDims + 1] = {};
  for (int k = std::min(from, to); k < std::max(from, to); ++k) between[path[k]] = true;
  const auto route = [&](bool side, int sense) {
    std::int32_t at = start;
    T product = 1;
    for (int axis = 0; axis < corners; ++axis) {
      if (between[axis] != side) continue;
      at = lattice.neighbour[(axis * lattice.vertices + at) * 2 + sense];
      if (at == lattice.vertices) return T(0);
      product *= T(0.5);
    }
    return product;
  };
  // Sense 1 of the table steps +1 with -d on the axis: the way from corner k to corner k + 1.
  if (from == to) return T(1) + route(false, 0) + route(false, 1);
  return from < to ? route(true, 1) + route(false, 0) : route(true, 0) + route(false, 1);
}

}  // namespace

template <typename T>
std::int64_t build(const T* features, std::int64_t points, int dims, const LatticeBuffers<T>& out,
                   int threads) {
  const Located located = locate_all(features, points, dims, out.weight, threads);
  const KeyLayout layout(dims, located.low, located.high);
  const auto connected = [&](auto words) {
    return connect<decltype(words)::value>(located, layout, points, out.vertex, out.neighbour,
                                           threads);
  };
  // 16 quotients of 32 bits and a remainder take 9 words; narrower data take fewer.
  if (layout.words > 9) throw std::invalid_argument("features too large for a lattice key");
  const std::int64_t vertices = layout.words == 1   ? connected(std::integral_constant<int, 1>())
                                : layout.words == 2 ? connected(std::integral_constant<int, 2>())
                                                    : connected(std::integral_constant<int, 9>());
  list_entries(out.vertex, points * (dims + 1), vertices, out.offset, out.entry);
  return vertices;
}

template <typename T>
void filter(const LatticeView<T>& lattice, const T* values, int channels, bool transpose, T* out,
            int threads) {
  const std::int64_t size = (lattice.vertices + 1) * channels;
  const Buffer<T> first = make_buffer<T>(size), second = make_buffer<T>(size);
  T* front = first.get();
  T* back = second.get();
  std::fill(front + size - channels, front + size, T(0));
  std::fill(back + size - channels, back + size, T(0));
  with_dims(lattice.dims, [&](auto static_dims) {
    constexpr int kDims = decltype(static_dims)::value;
    splat<T, kDims>(lattice, values, channels, front, threads);
    for (int step = 0; step <= lattice.dims; ++step) {
      blur(lattice, transpose ? lattice.dims - step : step, front, channels, back, threads);
      std::swap(front, back);
    }
    slice<T, kDims>(lattice, front, channels, out, threads);
  });
}

template <typename T>
void self_response(const LatticeView<T>& lattice, T* out, int threads) {
  const int corners = lattice.dims + 1;
  const T alpha = T(1) / (T(1) + std::ldexp(T(1), -lattice.dims));
  parallel_ranges(lattice.points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int32_t* const vertex = lattice.vertex + p * corners;
      const T* const weight = lattice.weight + p * corners;
      int path[kMaxDims + 1] = {};
      for (int k = 0; k < corners; ++k) {
        for (int axis = 0; axis < corners; ++axis) {
          const std::int64_t step = (axis * lattice.vertices + vertex[k]) * 2 + 1;
          if (k < lattice.dims && lattice.neighbour[step] == vertex[k + 1]) path[k] = axis;
        }
      }
      T sum = 0;
      for (int from = 0; from < corners; ++from) {
        for (int to = 0; to < corners; ++to) {
          sum += weight[from] * weight[to] * blur_between(lattice, path, vertex[from], from, to);
        }
      }
      out[p] = alpha * sum;
    }
  });
}

#define DCRF_INSTANTIATE(T)                                                                      \
  template std::int64_t build(const T*, std::int64_t, int, const LatticeBuffers<T>&, int);       \
  template void filter(const LatticeView<T>&, const T*, int, bool, T*, int);                     \
  template void self_response(const LatticeView<T>&, T*, int);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf
