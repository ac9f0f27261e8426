// The forward pass that leaves out labels: in each tile, groups of four labels are computed until a
// bound proves that the others have marginals of at most delta at all of its points.
#include "prune_pass.hpp"

#include <type_traits>

#include "halves.hpp"
#include "prune_bounds.hpp"

namespace dcrf::DCRF_ISA {
namespace {

// One strip of a pass.
template <typename T>
class PruneStrip {
 public:
  static constexpr int N = kPlane<T>;
  using P = Pack<T, N>;
  static constexpr T kNone = -std::numeric_limits<T>::infinity();

  PruneStrip(const PrunePass<T>& pass, int strip, T* scratch) : pass_(pass), strip_(strip) {
    rows_ = scratch;
    top_ = rows_ + kTile * kQuad;
    bound_ = top_ + kTile;
    planes_ = bound_ + (pass.groups + 15) / 16 * 16;
    scratch = planes_ + std::int64_t(pass.groups) * kTile * kQuad;
    for (int i = 0; i < kTile * kQuad; ++i) rows_[i] = T(0);
    static_.take(pass.static_kernels, pass.kernel_count, strip, scratch);
    for (int m = 0; m < pass.kernel_count; ++m) {
      const std::int64_t corners = pass.kernels_of[m].corners;
      listed_[m] = Strips(pass.points).begin[strip] * corners;
    }
    for (int g = 0; g < pass.groups; ++g) {
      kernels_[g].take(pass.kernels_of + g * pass.kernel_count, pass.kernel_count, strip, scratch);
      gathered_[g] = splatted_[g] = false;
    }
  }

  bool run() {
    const Strips strips(pass_.points);
    bool good = true;
    std::int64_t tile_index = pass_.first_tile[strip_];
    for (Bands<T> bands(pass_, strips.begin[strip_], strips.begin[strip_ + 1]); bands.next();) {
      const Band& band = bands.band;
      for (BandTile tile{&band}; tile.column < band.columns; tile.column += kTileColumns) {
        const std::int64_t left = band.columns - tile.column;
        tile.count = int(left < kTileColumns ? left : kTileColumns);
        for (int r = 0; r < band.rows; ++r) {
          for (int p = 0; p < kTileColumns; ++p)
            top_[r * kTileColumns + p] = p < tile.count ? kNone : kMost<T>;
        }
        for (int g = 0; g < pass_.groups; ++g) computed_[g] = false;
        if (pass_.first) {
          good &= begin(tile, tile_index);
          finish(tile, tile_index);
        } else if (pass_.last && !pass_.marginals && pass_.labels_to.data == nullptr) {
          write_logits(tile);
        } else if (update(tile, tile_index)) {
          finish(tile, tile_index);
        }
        ++tile_index;
      }
      for (int g = 0; g < pass_.groups; ++g) {
        if (splatted_[g]) {
          kernels_[g].end_band(band);
          pass_.touched[strip_ * pass_.groups + g] = 1;
        }
        gathered_[g] = splatted_[g] = false;
      }
      if (static_splatted_) static_.end_band(band);
      static_splatted_ = false;
    }
    pass_.touched[strip_ * pass_.groups] = 1;
    return good;
  }

 private:
  T* plane(int g, int k) { return planes_ + (g * kQuad + k) * kTile; }
  DCRF_INLINE P logits(int label, std::int64_t point, int count) const {
    if (std::is_same_v<T, float> && pass_.halves != nullptr)
      return load_halves<T, N>(pass_.halves + label * pass_.half_stride + point, count);
    return load_some<T, N>(pass_.logits + label * pass_.points + point, count);
  }
  DCRF_INLINE void prefetch_logit(int label, std::int64_t point) const {
    if (pass_.halves != nullptr)
      __builtin_prefetch(pass_.halves + label * pass_.half_stride + point);
    else
      __builtin_prefetch(pass_.logits + label * pass_.points + point);
  }

