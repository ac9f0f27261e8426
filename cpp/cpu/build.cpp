// Implements build() of lattice.hpp: locates the points and numbers their vertices strip by strip,
// merges the strips, and links the neighbours along each axis.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "../core/key.hpp"
#include "../core/simplex.hpp"
#include "buffer.hpp"
#include "lattice.hpp"
#include "pool.hpp"
#include "table.hpp"

namespace dcrf {
namespace {

// Maximum number of rows of a lattice of quality filled.
constexpr std::int64_t kMostRows = std::numeric_limits<std::int32_t>::max() / 2;

// Minimum and maximum of each feature.
struct Range {
  double low[kMaxDims], high[kMaxDims];
};

// Compute the range of every feature; return false if one is not finite.
template <typename T>
bool feature_range(const FeatureView<T>& f, Range& range, int threads) {
  const std::int64_t chunks = (f.points + kPointChunk - 1) / kPointChunk;
  std::vector<Range> parts(chunks);
  std::vector<char> good(chunks);
  parallel_ranges(f.points, kPointChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    Range& part = parts[begin / kPointChunk];
    bool finite = true;
    for (int i = 0; i < f.dims; ++i) {
      T low, high;
      const T* const from = f.data + i * f.feature_stride + begin * f.point_stride;
      finite &= loops<T>().range(from, f.point_stride, end - begin, &low, &high);
      part.low[i] = double(low);
      part.high[i] = double(high);
    }
    good[begin / kPointChunk] = finite;
  });
  for (int i = 0; i < f.dims; ++i) {
    range.low[i] = range.high[i] = 0;
    for (std::int64_t c = 0; c < chunks; ++c) {
      range.low[i] = c == 0 ? parts[c].low[i] : std::min(range.low[i], parts[c].low[i]);
      range.high[i] = c == 0 ? parts[c].high[i] : std::max(range.high[i], parts[c].high[i]);
    }
  }
  return std::all_of(good.begin(), good.end(), [](char g) { return g != 0; });
}

// Builds one lattice whose keys have `Words` words.
template <typename T, int Words>
class Builder {
 public:
  Builder(const FeatureView<T>& features, const KeyLayout& layout, Quality quality, int threads)
      : f_(features),
        layout_(layout),
        maths_(layout),
        quality_(quality),
        threads_(threads),
        strips_(features.points),
        tables_(strips_.count) {}

  void run(std::int32_t* vertex, T* weight, std::int32_t* links) {
    parallel_for(strips_.count, threads_, [&](std::int64_t s) {
      tables_[s] = std::make_unique<Table<Words>>();
      number_strip(int(s), vertex, weight);
    });
    merge(links);
    link(links);
  }

 private:
  // Locate the points of a strip and number their vertices in order of first touch.
  void number_strip(int s, std::int32_t* vertex, T* weight) {
    const int d = f_.dims, corners = d + 1;
    Table<Words>& table = *tables_[s];
    T scale[kMaxDims];
    for (int i = 0; i < d; ++i) scale[i] = elevation_scale<T>(d, i);
    if constexpr (Words == 1) {
      if (layout_.one_word_of_halves && d <= 6)
        return number_tiles(table, s, scale, vertex, weight);
    }
    Simplex<T> simplex;
    T feature[kMaxDims];
    int axis[kMaxDims + 1];
    for (std::int64_t p = strips_.begin[s]; p < strips_.begin[s + 1]; ++p) {
      if (p % kPointChunk == 0) poll_interrupt();
      for (int i = 0; i < d; ++i) feature[i] = f_.data[p * f_.point_stride + i * f_.feature_stride];
      keep_within_reach(feature, scale, d);
      locate<T, 0>(feature, scale, d, simplex);
      for (int j = 0; j <= d; ++j) axis[d - simplex.rank[j]] = j;
      Key<Words> key = maths_.pack(simplex.quotient);
      for (int k = 0; k <= d; ++k) {
        weight[p * corners + k] = simplex.weight[k];
        vertex[p * corners + k] = table.find_or_insert(key);
        if (k < d) maths_.advance(key, axis[k]);
      }
    }
  }

  // The same as number_strip() with SIMD code, one tile at a time.
  void number_tiles(Table<Words>& table, int s, const T* scale, std::int32_t* vertex, T* weight) {
    const int d = f_.dims, corners = d + 1;
    LocateTask<T> task;
    task.point_stride = f_.point_stride;
    task.feature_stride = f_.feature_stride;
    task.dims = d;
    task.scale = scale;
    for (int j = 0; j < d; ++j) {
      const int shift = layout_.shift[j + 1];
      task.high[j] = shift >= 32;
      task.unit[j] = std::uint64_t(1) << (shift % 32);
      task.base[j] = layout_.base[j];
    }
    constexpr int kRoom = 7 * kTile + 16;
    static_assert(kTile <= kBlock, "a tile of one corner is looked up at once");
    std::uint32_t low[kRoom], high[kRoom];
    std::int32_t id[kRoom];
    T tile_weight[kRoom];
    for (std::int64_t at = strips_.begin[s]; at < strips_.begin[s + 1]; at += kTile) {
      if (at % kPointChunk == 0) poll_interrupt();
      task.features = f_.data + at * f_.point_stride;
      task.count = int(std::min<std::int64_t>(kTile, strips_.begin[s + 1] - at));
      loops<T>().locate(task, low, high, tile_weight);
      const TableView view = table.view();
      std::uint64_t missing[7], any = 0;
      for (int k = 0; k < corners; ++k) {
        const int of_corner = k * kTile;
        missing[k] = lookup_loops().find(view, low + of_corner, high + of_corner, task.count,
                                         id + of_corner);
        any |= missing[k];
      }
      // New vertices, in the order of points, and a few that the lookups did not find.
      for (; any != 0; any &= any - 1) {
        const int p = __builtin_ctzll(any);
        for (int k = 0; k < corners; ++k) {
          if ((missing[k] >> p & 1) == 0) continue;
          Key<Words> key;
          key.word[0] = std::uint64_t(high[k * kTile + p]) << 32 | low[k * kTile + p];
          id[k * kTile + p] = table.find_or_insert(key);
        }
      }
      std::int32_t* to = vertex + at * corners;
      T* to_weight = weight + at * corners;
      for (int p = 0; p < task.count; ++p) {
        for (int k = 0; k < corners; ++k) {
          *to++ = id[k * kTile + p];
          *to_weight++ = tile_weight[k * kTile + p];
        }
      }
    }
  }

  // Number the rows of all strips, and find the own row and the ghosts of each vertex.
  void merge(std::int32_t* links) {
    std::int64_t rows = 0;
    for (int s = 0; s < strips_.count; ++s) {
      links[Links::kFirstRow + s] = std::int32_t(rows);
      rows += std::int64_t(tables_[s]->size());
    }
    std::vector<std::int32_t> ghost_vertex, ghost_row;
    if (strips_.count == 1 && quality_ != Quality::kFilled) {
      all_ = std::move(tables_[0]);
      own_row_.resize(rows);
      for (std::int64_t r = 0; r < rows; ++r) own_row_[r] = std::int32_t(r);
    } else {
      all_ = std::make_unique<Table<Words>>(rows);
      own_row_.reserve(rows);
      std::int32_t row = 0;
      for (auto& table : tables_) {
        poll_interrupt();
        const std::size_t count = table->size();
        for (std::size_t i = 0; i < count; ++i, ++row) {
          if (i + 8 < count) all_->prefetch(table->key(i + 8));
          const std::int32_t id = all_->find_or_insert(table->key(i));
          if (std::size_t(id) == own_row_.size()) {
            own_row_.push_back(row);
          } else {
            ghost_vertex.push_back(id);
            ghost_row.push_back(row);
          }
        }
        table.reset();
      }
    }
    if (quality_ == Quality::kFilled) {
      const std::int64_t touched = std::int64_t(own_row_.size());
      for (std::int64_t v = 0; v < touched; ++v) {
        if (v % kVertexChunk == 0) poll_interrupt();
        const Key<Words> key = all_->key(v);
        for (int axis = 0; axis <= f_.dims; ++axis) {
          for (const Key<Words>& other :
               {maths_.neighbour(key, axis), maths_.neighbour_back(key, axis)}) {
            if (std::size_t(all_->find_or_insert(other)) == own_row_.size()) {
              own_row_.push_back(std::int32_t(rows++));
              if (rows >= kMostRows)
                throw std::invalid_argument("too many vertices for quality \"filled\"");
            }
          }
        }
      }
    }
    const std::int64_t vertices = std::int64_t(own_row_.size()),
                       ghosts = std::int64_t(ghost_row.size());
    links[Links::kVertices] = std::int32_t(vertices);
    links[Links::kQuality] = std::int32_t(quality_);
    links[Links::kRows] = std::int32_t(rows);
    links[Links::kGhosts] = std::int32_t(ghosts);
    std::copy(own_row_.begin(), own_row_.end(), links + Links::kData);
    // Sort the ghosts by vertex, then by strip (a counting sort).
    std::vector<std::int32_t> at(vertices + 1, 0);
    for (const std::int32_t v : ghost_vertex) ++at[v + 1];
    for (std::int64_t v = 0; v < vertices; ++v) at[v + 1] += at[v];
    std::int32_t* const ghost = links + Links::kData + vertices;
    std::int32_t* const owner = ghost + ghosts;
    for (std::int64_t g = 0; g < ghosts; ++g) {
      const std::int32_t to = at[ghost_vertex[g]]++;
      ghost[to] = ghost_row[g];
      owner[to] = own_row_[ghost_vertex[g]];
    }
  }

