// The hot loops: a table of functions per instruction set. Each processes one unit of work (a strip
// of points, a range of rows) on the caller's thread. Their callers, lattice.cpp and
// mean_field.cpp, are compiled once.
#pragma once

#include <cstdint>

#include "../core/key.hpp"

namespace dcrf {

constexpr std::uint32_t kChainEnd = std::uint32_t(1) << 31;  // marks the last row of a chain
constexpr int kTile = 64;  // points whose rows stay in the first-level cache

// A matrix over labels, applied to padded rows. Rank one plus diagonal, such as Potts with any
// weights (matrix null): out = (a . in) b + extra * in. Else out = sum_l in[l] matrix[l].
template <typename T>
struct CouplingView {
  int labels = 0;
  const T* a = nullptr;       // [width]
  const T* b = nullptr;       // [width]
  const T* extra = nullptr;   // [width]
  const T* matrix = nullptr;  // [L, width]
};

// A regular grid of cells over an image [depth,] height, width. Axis 0 is depth, 1 the row, 2 the
// column; a 2-D image has one layer of cells and one tap in depth.
template <typename T>
struct GridView {
  std::int64_t size[3] = {1, 1, 1};   // pixels
  std::int64_t cells[3] = {1, 1, 1};  // grid
  int taps[3] = {1, 3, 3};            // number of cells that a pixel touches along each axis
  const std::int32_t* cell[3] = {};   // [size], first cell that a pixel touches
  const T* splat[3] = {};             // [size, taps]
  const T* slice[3] = {};             // [size, taps]
  const T* band[3] = {};              // [2 radius + 1], symmetric
  int radius[3] = {0, 0, 0};
  const std::int32_t* pixel =
      nullptr;  // [N], index of each point in the image; null: all pixels, in order

  __attribute__((always_inline)) int outer() const {
    return taps[0] > 1 ? 0 : 1;
  }  // the slowest axis with more than one cell
  __attribute__((always_inline)) std::int64_t slab() const {
    return outer() == 0 ? cells[1] * cells[2] : cells[2];
  }
};

// One kernel in the loops over points, which read `values` (slice) and add to `sums` (splat).
template <typename T>
struct PointKernel {
  // A lattice, if `vertex` is set:
  int corners = 0;
  const std::int32_t* vertex = nullptr;     // [N, corners], relative to the strip's first row
  const T* weight = nullptr;                // [N, corners]
  const std::int32_t* first_row = nullptr;  // [strips]
  // else a grid:
  GridView<T> grid;
  const std::int32_t* first_slab =
      nullptr;  // [strips], first slab of cells in the sums of the strip
  const std::int64_t* slab_offset =
      nullptr;  // [strips], position of the sums of the strip, in slabs

  const T* into = nullptr;    // [N] factor before the splat; null: 1
  const T* out_of = nullptr;  // [N] factor after the slice; null: 1
  const T* values = nullptr;  // [rows, width]
  T* sums = nullptr;          // [rows, width]
};

// The strips of points: strip s is [begin[s], begin[s + 1]).
struct Strips {
  int count = 1;
  std::int64_t begin[17] = {};

