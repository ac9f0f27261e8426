// The hot loops of the CPU engine and their arguments: a table of functions that are compiled once
// per instruction set. Each function processes one unit of work (a strip of points, a range of
// rows) on the caller's thread. Their callers (build.cpp, lattice.cpp, mean_field.cpp) are compiled
// only once.
#pragma once

#include <cstdint>

#include "../core/key.hpp"

namespace dcrf {

constexpr std::uint32_t kChainEnd = std::uint32_t(1) << 31;  // marks the last row of a chain
constexpr int kTile = 64;  // points per tile; the rows of a tile fit into the first-level cache
constexpr int kTileRows = 4;     // rows of pixels that a tile of Loops::prune covers
constexpr int kMaxGroups = 128;  // maximum number of groups of four labels of Loops::prune

// A coupling matrix between labels, applied to padded rows. If `matrix` is null, it has rank one
// plus a diagonal (for example Potts with any weights): out = (a . in) b + extra * in. Otherwise
// out = sum_l in[l] matrix[l].
template <typename T>
struct CouplingView {
  int labels = 0;
  const T* a = nullptr;       // [width]
  const T* b = nullptr;       // [width]
  const T* extra = nullptr;   // [width]
  const T* matrix = nullptr;  // [L, width]
};

// A regular grid of cells over an image [H, W] or a volume [D, H, W]. Axis 0 is depth, axis 1 the
// row, axis 2 the column; an image has one layer of cells and one tap in depth.
template <typename T>
struct GridView {
  std::int64_t size[3] = {1, 1, 1};   // pixels per axis
  std::int64_t cells[3] = {1, 1, 1};  // cells per axis
  int taps[3] = {1, 3, 3};            // number of cells that a pixel touches per axis
  const std::int32_t* cell[3] = {};   // per axis: [size], first cell that each pixel touches
  const T* splat[3] = {};             // per axis: [size, taps], weights from a pixel to cells
  const T* slice[3] = {};             // per axis: [size, taps], weights from cells to a pixel
  const T* band[3] = {};              // per axis: [2 radius + 1], symmetric blur weights
  int radius[3] = {0, 0, 0};          // of the blur per axis, in cells
  // [N], index of each point in the image; null: the points are all pixels, in order.
  const std::int32_t* pixel = nullptr;

  // Return the slowest axis of the image: 0 for a volume, otherwise 1.
  __attribute__((always_inline)) int outer() const { return taps[0] > 1 ? 0 : 1; }
  // Return the number of cells of a slab: a layer of a volume, or a row of cells of an image.
  __attribute__((always_inline)) std::int64_t slab() const {
    return outer() == 0 ? cells[1] * cells[2] : cells[2];
  }
};

// One kernel as an argument of the loops over points: slice reads its `values`, splat adds to its
// `sums`.
template <typename T>
struct PointKernel {
  // If `vertex` is not null, a lattice:
  int corners = 0;
  const std::int32_t* vertex = nullptr;  // [N, corners], row of each corner, relative to first_row
  const T* weight = nullptr;             // [N, corners], barycentric weights
  const std::int32_t* first_row = nullptr;  // [strips], first row of each strip
  // Otherwise a grid:
  GridView<T> grid;
  // [strips], first slab of cells in the sums of each strip.
  const std::int32_t* first_slab = nullptr;
  // [strips], position of each strip's sums in `sums`, in slabs.
  const std::int64_t* slab_offset = nullptr;

  const T* into = nullptr;    // [N], factor before the splat; null: 1
  const T* out_of = nullptr;  // [N], factor after the slice; null: 1
  const T* values = nullptr;  // [rows, width], values to slice
  T* sums = nullptr;          // [rows, width], splatted values
};

// The strips into which loops over points are divided. Strip s holds the points from begin[s] to
// before begin[s + 1].
struct Strips {
  int count = 1;
  std::int64_t begin[17] = {};

  // The strips depend on the number of points only, so that results do not depend on the number of
  // threads.
  __attribute__((always_inline)) explicit Strips(std::int64_t points) {
    constexpr std::int64_t kStrip = 1 << 16;
    const std::int64_t wanted = (points + kStrip / 2) / kStrip;
    count = int(wanted < 1 ? 1 : wanted > 16 ? 16 : wanted);
    for (int s = 1; s <= count; ++s)
      begin[s] = s < count ? points * s / count / kTile * kTile : points;
  }
};

// Arguments that all loops over points share. A pass is one traversal of the points: a slice, an
// update of the points' rows, and a splat.
template <typename T>
struct PointPass {
  std::int64_t points = 0;
  int labels = 0, width = 0;
  const PointKernel<T>* kernels = nullptr;
  int kernel_count = 0;
  const T* padding = nullptr;  // [width]: 0 at labels, -infinity in the padding
};

// The diagonal (i = j) term of a kernel's messages, which is removed from them.
template <typename T>
struct SelfTerm {
  const T* scale = nullptr;  // [N], diagonal of the kernel with its normaliser; null: no term
  CouplingView<T> coupling;
};

// How the logits of a mean field are stored: in the dtype of computation, in half precision, or as
// bytes that stand for scale * (byte - zero).
enum class LogitsDtype { kSame, kHalf, kByte };

// Logits [L, N] of any strides, in elements. `data` is null where they are planes of T.
template <typename T>
struct LogitsView {
  const void* data = nullptr;
  LogitsDtype dtype = LogitsDtype::kSame;
  std::int64_t label_stride = 0, point_stride = 0;
  T scale = 1, zero = 0;
};

// A label map [N] of unsigned integers of 1, 2 or 4 bytes. `data` is null where none is wanted.
struct LabelMap {
  void* data = nullptr;
  int bytes = 1;
};

// Arguments of a forward pass: compute the logits from messages and unaries and splat their
// softmax; the last pass writes the result instead.
template <typename T>
struct ForwardPass : PointPass<T> {
  const T* logits = nullptr;  // [L, N]
  LogitsView<T> stored;       // read in place of `logits` if it has data
  LabelMap labels_to;         // written by the last pass in place of `refined` if it has data
  T* unary = nullptr;         // [N, L], point-major copy of the logits, written by the first pass
  T* refined = nullptr;       // [L, N]; written by the last pass, may share memory with `unary`
  T* saved_q = nullptr;       // [N, width], receives the marginals; null: not wanted
  // [N, width], marginals of the previous pass; used with `self`.
  const T* q_before = nullptr;
  const SelfTerm<T>* self = nullptr;  // [kernel_count] or null
  // `marginals`: the last pass writes the softmax of the logits instead of the logits.
  bool first = false, last = false, marginals = false;
  bool safe = false;  // the maximum logit of every pixel is near 0; see exponentiate()
};

// Arguments of a pass of two labels (cpu/binary.hpp). Its kernels hold one number per row.
template <typename T>
struct BinaryPass : PointPass<T> {
  const T* logits = nullptr;  // [2, N]
  LogitsView<T> stored;       // read in place of `logits` if it has data
  LabelMap labels_to;         // written by the last pass in place of `refined` if it has data
  T* difference = nullptr;  // [N], logit of label 0 minus label 1, written by the first pass
  T* refined = nullptr;     // [2, N], marginals, written by the last pass; may share memory with it
  bool first = false, last = false;
};

// How the bounds of the mass that a tile's points receive were found: not yet, from the rows that
// the tile reads, or from its points.
enum class Measured : char { kNone, kByRows, kClosely };

// Arguments of a pass that leaves out labels (cpu/prune.hpp). The labels are in `groups` groups of
// four; each group has its own sums and values. A group that is not computed in a tile counts as 0.
template <typename T>
struct PrunePass : PointPass<T> {
  int groups = 0;
  const PointKernel<T>* kernels_of = nullptr;  // [groups, kernel_count]
  const std::int32_t* label = nullptr;         // [groups, 4], label at each place; -1: padding
  const T* logits = nullptr;                   // [L, N]
  const std::uint16_t* halves = nullptr;       // [L, N], read in place of `logits` if not null
  std::int64_t half_stride = 0;                // from one label of `halves` to the next
  // [L, N], written by the last pass: marginals, not where they are 0; or refined logits. `common`:
  // the messages of a point's own labels, summed, are subtracted from its refined logits.
  T* refined = nullptr;
  LabelMap labels_to;  // written by the last pass in place of `refined` if it has data
  bool marginals = false, common = false;
  T* peak = nullptr;  // [N], maximum logit, written by the first pass
  T delta = 0, log_delta = 0;
  bool first = false, last = false;
  const char* active = nullptr;  // [groups], whether a group has values that are not 0

