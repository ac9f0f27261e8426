// The forward pass of two labels. Their marginals sum to 1, so one number per point, their
// difference, is sliced and splatted.
#include "binary_pass.hpp"

#include "logits.hpp"
#include "number_points.hpp"

namespace dcrf::DCRF_ISA {
namespace {

// One strip of a pass.
template <typename T>
class BinaryStrip {
 public:
  static constexpr int N = kLanes<T>;
  using P = Pack<T, N>;

  BinaryStrip(const BinaryPass<T>& pass, int strip, T* scratch) : pass_(pass), strip_(strip) {
    for (int m = 0; m < pass.kernel_count; ++m) {
      if (pass.kernels[m].vertex == nullptr) lines_[m].take(pass.kernels[m].grid, scratch);
    }
  }

  bool run() {
    const Strips strips(pass_.points);
    bool good = true;
    for (Tiles<T> tiles(pass_, strips.begin[strip_], strips.begin[strip_ + 1]); tiles.next();) {
      const Tile& tile = tiles.tile;
      begin_rows(tile);
      if (pass_.first) {
        good &= read_logits(tile);
      } else {
        for (int i = 0; i < tile.count; ++i) x_[i] = pass_.difference[tile.begin + i];
        slice(tile);
      }
      if (pass_.last)
        write(tile);
      else
        splat(tile);
    }
    for (int m = 0; m < pass_.kernel_count && !pass_.last; ++m) {
      const PointKernel<T>& k = pass_.kernels[m];
      if (k.vertex != nullptr) continue;
      for (int i = 0; i < k.grid.taps[0] * k.grid.taps[1]; ++i) lines_[m].flush(k, strip_, i);
    }
    return good;
  }

 private:
  void begin_rows(const Tile& tile) {
    for (int m = 0; m < pass_.kernel_count; ++m) {
      const PointKernel<T>& k = pass_.kernels[m];
      if (k.vertex == nullptr && lines_[m].pixel_row != tile.pixel_row)
        lines_[m].begin_row(k, strip_, tile.pixel_row, !pass_.first, !pass_.last);
    }
  }

  // Read the logits and store their difference. Return whether they are valid.
  bool read_logits(const Tile& tile) {
    T pair[2][kTile];
    if (pass_.stored.data != nullptr) {
      T rows[kTile * 4];
      load_logits<4>(pass_.stored, 2, tile, rows, 4);
      for (int p = 0; p < tile.count; ++p) {
        pair[0][p] = rows[p * 4];
        pair[1][p] = rows[p * 4 + 1];
      }
    } else {
      for (int l = 0; l < 2; ++l) {
        const T* const from = pass_.logits + l * pass_.points + tile.begin;
        for (int p = 0; p < tile.count; ++p) pair[l][p] = from[p];
      }
    }
    bool good = true;
    T* const to = pass_.difference + tile.begin;
    for (int p = 0; p < tile.count; ++p) {
      const T a = pair[0][p], b = pair[1][p];
      // NaN and +infinity are not at most kMost; at least one is not -infinity.
      good &= (a <= kMost<T>) & (b <= kMost<T>) & ((a >= -kMost<T>) | (b >= -kMost<T>));
      to[p] = x_[p] = a - b;
    }
    return good;
  }

  void slice(const Tile& tile) {
    for (int m = 0; m < pass_.kernel_count; ++m) {
      const PointKernel<T>& k = pass_.kernels[m];
      if (k.vertex == nullptr && lines_[m].count == 3)
        slice_grid_numbers<3>(k, lines_[m], tile, x_);
      else if (k.vertex == nullptr)
        slice_grid_numbers<0>(k, lines_[m], tile, x_);
      else if (k.corners == 6)
        slice_lattice_numbers<6>(k, strip_, tile, x_);
      else
        slice_lattice_numbers<0>(k, strip_, tile, x_);
    }
  }

  void splat(const Tile& tile) {
    constexpr T kLimit = 80;
    T q[kTile];  // difference of the marginals, tanh(x / 2)
    for (int p = 0; p < tile.count; p += N) {
      P x = load<T, N>(x_ + p);
      x = x < kLimit ? x : broadcast<T, N>(kLimit);
      x = x > -kLimit ? x : broadcast<T, N>(-kLimit);
      const P e = exponential<N>(x);
      store<T, N>(q + p, (e - T(1)) / (e + T(1)));
    }
    for (int m = 0; m < pass_.kernel_count; ++m) {
      const PointKernel<T>& k = pass_.kernels[m];
      T scaled[kTile];
      const T* numbers = q;
      if (k.into != nullptr) {
        numbers = scaled;
        for (int p = 0; p < tile.count; ++p) scaled[p] = q[p] * k.into[tile.begin + p];
      }
      if (k.vertex == nullptr && lines_[m].count == 3)
        splat_grid_numbers<3>(lines_[m], k.grid, tile, numbers);
      else if (k.vertex == nullptr)
        splat_grid_numbers<0>(lines_[m], k.grid, tile, numbers);
      else if (k.corners == 6)
        splat_lattice<6>(k, tile, numbers);
      else
        splat_lattice<0>(k, tile, numbers);
    }
  }

  template <int Corners>
  void splat_lattice(const PointKernel<T>& k, const Tile& tile, const T* numbers) {
    if (pass_.first)
      splat_lattice_numbers<Corners, true>(k, strip_, tile, numbers);
    else
      splat_lattice_numbers<Corners, false>(k, strip_, tile, numbers);
  }

  template <typename Label>
  void write_labels(const Tile& tile, Label* to) {
    for (int p = 0; p < tile.count; ++p) to[tile.begin + p] = Label(x_[p] < T(0));
  }

  // Write the labels or the marginals.
  void write(const Tile& tile) {
    void* const labels = pass_.labels_to.data;
    if (labels != nullptr) {
      if (pass_.labels_to.bytes == 1) return write_labels(tile, static_cast<std::uint8_t*>(labels));
      if (pass_.labels_to.bytes == 2)
        return write_labels(tile, static_cast<std::uint16_t*>(labels));
      return write_labels(tile, static_cast<std::uint32_t*>(labels));
    }
    T q[2][kTile];
    for (int p = 0; p < tile.count; p += N) {
      const P x = load<T, N>(x_ + p);
      const P e = exponential<N>(x > T(0) ? -x : x), greater = T(1) / (T(1) + e);
      store<T, N>(q[0] + p, x > T(0) ? greater : e * greater);
      store<T, N>(q[1] + p, x > T(0) ? e * greater : greater);
    }
    for (int l = 0; l < 2; ++l) {
      T* const to = pass_.refined + l * pass_.points + tile.begin;
      for (int p = 0; p < tile.count; ++p) to[p] = q[l][p];
    }
  }

  const BinaryPass<T>& pass_;
  const int strip_;
  T x_[kTile] = {};  // differences of the logits
  GridLines<T> lines_[kMaxKernels];
};

}  // namespace

template <typename T>
bool binary(const BinaryPass<T>& pass, int strip, T* scratch) {
  BinaryStrip<T> run(pass, strip, scratch);
  return run.run();
}

template bool binary(const BinaryPass<float>&, int, float*);
template bool binary(const BinaryPass<double>&, int, double*);

}  // namespace dcrf::DCRF_ISA
