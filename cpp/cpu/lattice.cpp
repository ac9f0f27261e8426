// Implements lattice.hpp except build(): the blur at the vertices, the filter, the diagonal, and
// their gradients.
#include "lattice.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.hpp"
#include "coupling.hpp"
#include "pool.hpp"

namespace dcrf {
namespace {

constexpr int kChannels = 24;  // maximum number of channels that are filtered at once

// Move both ends of a chunk [begin, end) forward to the next start of a group, so that chunks hold
// whole groups.
template <class StartsGroup>
void whole_groups(std::int64_t& begin, std::int64_t& end, std::int64_t length,
                  const StartsGroup& starts) {
  while (begin > 0 && begin < length && !starts(begin)) ++begin;
  while (end < length && !starts(end)) ++end;
}

// Blur all chains of one axis in place.
template <typename T>
void blur_axis(const Links& links, int axis, T* rows, int width, int threads) {
  const std::uint32_t* const chain = links.chain[axis];
  const std::int64_t length = links.chain_length[axis];
  parallel_ranges(length, kRowChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    whole_groups(begin, end, length,
                 [&](std::int64_t i) { return (chain[i - 1] & kChainEnd) != 0; });
    if (begin < end) loops<T>().blur(chain + begin, end - begin, rows, width);
  });
}

// The filter on up to kChannels channels, without normaliser and coupling. Owns the splatted values
// (sums) and the blurred values.
template <typename T>
class BareFilter {
 public:
  BareFilter(const LatticeView<T>& lattice, int channels, int width, int threads)
      : lattice_(lattice),
        links_(lattice.links, lattice.dims),
        threads_(threads),
        strips_(lattice.points),
        width_(width),
        size_(links_.rows * width_),
        sums_(make_buffer<T>(size_)),
        values_(make_buffer<T>(size_)),
        scale_(Coupling<T>::identity(channels, slice_scale<T>(lattice.dims))),
        kernel_(point_kernel(lattice, links_)) {
    pass_ = {lattice.points, channels, width_, &kernel_, 1, nullptr};
    kernel_.sums = sums_.get();
    kernel_.values = values_.get();
    clear(sums_.get(), size_, threads);
  }

  // Splat the rows `from`, `stride` elements apart, and blur them; keep the result in the values.
  void spread(const T* from, std::int64_t stride, bool transpose) {
    in_strips([&](int s, T* scratch) { loops<T>().splat(pass_, s, from, stride, scratch); });
    T* const values = values_.get();
    fold(links_, sums_.get(), width_, threads_);
    const bool mean = blur(links_, lattice_.dims, transpose, sums_.get(), values, width_, threads_);
    parallel_ranges(
        links_.vertices, kRowChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
          loops<T>().finish(scale_.view(false), links_.own_row + begin, end - begin, sums_.get(),
                            mean ? values : nullptr, values, nullptr, width_);
        });
    share(links_, values, width_, threads_);
  }

  // Slice the values into rows `to`, `stride` elements apart.
  void slice(T* to, std::int64_t stride) {
    in_strips([&](int s, T* scratch) { loops<T>().slice(pass_, s, to, stride, scratch); });
  }

  // Add to d_weight [N, d+1] the inner products of the rows `from` with the values at their
  // corners.
  void weight_gradient(const T* from, std::int64_t stride, T* d_weight) {
    in_strips([&](int s, T* scratch) {
      loops<T>().weight_gradient(pass_, s, from, stride, d_weight, scratch);
    });
  }

 private:
  // Call body(strip, scratch memory) for each strip in parallel.
  template <class Body>
  void in_strips(const Body& body) {
    parallel_for(strips_.count, threads_, [&](std::int64_t s) {
      const Buffer<T> scratch = make_buffer<T>(kTile * width_);
      body(int(s), scratch.get());
    });
  }

  const LatticeView<T>& lattice_;
  Links links_;
  int threads_;
  Strips strips_;
  int width_;
  std::int64_t size_;
  Buffer<T> sums_, values_;  // [rows, width]
  Coupling<T> scale_;
  PointKernel<T> kernel_;
  PointPass<T> pass_;
};