  // Bounds. The shares of a row (a vertex or cell) are bytes: of each label of group 0, then the
  // maximum of group 1, 2 ...; the last byte is that of all groups that are left. A byte times
  // `step` is at least the label's value over the row's mass, and less than `step` above it if the
  // value is positive; values that are not positive count as 0.
  int share_width = 0;                          // 8, 16 or 32 bytes
  const std::uint8_t* share[kMaxKernels] = {};  // [rows, share_width]
  const T* mass[kMaxKernels] = {};              // [rows]
  T step[kMaxKernels] = {};
  // [tiles, kernel_count, 2], bounds of the mass that a point receives, above and below; [tiles],
  // how they were found so far.
  T* reach = nullptr;
  Measured* measured = nullptr;
  // Written by the first pass: [tiles, groups + 3], maximum of logit - peak of each label of group
  // 0, then of each other group; [tiles, 4], minimum of each label of group 0.
  T *head = nullptr, *foot = nullptr;
  std::int64_t first_tile[17] = {};  // [strips + 1]
  // The distinct rows that each tile reads of a lattice, relative to the strip's first row: from
  // list[list_begin[tile]] to list[list_end[tile]]. Written by the first pass; `stamp` [rows] is 0
  // before.
  std::int32_t* list[kMaxKernels] = {};
  std::int64_t *list_begin[kMaxKernels] = {}, *list_end[kMaxKernels] = {};
  std::uint32_t* stamp[kMaxKernels] = {};
  // Tiles of one label, of group 0, are splatted once, into sums of their own. `single` [tiles] is
  // the label's place, or -1. `freezes`: such tiles are skipped while bounds prove that they stay.
  const PointKernel<T>* static_kernels = nullptr;  // [kernel_count]
  signed char* single = nullptr;
  bool freezes = false;

  char* touched = nullptr;       // [strips, groups], set to 1 where marginals were splatted
  std::int64_t* kept = nullptr;  // [strips], labels kept in all tiles
};

// Outputs for the gradient of a lattice kernel; the loops add to them.
template <typename T>
struct PointGradient {
  T* weight = nullptr;    // [N, corners]; null: no gradient of this kernel is wanted
  T* before = nullptr;    // [N] or null
  T* after = nullptr;     // [N] or null
  T* diagonal = nullptr;  // [N] or null
};

// Arguments of a backward pass: compute the gradient of one iteration's logits from the gradient of
// the next iteration's logits. `kernels` hold adjoint values; `forward`, if not null, holds the
// kernels with the values from which this iteration's messages were sliced.
template <typename T>
struct BackwardPass : PointPass<T> {
  const T* d_refined = nullptr;  // [L, N], read by the first pass
  T* d_logits = nullptr;         // [L, N], written by the last pass
  T* sum = nullptr;              // [N, width], sum of the gradients of all iterations
  T* gradient = nullptr;         // [N, width], gradient of the logits, updated in place; or null
  const T* q = nullptr;          // [N, width], the marginals; null: recomputed
  const T* logits = nullptr;     // [L, N], from which the marginals are recomputed
  const PointKernel<T>* forward = nullptr;   // [kernel_count] or null
  const PointGradient<T>* wanted = nullptr;  // [kernel_count] or null
  const SelfTerm<T>* self = nullptr;         // [kernel_count] or null; with the transposed coupling
  const SelfTerm<T>* forward_self = nullptr;  // [kernel_count] or null; with the coupling
  const T* const* diagonal = nullptr;  // [kernel_count], diagonals [N]; used with forward_self
  bool first = false, last = false;
};

// Arguments of Loops::locate.
template <typename T>
struct LocateTask {
  // Feature i of point p is features[p * point_stride + i * feature_stride].
  const T* features = nullptr;
  std::int64_t point_stride = 0, feature_stride = 0;
  int dims = 0, count = 0;  // count <= kTile
  const T* scale = nullptr;
  std::uint64_t unit[kMaxDims + 1] = {};  // 1 in the key field of each axis, within its 32-bit half
  bool high[kMaxDims + 1] = {};           // whether the field is in the upper half of the key
  std::int64_t base[kMaxDims + 1] = {};   // per-axis offset: the quotient encoded as 0 in the key
};

// The hot loops for one instruction set.
template <typename T>
struct Loops {
  // Find the simplices of up to kTile points with d <= 6: write the lower and upper 32 bits of the
  // keys and the barycentric weights, each [corners, kTile].
  void (*locate)(const LocateTask<T>& task, std::uint32_t* low, std::uint32_t* high, T* weight);