  // Call body(offset in a plane, point, number of points) for each pack of points of the tile. In a
  // full tile the number is a constant, so that the code for packs with fewer points vanishes.
  template <class Body>
  DCRF_INLINE void over_packs(const BandTile& tile, const Body& body) {
    const bool full = tile.count == kTileColumns;
    for (int r = 0; r < tile.band->rows; ++r) {
      for (int p = 0; full && p < kTileColumns; p += N)
        body(r * kTileColumns + p, tile.point(r) + p, std::integral_constant<int, N>());
      for (int p = 0; !full && p < tile.count; p += N)
        body(r * kTileColumns + p, tile.point(r) + p, tile.count - p);
    }
  }

  // The first pass: no messages. Return whether the logits are valid.
  bool begin(const BandTile& tile, std::int64_t index) {
    P bad{};  // NaN where a logit is invalid
    if (tile.column + 2 * kTileColumns <= tile.band->columns) {  // the next tile
      for (int l = 0; l < pass_.labels; ++l)
        for (int r = 0; r < tile.band->rows; ++r)
          prefetch_logit(l, tile.point(r) + 2 * kTileColumns - 1);
    }
    over_packs(tile, [&](int at, std::int64_t point, auto count) {
      P peak = broadcast<T, N>(kNone), poison{};
      for (int i = 0; i < pass_.labels; ++i) {  // places beyond are padding
        const P x = logits(pass_.label[i], point, count);
        peak = larger<T, N>(peak, x);
        poison += (x < -kMost<T> ? P{} : x) * T(0);  // NaN if x is NaN or +infinity
      }
      bad += poison + (peak >= -kMost<T> ? P{} : broadcast<T, N>(kNone)) * T(0);
      store_some<T, N>(pass_.peak + point, peak, count);
      store<T, N>(top_ + at, P{});
    });
    bool good = true;
    for (int i = 0; i < N; ++i) good &= bad[i] == T(0);
    list_rows(tile, index);
    T* const heads = pass_.head + index * (pass_.groups + 3);
    for (int g = 0; g < pass_.groups; ++g) {
      P head = broadcast<T, N>(kNone);
      for (int k = 0; k < kQuad; ++k) {
        const int label = pass_.label[g * kQuad + k];
        if (g == 0) head = broadcast<T, N>(kNone);
        P foot{};
        over_packs(tile, [&](int at, std::int64_t point, auto count) {
          P x = broadcast<T, N>(kNone);
          if (label >= 0) {
            x = logits(label, point, count) - load_some<T, N>(pass_.peak + point, count);
            foot = x < foot ? x : foot;
            for (int i = count; i < N; ++i) x[i] = kNone;
          }
          store<T, N>(plane(g, k) + at, x);
          head = larger<T, N>(head, x);
        });
        if (g > 0) continue;
        heads[k] = max_lanes<T, N>(head)[0];
        computed_[0] |= heads[k] > pass_.log_delta;
        T least = foot[0];
        for (int i = 1; i < N; ++i) least = foot[i] < least ? foot[i] : least;
        pass_.foot[index * kQuad + k] = label >= 0 ? least : kNone;
      }
      if (g == 0) continue;
      heads[g + 3] = max_lanes<T, N>(head)[0];
      computed_[g] = heads[g + 3] > pass_.log_delta;
    }
    return good;
  }