// Return two arrays in one: the neighbours [axis, row, direction], forward (0) and backward (1), -1
// where there is none; then the owner [row] of each row. A ghost has the neighbours of its owner.
std::vector<std::int32_t> neighbour_table(const Links& links, int corners) {
  std::vector<std::int32_t> owner(links.rows), table(2 * corners * links.rows, -1);
  for (std::int64_t v = 0; v < links.vertices; ++v) owner[links.own_row[v]] = links.own_row[v];
  for (std::int64_t g = 0; g < links.ghosts; ++g) owner[links.ghost[g]] = links.owner[g];
  for (int axis = 0; axis < corners; ++axis) {
    for (std::int64_t i = 0; i + 1 < links.chain_length[axis]; ++i) {
      if (links.chain[axis][i] & kChainEnd) continue;
      const std::int64_t from = links.chain[axis][i], to = links.chain[axis][i + 1] & ~kChainEnd;
      table[(axis * links.rows + from) * 2] = std::int32_t(to);
      table[(axis * links.rows + to) * 2 + 1] = std::int32_t(from);
    }
    for (std::int64_t g = 0; g < links.ghosts; ++g) {
      for (int side = 0; side < 2; ++side) {
        table[(axis * links.rows + links.ghost[g]) * 2 + side] =
            table[(axis * links.rows + links.owner[g]) * 2 + side];
      }
    }
  }
  table.insert(table.end(), owner.begin(), owner.end());
  return table;
}

// Call body(point, share) for each point, where share[a, b], a [corners, corners] matrix, is the
// weight with which the blur along all axes takes the value of corner a to corner b. One step along
// every axis in the same direction leads back to the start, so exactly two routes connect two
// corners: steps along the axes that separate them in one direction, or steps along all other axes
// in the opposite direction. Each step multiplies by kBlurSide; a route through a missing vertex
// counts as 0. The two axis orders take the same steps through different vertices.
template <typename T, class Body>
void with_shares(const LatticeView<T>& lattice, int threads, const Body& body) {
  const Links links(lattice.links, lattice.dims);
  const Strips strips(lattice.points);
  const int corners = lattice.dims + 1;
  const std::vector<std::int32_t> table = neighbour_table(links, corners);
  const std::int32_t* const owner = table.data() + 2 * corners * links.rows;
  const bool both = links.quality != Quality::kStandard;
  const auto neighbour = [&](int axis, std::int64_t row, int direction) {
    return table[(axis * links.rows + row) * 2 + direction];
  };
  parallel_for(strips.count, threads, [&](std::int64_t s) {
    std::int32_t row[kMaxDims + 1];
    int path[kMaxDims + 1] = {};
    T share[(kMaxDims + 1) * (kMaxDims + 1)];
    for (std::int64_t p = strips.begin[s]; p < strips.begin[s + 1]; ++p) {
      if (p % kPointChunk == 0) poll_interrupt();
      for (int k = 0; k < corners; ++k) {
        row[k] = owner[links.first_row[s] + lattice.vertex[p * corners + k]];
      }
      for (int k = 0; k + 1 < corners; ++k) {
        for (int axis = 0; axis < corners; ++axis) {
          if (neighbour(axis, row[k], 1) == row[k + 1]) path[k] = axis;
        }
      }
      for (int a = 0; a < corners; ++a) {
        for (int b = 0; b < corners; ++b) {
          bool between[kMaxDims + 1] = {};
          for (int k = std::min(a, b); k < std::max(a, b); ++k) between[path[k]] = true;
          const auto route = [&](bool side, int direction, bool reverse) {
            std::int64_t at = row[a];
            T product = 1;
            for (int step = 0; step < corners; ++step) {
              const int axis = reverse ? corners - 1 - step : step;
              if (between[axis] != side) continue;
              at = neighbour(axis, at, direction);
              if (at < 0) return T(0);
              product *= T(kBlurSide);
            }
            return product;
          };
          // A step from corner k to corner k + 1 has direction 1 (-d on the axis, +1 elsewhere).
          const auto all = [&](bool reverse) {
            if (a == b) return T(1) + route(false, 0, reverse) + route(false, 1, reverse);
            return a < b ? route(true, 1, reverse) + route(false, 0, reverse)
                         : route(true, 0, reverse) + route(false, 1, reverse);
          };
          share[a * corners + b] = both ? T(0.5) * (all(false) + all(true)) : all(false);
        }
      }
      body(p, share);
    }
  });
}

}  // namespace

template <typename T>
void fold(const Links& links, T* rows, int width, int threads) {
  parallel_ranges(links.ghosts, kRowChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    whole_groups(begin, end, links.ghosts,
                 [&](std::int64_t i) { return links.owner[i] != links.owner[i - 1]; });
    if (begin < end)
      loops<T>().fold(links.ghost + begin, links.owner + begin, end - begin, rows, width);
  });
}