  // Write the chains of neighbours along every axis, in order of their first vertices.
  void link(std::int32_t* links) {
    const int corners = f_.dims + 1;
    const std::int64_t vertices = std::int64_t(own_row_.size());
    // [axis, vertex], forward neighbour or -1.
    Buffer<std::int32_t> next = make_passing_buffer<std::int32_t>(corners * vertices);
    find_neighbours(next.get());
    Buffer<std::uint32_t> chain[kMaxDims + 1];  // as numbers of vertices
    std::int64_t begin[kMaxDims + 2] = {};      // of each axis among all chains
    parallel_for(corners, threads_, [&](std::int64_t axis) {
      const std::int32_t* const to_next = next.get() + axis * vertices;
      const Buffer<char> has_previous = make_passing_buffer<char>(vertices + 1);
      // Element -1 receives the writes of vertices without a forward neighbour.
      char* const entered = has_previous.get() + 1;
      std::fill(entered, entered + vertices, char(0));
      for (std::int64_t v = 0; v < vertices; ++v) entered[to_next[v]] = 1;
      // Skip vertices inside a chain, and isolated ones: the blur does not change those.
      const Buffer<std::int32_t> heads = make_passing_buffer<std::int32_t>(vertices + 1);
      std::int64_t count = 0;
      for (std::int64_t v = 0; v < vertices; ++v) {
        heads[count] = std::int32_t(v);
        count += (entered[v] == 0) & (to_next[v] >= 0);
      }
      chain[axis] = make_passing_buffer<std::uint32_t>(vertices + kFollowRoom);
      begin[axis + 1] = lookup_loops().follow(to_next, heads.get(), count, chain[axis].get());
    });
    std::uint32_t* const out = reinterpret_cast<std::uint32_t*>(links + Links::kData + vertices +
                                                                2 * links[Links::kGhosts]);
    for (int axis = 0; axis < corners; ++axis) {
      links[Links::kChain + axis] = std::int32_t(begin[axis + 1]);
      begin[axis + 1] += begin[axis];
    }
    parallel_for(corners, threads_, [&](std::int64_t axis) {
      for (std::int64_t i = begin[axis]; i < begin[axis + 1]; ++i) {
        const std::uint32_t v = chain[axis][i - begin[axis]];
        out[i] = std::uint32_t(own_row_[v & ~kChainEnd]) | (v & kChainEnd);
      }
    });
  }

  // Find the forward neighbour along each axis of every vertex: next [corners, vertices], -1 where
  // there is none.
  void find_neighbours(std::int32_t* next) {
    const int corners = f_.dims + 1;
    const std::int64_t vertices = std::int64_t(own_row_.size());
    if constexpr (Words == 1) {
      if (layout_.one_word_of_halves && all_->fits_view()) return find_filtered_neighbours(next);
    }
    parallel_ranges(vertices, kVertexChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
      constexpr int kCount = 16;
      Key<Words> wanted[kCount * (kMaxDims + 1)];
      std::int32_t found[kCount * (kMaxDims + 1)];
      for (std::int64_t v = begin; v < end; v += kCount) {
        const int count = int(std::min<std::int64_t>(kCount, end - v));
        for (int axis = 0; axis < corners; ++axis) {
          for (int i = 0; i < count; ++i) {
            wanted[axis * count + i] = maths_.neighbour(all_->key(v + i), axis);
          }
        }
        all_->find_all(wanted, count * corners, found);
        for (int axis = 0; axis < corners; ++axis) {
          for (int i = 0; i < count; ++i) next[axis * vertices + v + i] = found[axis * count + i];
        }
      }
    });
  }