  // List the distinct rows of lattices that a tile reads.
  void list_rows(const BandTile& tile, std::int64_t index) {
    for (int m = 0; m < pass_.kernel_count; ++m) {
      const PointKernel<T>& k = pass_.kernels_of[m];
      if (k.vertex == nullptr) continue;
      std::uint32_t* const stamp = pass_.stamp[m] + k.first_row[strip_];
      const std::uint32_t mark = std::uint32_t(index + 1);
      pass_.list_begin[m][index] = listed_[m];
      std::int32_t* to = pass_.list[m] + listed_[m];
      for (int r = 0; r < tile.band->rows; ++r) {
        const std::int32_t* const vertex = k.vertex + tile.point(r) * k.corners;
        for (int i = 0; i < tile.count * k.corners; ++i) {
          *to = vertex[i];  // without a branch, which would be mispredicted
          to += stamp[vertex[i]] != mark;
          stamp[vertex[i]] = mark;
        }
      }
      listed_[m] = to - pass_.list[m];
      pass_.list_end[m][index] = listed_[m];
    }
  }

  // Compute the groups that may matter. Return false if the tile keeps its only label and needs no
  // more.
  bool update(const BandTile& tile, std::int64_t index) {
    for (int m = 0; m < pass_.kernel_count; ++m) {
      if (pass_.share_width == 8)
        find_extremes<8>(pass_, m, strip_, tile, index, most_[m], least_[m]);
      else if (pass_.share_width == 16)
        find_extremes<16>(pass_, m, strip_, tile, index, most_[m], least_[m]);
      else
        find_extremes<32>(pass_, m, strip_, tile, index, most_[m], least_[m]);
    }
    // Close bounds of the mass take longer than the rest, and most tiles of one label keep it
    // whatever they are.
    Measured& measured = pass_.measured[index];
    if (measured == Measured::kNone && pass_.single[index] >= 0) measure<false>(tile, index);
    if (measured == Measured::kNone) measure<true>(tile, index);
    bool stays = keeps_single(index);
    if (!stays && measured != Measured::kClosely) {
      measure<true>(tile, index);
      stays = keeps_single(index);
    }
    if (stays) {
      ++pass_.kept[strip_];
      if (pass_.last) write_single(tile, pass_.single[index]);
      return false;
    }
    const int groups = pass_.groups;
    T least = kNone;
    for (;;) {
      int best = -1;
      for (int g = 0; g < groups; ++g) {
        if (!computed_[g] && (best < 0 || bound_[g] > bound_[best])) best = g;
      }
      // A marginal is at most exp(its logit - the greatest of those computed).
      if (best < 0 || bound_[best] - least <= pass_.log_delta) break;
      compute(tile, best);
      P low = load<T, N>(top_);
      for (int at = N; at < tile.band->rows * kTileColumns; at += N) {
        const P x = load<T, N>(top_ + at);
        low = x < low ? x : low;
      }
      least = low[0];
      for (int i = 1; i < N; ++i) least = low[i] < least ? low[i] : least;
    }
    return true;
  }

  // Bound the logits of the groups by the extremes found. Return whether the tile has one label and
  // keeps it.
  bool keeps_single(std::int64_t index) {
    const int groups = pass_.groups, width = pass_.share_width;
    const T* const head = pass_.head + index * (groups + 3);
    const T* const reach = pass_.reach + index * 2 * pass_.kernel_count;
    T label[kQuad], low[kQuad];  // of the labels of group 0: upper and lower bounds
    for (int k = 0; k < kQuad; ++k) {
      label[k] = head[k];
      low[k] = pass_.foot[index * kQuad + k];
    }
    for (int g = 1; g < groups; ++g) bound_[g] = head[g + 3];
    for (int m = 0; m < pass_.kernel_count; ++m) {
      const std::uint8_t *const most = most_[m], *const least = least_[m];
      const T upper = pass_.step[m] * reach[2 * m], lower = pass_.step[m] * reach[2 * m + 1];
      for (int k = 0; k < kQuad; ++k) {
        label[k] += T(most[k]) * upper;
        low[k] += T(least[k] > 0 ? least[k] - 1 : 0) * lower;
      }
      for (int g = 1; g < groups; ++g)
        bound_[g] += T(most[g + 3 < width ? g + 3 : width - 1]) * upper;
    }
    bound_[0] = label[0];
    for (int k = 1; k < kQuad; ++k) bound_[0] = label[k] > bound_[0] ? label[k] : bound_[0];
    const int single = pass_.single[index];
    if (!pass_.freezes || single < 0) return false;
    T other = kNone;
    for (int k = 0; k < kQuad; ++k) other = k != single && label[k] > other ? label[k] : other;
    for (int g = 1; g < groups; ++g) other = bound_[g] > other ? bound_[g] : other;
    return other - low[single] <= pass_.log_delta;
  }

  // Find bounds of the mass that points receive: of each point, if `Closely`, or else of the rows
  // that the tile reads.
  template <bool Closely>
  void measure(const BandTile& tile, std::int64_t index) {
    T* const reach = pass_.reach + index * 2 * pass_.kernel_count;
    for (int m = 0; m < pass_.kernel_count; ++m) {
      const PointKernel<T>& k = pass_.kernels_of[m];
      const T* const mass = pass_.mass[m];
      // The bounds of a grid are the same either way.
      if (k.vertex == nullptr && pass_.measured[index] == Measured::kByRows) continue;
      Reach<T> found;
      if (k.vertex == nullptr)
        found = grid_reach(k, tile, mass);
      else if (!Closely)
        found = rows_reach(pass_, m, strip_, tile, index);
      else
        found = k.corners == 6 ? lattice_reach<6>(k, strip_, tile, mass)
                               : lattice_reach<0>(k, strip_, tile, mass);
      reach[2 * m] = found.high * T(1.0001);  // rounding
      reach[2 * m + 1] = found.low * T(0.9999);
    }
    pass_.measured[index] = Closely ? Measured::kClosely : Measured::kByRows;
  }

  // Write the labels of up to N points.
  DCRF_INLINE void write_labels(std::int64_t point, const P& label, int count) {
    void* const to = pass_.labels_to.data;
    for (int i = 0; i < N && i < count; ++i) {
      if (pass_.labels_to.bytes == 1)
        static_cast<std::uint8_t*>(to)[point + i] = std::uint8_t(label[i]);
      else
        static_cast<std::uint16_t*>(to)[point + i] = std::uint16_t(label[i]);
    }
  }

  // Write the label of the maximum logit of each point; of equal ones the lowest.
  void write_argmax(const BandTile& tile) {
    over_packs(tile, [&](int at, std::int64_t point, auto count) {
      const P top = load<T, N>(top_ + at);
      P best = broadcast<T, N>(T(pass_.labels));
      for (int i = 0; i < pass_.groups * kQuad; ++i) {
        if (!computed_[i / kQuad] || pass_.label[i] < 0) continue;
        const P label = broadcast<T, N>(T(pass_.label[i]));
        const P found = load<T, N>(planes_ + i * kTile + at) == top ? label : best;
        best = found < best ? found : best;
      }
      write_labels(point, best, count);
    });
  }

  void write_single(const BandTile& tile, int single) {
    if (pass_.labels_to.data != nullptr) {
      const P label = broadcast<T, N>(T(pass_.label[single]));
      over_packs(tile, [&](int, std::int64_t point, auto count) {
        write_labels(point, label, count);
      });
      return;
    }
    over_packs(tile, [&](int, std::int64_t point, auto count) {
      store_some<T, N>(pass_.refined + pass_.label[single] * pass_.points + point,
                       broadcast<T, N>(T(1)), count);
    });
  }

  // Add `sign` times the marginals of a tile of one label to the static sums.
  void splat_single(const BandTile& tile, int single, T sign) {
    for (int i = 0; i < kTile * kQuad; ++i) rows_[i] = i % kQuad == single ? sign : T(0);
    static_.splat(tile, rows_);
    static_splatted_ = true;
  }