template <typename T>
bool blur(const Links& links, int dims, bool transpose, T* rows, T* work, int width, int threads) {
  if (links.quality == Quality::kStandard) {
    for (int step = 0; step <= dims; ++step) {
      blur_axis(links, transpose ? dims - step : step, rows, width, threads);
    }
    return false;
  }
  parallel_ranges(links.rows * width, kClearChunk, threads,
                  [&](std::int64_t begin, std::int64_t end) {
                    std::copy(rows + begin, rows + end, work + begin);
                  });
  for (int axis = 0; axis <= dims; ++axis) {
    blur_axis(links, axis, rows, width, threads);
    blur_axis(links, dims - axis, work, width, threads);
  }
  return true;
}

template <typename T>
void share(const Links& links, T* rows, int width, int threads) {
  parallel_ranges(links.ghosts, kRowChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    loops<T>().broadcast(links.ghost + begin, links.owner + begin, end - begin, rows, width);
  });
}

template <typename T>
void filter(const LatticeView<T>& lattice, const T* values, int channels, bool transpose, T* out,
            int threads) {
  if (lattice.points == 0) return;  // the arrays may be null
  for (int at = 0; at < channels; at += kChannels) {
    const int count = std::min(kChannels, channels - at);
    BareFilter<T> bare(lattice, count, count == 1 ? 1 : row_width(count), threads);
    bare.spread(values + at, channels, transpose);
    bare.slice(out + at, channels);
  }
}

template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const T* values, const T* cotangent,
                            int channels, bool transpose, T* d_weight, int threads) {
  if (lattice.points == 0) return;
  std::fill(d_weight, d_weight + lattice.points * (lattice.dims + 1), T(0));
  for (int at = 0; at < channels; at += kChannels) {
    const int count = std::min(kChannels, channels - at);
    BareFilter<T> bare(lattice, count, row_width(count), threads);
    bare.spread(values + at, channels, transpose);  // gradient through the slice weights
    bare.weight_gradient(cotangent + at, channels, d_weight);
    bare.spread(cotangent + at, channels, !transpose);  // gradient through the splat weights
    bare.weight_gradient(values + at, channels, d_weight);
  }
}

template <typename T>
void feature_gradient(const FeatureView<T>& f, const T* d_weight, T* d_feature, int threads) {
  const int d = f.dims;
  T scale[kMaxDims];
  for (int i = 0; i < d; ++i) scale[i] = elevation_scale<T>(d, i);
  parallel_ranges(f.points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    Simplex<T> simplex;
    T feature[kMaxDims];
    for (std::int64_t p = begin; p < end; ++p) {
      for (int i = 0; i < d; ++i) feature[i] = f.data[p * f.point_stride + i * f.feature_stride];
      keep_within_reach(feature, scale, d);
      locate<T, 0>(feature, scale, d, simplex);
      weight_gradient(simplex.rank, scale, d, d_weight + p * (d + 1), d_feature + p * d);
    }
  });
}

template <typename T>
void self_response(const LatticeView<T>& lattice, T* out, int threads) {
  const int corners = lattice.dims + 1;
  const T alpha = slice_scale<T>(lattice.dims);
  with_shares(lattice, threads, [&](std::int64_t p, const T* share) {
    const T* const weight = lattice.weight + p * corners;
    T sum = 0;
    for (int a = 0; a < corners; ++a) {
      for (int b = 0; b < corners; ++b) sum += weight[a] * weight[b] * share[a * corners + b];
    }
    out[p] = alpha * sum;
  });
}

template <typename T>
void self_response_gradient(const LatticeView<T>& lattice, const T* cotangent, T* d_weight,
                            int threads) {
  const int corners = lattice.dims + 1;
  const T alpha = slice_scale<T>(lattice.dims);
  with_shares(lattice, threads, [&](std::int64_t p, const T* share) {
    const T* const weight = lattice.weight + p * corners;
    for (int a = 0; a < corners; ++a) {
      T sum = 0;
      for (int b = 0; b < corners; ++b) {
        sum += weight[b] * (share[a * corners + b] + share[b * corners + a]);
      }
      d_weight[p * corners + a] = alpha * cotangent[p] * sum;
    }
  });
}

#define DCRF_INSTANTIATE(T)                                                                      \
  template void fold(const Links&, T*, int, int);                                                \
  template bool blur(const Links&, int, bool, T*, T*, int, int);                                 \
  template void share(const Links&, T*, int, int);                                               \
  template void filter(const LatticeView<T>&, const T*, int, bool, T*, int);                     \
  template void filter_weight_gradient(const LatticeView<T>&, const T*, const T*, int, bool, T*, \
                                       int);                                                     \
  template void feature_gradient(const FeatureView<T>&, const T*, T*, int);                      \
  template void self_response(const LatticeView<T>&, T*, int);                                   \
  template void self_response_gradient(const LatticeView<T>&, const T*, T*, int);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf
