// Interface of the CUDA engine, called by the bindings. The functions enqueue programs on a stream
// and return. The caller allocates all memory, including scratch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/gibbs.hpp"
#include "../core/key.hpp"
#include "narrow.hpp"
#include "views.hpp"

namespace dcrf {
namespace cuda {

// --- building a lattice, in this order (build.cu) ---

// Compute the barycentric weights [images N, d+1] and the keys [layout.words, entries] of all
// corners (the d+1 vertices of each point's simplex); entries = images N (d+1). If
// `features.inside` is given, `layout` must be one of images + 1 images. Features that `layout` does
// not cover, or that are not finite, get keys without a meaning, which can be sorted nevertheless.
template <typename T>
void locate_corners(const FeatureView<T>& features, const KeyLayout& layout, T* weight,
                    std::uint64_t* keys, const Stream& stream);

// Return the bytes of scratch memory that number_keys and link_vertices need for `count` keys.
std::size_t scratch_size(std::int64_t count);

// Sort keys [words, count] and number the distinct ones from 1 in sorted order. Write to order[i]
// the index of the i-th key in sorted order and to number[i] the number of this key, which for the
// last one is the number of distinct keys.
void number_keys(const KeyLayout& layout, std::int64_t count, const std::uint64_t* keys,
                 std::int32_t* order, std::int32_t* number, void* scratch, const Stream& stream);

// Keys and the outputs of number_keys(); `distinct` is the last number.
struct Sorted {
  std::int64_t count = 0, distinct = 0;
  const std::uint64_t* keys = nullptr;   // [words, count]
  const std::int32_t* order = nullptr;   // [count]
  const std::int32_t* number = nullptr;  // [count]
};

// Write the distinct keys in sorted order, [words, distinct].
void distinct_keys(const KeyLayout& layout, const Sorted& sorted, std::uint64_t* out,
                   const Stream& stream);

// Write to `out` [words, count (2 d + 3)] the given keys [words, count] and the keys of all their
// neighbours.
void surround(const KeyLayout& layout, std::int64_t count, const std::uint64_t* keys,
              std::uint64_t* out, const Stream& stream);

// Scratch memory of link_vertices().
struct LinkRoom {
  std::int32_t* vertex_of = nullptr;      // [distinct]; null if all vertices are corners
  std::int32_t* begins = nullptr;         // [vertices], initially 0
  std::int32_t* chunk_count = nullptr;    // [vertices], initially 0
  std::int32_t* chunks_before = nullptr;  // [vertices]
  void* scratch = nullptr;                // scratch_size(vertices)
};

// Write the vertex of each corner, [entries], and the links, [Links::size]. `keys` [words,
// vertices] are the sorted keys of all vertices; `touched_keys` are the keys of the vertices that
// are corners, or null if all are. Points that are not `inside` [images N] (null: all are) are not
// splatted; all their corners have one vertex, to which nothing is added.
void link_vertices(const KeyLayout& layout, const Sorted& corners,
                   const std::uint64_t* touched_keys, std::int64_t vertices,
                   const std::uint64_t* keys, const bool* inside, std::int32_t* vertex,
                   std::int32_t* links,
                   const LinkRoom& room, const Stream& stream);

// Backpropagate from d_weight [images, N, d+1] to d_feature [images, N, d].
template <typename T>
void feature_gradient(const FeatureView<T>& features, const T* d_weight, T* d_feature,
                      const Stream& stream);

// --- one lattice (filter.cu) ---

// Return the size in bytes of the workspace for `filters` filters.
template <typename T>
std::size_t filter_workspace(const LatticeView<T>& lattice, const Shape& shape, int filters);

// Compute out = K values, or K' values if `transpose`; both arrays are rows as `shape` says.
template <typename T>
void filter(const LatticeView<T>& lattice, const Shape& shape, const T* values, bool transpose,
            T* out, void* workspace, const Stream& stream);

// Write the gradient of <cotangent, K values> (or K' values) with respect to the barycentric
// weights, [images N, d+1] for the images of `shape`. Needs the workspace of two filters.
template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const Shape& shape, const T* values,
                            const T* cotangent, bool transpose, T* d_weight, void* workspace,
                            const Stream& stream);

// Write the diagonal of K to out [points]; or, with `cotangent` [points], the gradient of
// <cotangent, diagonal> with respect to the weights, [points, d+1]. `points` counts all the images
// of the lattice.
template <typename T>
void self_response(const LatticeView<T>& lattice, std::int64_t points, const T* cotangent, T* out,
                   const Stream& stream);

// --- whole mean fields (mean_field.cu) ---

// Return the size in bytes of the workspace of mean_field(); `saves`: the marginals are saved. S is
// the storage type of values at vertices and cells: T, or for T = float also Half or Bfloat16.
template <typename S, typename T>
std::size_t mean_field_workspace(const Model<T>& model, bool saves);

// Run all iterations and write the refined logits (planes). `saved` [iterations, images N, width]
// receives the marginals at the start of each iteration, unless null.
template <typename S, typename T>
void mean_field(const Model<T>& model, const T* logits, T* refined, T* saved, void* workspace,
                const Stream& stream);

// Return the size in bytes of the workspace of mean_field_backward().
template <typename T>
std::size_t backward_workspace(const Model<T>& model, const PointGradient<T>* wanted);

// Backpropagate from d_refined (planes) to the logits, the couplings [kernels, L, L] and the arrays
// in `wanted` [kernels].
template <typename T>
void mean_field_backward(const Model<T>& model, const T* saved, const T* d_refined, T* d_logits,
                         T* d_coupling, const PointGradient<T>* wanted, void* workspace,
                         const Stream& stream);

// --- Gibbs sweeps (gibbs.cu) ---

// A batch of grid CRFs that share tables and edge classes, all in device memory.
struct GibbsBatch {
  std::int64_t images = 0, height = 0, width = 0;
  Neighbours neighbours;
  const float* logits = nullptr;   // [B, H, W, L]
  std::int32_t* labels = nullptr;  // [B, H, W], changed in place; negative: masked out
  // The padded image of labels (Neighbours): its number of elements, the index of the first pixel,
  // and the distance between rows.
  std::int64_t padded_size = 0, padded_first = 0, padded_stride = 0;
  int colours = 1, step = 1;            // pixels of one colour in a row are `step` columns apart
  const std::int32_t* first = nullptr;  // [colours, row mod colours], first column or -1
  std::uint64_t seed = 0;
  const std::uint64_t* chain = nullptr;        // [B]
  const std::uint64_t* first_sweep = nullptr;  // [B], number of the first sweep
  int sweeps = 0;
  const float* inverse_temperature = nullptr;  // [sweeps]; infinity: most probable label
  double* marginals = nullptr;                 // [B, H, W, L], the conditionals are added; or null
  std::int64_t* changes = nullptr;  // [B, sweeps], number of labels that each sweep changed
};

// Return the size in bytes of the workspace of gibbs_sweep().
std::size_t gibbs_workspace(const GibbsBatch& batch);

// Run all sweeps; each draws every pixel once.
void gibbs_sweep(const GibbsBatch& batch, void* workspace, const Stream& stream);

}  // namespace cuda
}  // namespace dcrf