  // Return whether the tile's marginals are in the static sums, which it keeps up to date. `kept`:
  // number of labels that the tile keeps, of which `place` is one.
  bool is_static(const BandTile& tile, std::int64_t index, int kept, int place) {
    signed char& single = pass_.single[index];
    const int next = kept == 1 && place < kQuad ? place : -1;
    if (next != single) {
      if (single >= 0) splat_single(tile, single, T(-1));
      if (next >= 0) splat_single(tile, next, T(1));
    }
    single = next;
    return next >= 0;
  }

  // Slice a group, which is active.
  void slice(const BandTile& tile, int g) {
    if (!gathered_[g]) kernels_[g].begin_band(*tile.band);
    gathered_[g] = true;
    kernels_[g].slice(tile, rows_);
  }

  // Write the refined logits of all labels.
  void write_logits(const BandTile& tile) {
    T common[kTile] = {};
    for (int g = 0; g < pass_.groups; ++g) {
      const std::int32_t* const label = pass_.label + g * kQuad;
      if (pass_.active[g]) slice(tile, g);
      over_packs(tile, [&](int at, std::int64_t point, auto count) {
        P x[kQuad] = {};
        if (pass_.active[g]) {
          for (int i = 0; i < kQuad; ++i) x[i] = load<T, N>(rows_ + at * kQuad + i * N);
          transpose_groups<T, N>(x);
        }
        store<T, N>(common + at, load<T, N>(common + at) + ((x[0] + x[1]) + (x[2] + x[3])));
        for (int k = 0; k < kQuad; ++k) {
          if (label[k] >= 0) store<T, N>(plane(g, k) + at, logits(label[k], point, count) + x[k]);
        }
      });
    }
    for (int i = 0; i < pass_.groups * kQuad; ++i) {
      if (pass_.label[i] < 0) continue;
      over_packs(tile, [&](int at, std::int64_t point, auto count) {
        P x = load<T, N>(planes_ + i * kTile + at);
        if (pass_.common) x -= load<T, N>(common + at);
        store_some<T, N>(pass_.refined + pass_.label[i] * pass_.points + point, x, count);
      });
    }
  }

  // Compute the logits of a group, and raise `top_` to them.
  void compute(const BandTile& tile, int g) {
    computed_[g] = true;
    const bool messages = pass_.active[g] != 0;
    if (messages) slice(tile, g);
    const std::int32_t* const label = pass_.label + g * kQuad;
    over_packs(tile, [&](int at, std::int64_t point, auto count) {
      const P peak = load_some<T, N>(pass_.peak + point, count);
      P top = load<T, N>(top_ + at), x[kQuad];
      for (int i = 0; i < kQuad; ++i)
        x[i] = messages ? load<T, N>(rows_ + at * kQuad + i * N) : P{};
      if (messages) transpose_groups<T, N>(x);
      for (int k = 0; k < kQuad; ++k) {
        if (label[k] < 0) {
          x[k] = broadcast<T, N>(kNone);
        } else {
          x[k] += logits(label[k], point, count) - peak;
          top = larger<T, N>(top, x[k]);
        }
        store<T, N>(plane(g, k) + at, x[k]);
      }
      store<T, N>(top_ + at, top);
    });
  }