  // Compute the minimum and maximum of `count` numbers; return false if one is not finite.
  bool (*range)(const T* from, std::int64_t stride, std::int64_t count, T* least, T* greatest);

  // Splat the rows `from` of the strip's points, `stride` elements apart, into the kernels' sums;
  // slice the kernels' values into such rows `to`. Rows of width 1 are for one lattice alone.
  void (*splat)(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride,
                T* scratch);
  void (*slice)(const PointPass<T>& pass, int strip, T* to, std::int64_t stride, T* scratch);

  // Add to d_weight [N, corners] of the only kernel the inner products of the rows `from` with the
  // kernel's values at their corners.
  void (*weight_gradient)(const PointPass<T>& pass, int strip, const T* from, std::int64_t stride,
                          T* d_weight, T* scratch);

  // Compute one strip of a pass. `forward` returns false if logits hold NaN or +infinity, or if all
  // logits of a point are -infinity.
  bool (*forward)(const ForwardPass<T>& pass, int strip, T* scratch);
  // Compute one strip of a pass of two labels; returns what `forward` returns.
  bool (*binary)(const BinaryPass<T>& pass, int strip, T* scratch);
  // Compute one strip of a pass that leaves labels out (PrunePass); returns what `forward` returns.
  // `tiles` returns the number of tiles of a strip.
  bool (*prune)(const PrunePass<T>& pass, int strip, T* scratch);
  std::int64_t (*tiles)(const PointPass<T>& pass, int strip);
  // Write the shares (PrunePass) of rows [begin, end). `values` [groups]: values of each group,
  // null for 0; `scale` is 1 / PrunePass::step.
  void (*shares)(const T* const* values, int groups, const T* inverse_mass, T scale,
                 std::int64_t begin, std::int64_t end, std::uint8_t* out, int width);
  void (*backward)(const BackwardPass<T>& pass, int strip, T* scratch);

  // The following loops work on rows [rows, width], selected by lists of row numbers. Add the row
  // of each ghost to its owner and set it to 0 (fold), copy the row of each owner to its ghosts
  // (broadcast), blur along chains of rows (blur).
  void (*fold)(const std::int32_t* ghost, const std::int32_t* owner, std::int64_t count, T* rows,
               int width);
  void (*broadcast)(const std::int32_t* ghost, const std::int32_t* owner, std::int64_t count,
                    T* rows, int width);
  void (*blur)(const std::uint32_t* chain, std::int64_t count, T* rows, int width);
  // Write values = C a, or C (a + b) / 2 if `b` is not null; set `a` to 0; return the maximum of
  // |values|, or 0 for rows of width 1, which have no `raw`. If not null, `raw`
  // receives the input of C. `row` lists the rows; null: the first `count` rows.
  T(*finish)
  (const CouplingView<T>& coupling, const std::int32_t* row, std::int64_t count, T* a, const T* b,
   T* values, T* raw, int width);
  // Add weight a[l] b[c] to sum [L, width], summed over the rows (weight null: 1; row null: the
  // first `count` rows).
  void (*outer)(const std::int32_t* row, std::int64_t count, const T* a, const T* b,
                const T* weight, int labels, int width, T* sum);

  // Add up `count` rows of cells, blur the sum along the row into `out`, and set the rows to 0.
  void (*grid_columns)(T* const* rows, int count, const T* band, int radius, std::int64_t cells,
                       int width, T* scratch, T* out);
  // Write out [length] = sum_k band[k] rows[k].
  void (*grid_rows)(const T* const* rows, const T* band, int count, std::int64_t length, T* out);
};

// Return the table for this processor; DENSECRF_RNN_ISA=baseline|avx2|avx512 selects a lower one.
template <typename T>
const Loops<T>& loops();

// Return the name of the instruction set in use.
const char* isa_name();

}  // namespace dcrf