  // The same with SIMD code, for keys of halves.
  void find_filtered_neighbours(std::int32_t* next) {
    const std::int64_t vertices = std::int64_t(own_row_.size());
    all_->make_filter();
    const TableView view = all_->view();
    NeighbourSteps steps;
    steps.corners = f_.dims + 1;
    steps.remainder = std::uint32_t(layout_.remainder_bits_mask());
    for (int axis = 0; axis < steps.corners; ++axis) {
      // neighbour() of keys whose remainder is 1 or 0 and whose quotients are 1.
      for (int is_0 : {0, 1}) {
        Key<Words> key = maths_.all;
        if (is_0 == 0) key += maths_.remainder_one;
        const std::uint64_t from = key.word[0], to = maths_.neighbour(key, axis).word[0];
        steps.low[is_0][axis] = std::uint32_t(to) - std::uint32_t(from);
        steps.high[is_0][axis] = std::uint32_t(to >> 32) - std::uint32_t(from >> 32);
      }
    }
    parallel_ranges(vertices, kVertexChunk, threads_, [&](std::int64_t begin, std::int64_t end) {
      std::uint32_t low[kNeighbourRoom], high[kNeighbourRoom];
      std::int32_t at[kNeighbourRoom], found[kNeighbourRoom];
      for (int axis = 0; axis < steps.corners; ++axis)
        std::fill(next + axis * vertices + begin, next + axis * vertices + end, -1);
      for (std::int64_t v = begin; v < end; v += kBlock) {
        const int count = int(std::min<std::int64_t>(kBlock, end - v));
        const int kept = lookup_loops().neighbours(view, steps, v, count, low, high, at);
        for (int i = 0; i < kept; i += kBlock) {
          lookup_loops().find(view, low + i, high + i, std::min(kBlock, kept - i), found + i);
        }
        for (int i = 0; i < kept; ++i) {
          if (found[i] == kUnknown) {
            Key<Words> key;
            key.word[0] = std::uint64_t(high[i]) << 32 | low[i];
            found[i] = all_->find(key);
          }
          next[at[i] / kBlock * vertices + v + at[i] % kBlock] = found[i];
        }
      }
    });
  }

  const FeatureView<T>& f_;
  const KeyLayout& layout_;
  KeyMaths<Words> maths_;
  Quality quality_;
  int threads_;
  Strips strips_;
  std::vector<std::unique_ptr<Table<Words>>> tables_;  // [strips], vertices of each strip
  std::unique_ptr<Table<Words>> all_;                  // vertices of all strips
  std::vector<std::int32_t> own_row_;                  // [vertices]
};

}  // namespace

std::int64_t links_size(std::int64_t points, int dims, Quality quality) {
  const std::int64_t corners = dims + 1;
  std::int64_t vertices = points * corners;
  if (quality == Quality::kFilled) vertices *= 2 * corners + 1;
  return 1024 + 2 * corners * vertices + vertices / 32;
}

Links::Links(const std::int32_t* links, int dims)
    : vertices(links[kVertices]),
      rows(links[kRows]),
      ghosts(links[kGhosts]),
      quality(Quality(links[kQuality])),
      first_row(links + kFirstRow),
      own_row(links + kData),
      ghost(own_row + vertices),
      owner(ghost + ghosts) {
  const std::int32_t* at = owner + ghosts;
  for (int axis = 0; axis <= dims; ++axis) {
    chain[axis] = reinterpret_cast<const std::uint32_t*>(at);
    chain_length[axis] = links[kChain + axis];
    at += chain_length[axis];
  }
  used = at - links;
}

bool Links::fits(const std::int32_t* links, std::int64_t size, std::int64_t points, int dims) {
  if (size <= kData || links[kQuality] < 0 || links[kQuality] > int(Quality::kFilled)) return false;
  return size == links_size(points, dims, Quality(links[kQuality]));
}

template <typename T>
bool build(const FeatureView<T>& features, Quality quality, std::int32_t* vertex, T* weight,
           std::int32_t* links, int threads) {
  Range range;
  std::int32_t low[kMaxDims], high[kMaxDims];
  if (!feature_range(features, range, threads)) return false;
  if (!quotient_range<T>(range.low, range.high, features.dims, low, high)) return false;
  const KeyLayout layout(features.dims, low, high);
  const auto run = [&](auto words) {
    Builder<T, decltype(words)::value>(features, layout, quality, threads)
        .run(vertex, weight, links);
  };
  if (layout.words > kMaxKeyWords) return false;
  if (layout.words == 1)
    run(std::integral_constant<int, 1>());
  else if (layout.words == 2)
    run(std::integral_constant<int, 2>());
  else
    run(std::integral_constant<int, kMaxKeyWords>());
  return true;
}

template bool build(const FeatureView<float>&, Quality, std::int32_t*, float*, std::int32_t*, int);
template bool build(const FeatureView<double>&, Quality, std::int32_t*, double*, std::int32_t*,
                    int);

}  // namespace dcrf