  // Compute the marginals of the groups that are computed; splat them, or write them at the end.
  void finish(const BandTile& tile, std::int64_t index) {
    if (pass_.last && pass_.labels_to.data != nullptr) return write_argmax(tile);
    const int groups = pass_.groups;
    int kept = 0, place = 0;
    bool keeps[kMaxGroups];
    bool keeps_label[kMaxGroups * kQuad];
    T sum[kTile], *const inverse = sum;
    for (int i = 0; i < kTile; i += N) store<T, N>(sum + i, P{});
    for (int g = 0; g < groups; ++g) {
      keeps[g] = false;
      for (int k = 0; k < kQuad; ++k) {
        bool& keep = keeps_label[g * kQuad + k] = false;
        if (!computed_[g] || pass_.label[g * kQuad + k] < 0) continue;
        T* const x = plane(g, k);
        P greatest{};
        over_packs(tile, [&](int at, std::int64_t, auto) {
          const P e = exponential<N>(load<T, N>(x + at) - load<T, N>(top_ + at));
          store<T, N>(x + at, e);
          greatest = larger<T, N>(greatest, e);
        });
        keep = max_lanes<T, N>(greatest)[0] > pass_.delta;
        if (!keep) continue;
        keeps[g] = true;
        ++kept;
        place = g * kQuad + k;
        over_packs(tile, [&](int at, std::int64_t, auto) {
          store<T, N>(sum + at, load<T, N>(sum + at) + load<T, N>(x + at));
        });
      }
    }
    pass_.kept[strip_] += kept;
    if (pass_.last && kept == 1 && place < kQuad) return write_single(tile, place);
    if (!pass_.last && is_static(tile, index, kept, place)) return;
    // A sum is at least 1, the greatest label's part, except in lanes beyond the tile's points.
    // These must not become NaN, which would remain in `rows_`.
    for (int i = 0; i < tile.band->rows * kTileColumns; i += N)
      store<T, N>(inverse + i, T(1) / larger<T, N>(load<T, N>(sum + i), broadcast<T, N>(T(1))));
    for (int g = 0; g < groups; ++g) {
      const std::int32_t* const label = pass_.label + g * kQuad;
      if (!keeps[g]) continue;
      over_packs(tile, [&](int at, std::int64_t point, auto count) {
        const P scale = load<T, N>(inverse + at);
        P q[kQuad];
        for (int k = 0; k < kQuad; ++k) {
          q[k] = keeps_label[g * kQuad + k] ? load<T, N>(plane(g, k) + at) * scale : P{};
          if (pass_.last && keeps_label[g * kQuad + k])
            store_some<T, N>(pass_.refined + label[k] * pass_.points + point, q[k], count);
        }
        if (pass_.last) return;
        transpose_groups<T, N>(q);
        for (int i = 0; i < kQuad; ++i) store<T, N>(rows_ + at * kQuad + i * N, q[i]);
      });
      if (pass_.last) continue;
      kernels_[g].splat(tile, rows_);
      splatted_[g] = true;
    }
  }

  const PrunePass<T>& pass_;
  const int strip_;
  T* rows_;    // [kTileRows, kTileColumns, 4]
  T* top_;     // [kTile], greatest logit computed; beyond the tile's points a huge number
  T* bound_;   // [groups], upper bound of the logits
  T* planes_;  // [groups, 4, kTile], logits, then their exponentials
  BandKernels<T> kernels_[kMaxGroups], static_;
  bool static_splatted_ = false;
  std::int64_t listed_[kMaxKernels];
  std::uint8_t most_[kMaxKernels][32], least_[kMaxKernels][32];  // extremes of a tile's shares
  bool computed_[kMaxGroups], gathered_[kMaxGroups], splatted_[kMaxGroups];
};

}  // namespace

template <typename T>
bool prune(const PrunePass<T>& pass, int strip, T* scratch) {
  PruneStrip<T> run(pass, strip, scratch);
  return run.run();
}

template <typename T>
std::int64_t count_tiles(const PointPass<T>& pass, int strip) {
  const Strips strips(pass.points);
  std::int64_t count = 0;
  for (Bands<T> bands(pass, strips.begin[strip], strips.begin[strip + 1]); bands.next();)
    count += (bands.band.columns + kTileColumns - 1) / kTileColumns;
  return count;
}

#define DCRF_INSTANTIATE(T)                                                                       \
  template bool prune(const PrunePass<T>&, int, T*);                                              \
  template std::int64_t count_tiles(const PointPass<T>&, int);                                    \
  template void shares(const T* const*, int, const T*, T, std::int64_t, std::int64_t,             \
                       std::uint8_t*, int);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf::DCRF_ISA