  // A function of the number of points, so that results do not depend on the number of threads.
  __attribute__((always_inline)) explicit Strips(std::int64_t points) {
    constexpr std::int64_t kStrip = 1 << 16;
    const std::int64_t wanted = (points + kStrip / 2) / kStrip;
    count = int(wanted < 1 ? 1 : wanted > 16 ? 16 : wanted);
    for (int s = 1; s <= count; ++s)
      begin[s] = s < count ? points * s / count / kTile * kTile : points;
  }
};

// Inputs of all loops over points; a pass lies between two blurs.
template <typename T>
struct PointPass {
  std::int64_t points = 0;
  int labels = 0, width = 0;
  const PointKernel<T>* kernels = nullptr;
  int kernel_count = 0;
  const T* padding = nullptr;  // [width]: 0 at labels, -infinity beyond
};

// The diagonal (i = j) term of the messages, to be removed.
template <typename T>
struct SelfTerm {
  const T* scale = nullptr;  // [N]; null: none
  CouplingView<T> coupling;
};

// Forward: logits from messages and unaries, their softmax and its splat; in the last pass, output.
template <typename T>
struct ForwardPass : PointPass<T> {
  const T* logits = nullptr;  // [L, N]
  T* unary = nullptr;         // [N, L], point-major copy of the logits: written by the first pass
  T* refined = nullptr;       // [L, N]; written by the last pass, may share memory with `unary`
  T* saved_q = nullptr;       // [N, width], written; null: not wanted
  const T* q_before =
      nullptr;  // [N, width], marginals of the previous pass, for the diagonal terms
  const SelfTerm<T>* self = nullptr;  // [kernel_count] or null
  bool first = false, last = false, marginals = false;
  bool safe = false;  // the maximum logit of each pixel is known to be near 0; see exponentiate()
};

// Outputs of the gradient of a lattice kernel, added to: [N, corners] and [N].
template <typename T>
struct PointGradient {
  T* weight = nullptr;  // null: not wanted
  T* before = nullptr;
  T* after = nullptr;
  T* diagonal = nullptr;
};

// Backward: the gradient of the logits of one iteration, from that of the next. The kernels hold
// adjoint values; `forward`, if set, the values from which this iteration's messages were sliced.
template <typename T>
struct BackwardPass : PointPass<T> {
  const T* d_refined = nullptr;  // [L, N], read by the first pass
  T* d_logits = nullptr;         // [L, N], written by the last pass
  T* sum = nullptr;              // [N, width], sum of the gradients of all iterations
  T* gradient = nullptr;         // [N, width], in: of the next iteration, out: of this one; or null
  const T* q = nullptr;          // [N, width], the marginals; null: recomputed
  const T* logits = nullptr;     // [L, N], from which they are recomputed
  const PointKernel<T>* forward = nullptr;    // [kernel_count] or null
  const PointGradient<T>* wanted = nullptr;   // [kernel_count] or null
  const SelfTerm<T>* self = nullptr;          // [kernel_count] or null; the transposed coupling
  const SelfTerm<T>* forward_self = nullptr;  // for its gradient
  const T* const* diagonal = nullptr;         // [kernel_count] of [N], with forward_self
  bool first = false, last = false;
};

template <typename T>
struct LocateTask {
  const T* features = nullptr;  // feature i of point p at p point_stride + i feature_stride
  std::int64_t point_stride = 0, feature_stride = 0;
  int dims = 0, count = 0;  // count <= kTile
  const T* scale = nullptr;
  std::uint64_t unit[kMaxDims + 1] = {};  // 1 in the key field of each axis, within its 32-bit half
  bool high[kMaxDims + 1] = {};           // whether that is the upper half
  std::int64_t base[kMaxDims + 1] = {};   // per-axis offset: the quotient encoded as 0 in the key
};

template <typename T>
struct Loops {
  // Write the keys [corners, kTile], in halves of 32 bits, and weights [corners, kTile] of up to
  // kTile points; d <= 6.
  void (*locate)(const LocateTask<T>& task, std::uint32_t* low, std::uint32_t* high, T* weight);

  // Compute the range of `count` numbers; return false if one is not finite.
  bool (*range)(const T* from, std::int64_t stride, std::int64_t count, T* least, T* greatest);

  // Splat rows of the strip's points, at stride `stride`, into `sums`; slice `values` into such
  // rows.
  void (*splat)(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride,
                T* scratch);
  void (*slice)(const PointPass<T>& pass, int strip, T* to, std::int64_t stride, T* scratch);

  // d_weight [N, corners] of the one kernel += inner products of rows [count, channels] with its
  // values.
  void (*weight_gradient)(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride,
                          T* d_weight, T* scratch);

  // Return false if logits hold NaN or +infinity, or -infinity alone at a point.
  bool (*forward)(const ForwardPass<T>& pass, int strip, T* scratch);
  void (*backward)(const BackwardPass<T>& pass, int strip, T* scratch);

  // On rows [.., width] given by lists of row numbers.
  void (*fold)(const std::int32_t* ghost, const std::int32_t* owner, std::int64_t count, T* rows,
               int width);
  void (*broadcast)(const std::int32_t* ghost, const std::int32_t* owner, std::int64_t count,
                    T* rows, int width);
  void (*blur)(const std::uint32_t* chain, std::int64_t count, T* rows, int width);
  // Write values = C a, or C (a + b) / 2 if b is not null; clear a; return max abs(values). raw, if
  // not null, receives C's input. `row` lists the rows; null: the first `count` rows.
  T(*finish)
  (const CouplingView<T>& coupling, const std::int32_t* row, std::int64_t count, T* a, const T* b,
   T* values, T* raw, int width);
  // sum [L, width] += weight a[l] b[c] over the rows (weight null: 1; row null: the first `count`).
  void (*outer)(const std::int32_t* row, std::int64_t count, const T* a, const T* b,
                const T* weight, int labels, int width, T* sum);

  // out = the sum of `count` rows of cells, which are cleared, blurred along the row.
  void (*grid_columns)(T* const* rows, int count, const T* band, int radius, std::int64_t cells,
                       int width, T* scratch, T* out);
  // out [length] = sum_k band[k] row k.
  void (*grid_rows)(const T* const* rows, const T* band, int count, std::int64_t length, T* out);
};

// Return the table for this processor; DENSECRF_RNN_ISA=baseline|avx2|avx512 selects a lower one.
template <typename T>
const Loops<T>& loops();

const char* isa_name();

}  // namespace dcrf
