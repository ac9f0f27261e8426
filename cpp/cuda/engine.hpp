// What the bindings call. Every function puts programs on a stream and returns; only `number_keys`
// waits for an answer. Memory is the caller's, scratch and workspaces included.
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

// The weights [images N, d+1] and the keys [layout.words, entries] of all corners.
template <typename T>
void locate_corners(const FeatureView<T>& features, const KeyLayout& layout, T* weight,
                    std::uint64_t* keys, const Stream& stream);

// Bytes that number_keys, or link_vertices, wants for this many keys.
std::size_t scratch_size(std::int64_t count);

// The sorted order of the keys, and for each in that order which of the distinct ones it is, from 1
// on; the answer is how many those are. Waits for it.
std::int64_t number_keys(const KeyLayout& layout, std::int64_t count, const std::uint64_t* keys,
                         std::int32_t* order, std::int32_t* number, void* scratch,
                         const Stream& stream);

// Numbered keys.
struct Sorted {
  std::int64_t count = 0, distinct = 0;
  const std::uint64_t* keys = nullptr;   // [words, count]
  const std::int32_t* order = nullptr;   // [count]
  const std::int32_t* number = nullptr;  // [count]
};

// The distinct keys, [words, distinct], in order.
void distinct_keys(const KeyLayout& layout, const Sorted& sorted, std::uint64_t* out,
                   const Stream& stream);

// Keys and all their neighbours, [words, count (2 d + 3)].
void surround(const KeyLayout& layout, std::int64_t count, const std::uint64_t* keys,
              std::uint64_t* out, const Stream& stream);

// What `link_vertices` works with; the last four are scratch.
struct LinkRoom {
  std::int32_t* vertex_of = nullptr;      // [distinct], or null where all vertices are touched
  std::int32_t* begins = nullptr;         // [vertices], zeros
  std::int32_t* chunk_count = nullptr;    // [vertices], zeros
  std::int32_t* chunks_before = nullptr;  // [vertices]
  void* scratch = nullptr;                // scratch_size(vertices)
};

// Writes vertex [entries] and links [Links::size], from the corners; `keys` [words, vertices] are
// those of all vertices, in order, `touched_keys` those of the corners, or null if they are the
// same.
void link_vertices(const KeyLayout& layout, const Sorted& corners,
                   const std::uint64_t* touched_keys, std::int64_t vertices,
                   const std::uint64_t* keys, std::int32_t* vertex, std::int32_t* links,
                   const LinkRoom& room, const Stream& stream);

// d_feature [images, N, d] from d_weight [images, N, d+1].
template <typename T>
void feature_gradient(const FeatureView<T>& features, const T* d_weight, T* d_feature,
                      const Stream& stream);

// --- one lattice (filter.cu) ---

template <typename T>
std::size_t filter_workspace(const LatticeView<T>& lattice, const Shape& shape, int filters);

// out = K values, or K' values; rows of `shape`.
template <typename T>
void filter(const LatticeView<T>& lattice, const Shape& shape, const T* values, bool transpose,
            T* out, void* workspace, const Stream& stream);

// d_weight [images N, d+1] of <cotangent, K values>, or of <cotangent, K' values>, for each image
// of the shape. Wants the workspace of two filters.
template <typename T>
void filter_weight_gradient(const LatticeView<T>& lattice, const Shape& shape, const T* values,
                            const T* cotangent, bool transpose, T* d_weight, void* workspace,
                            const Stream& stream);

// out [points] = the diagonal of K; or with `cotangent` [points] the gradient of <cotangent,
// diagonal> for the weights, [points, d+1]. `points` are those of all the lattice's images.
template <typename T>
void self_response(const LatticeView<T>& lattice, std::int64_t points, const T* cotangent, T* out,
                   const Stream& stream);

// --- whole mean fields (mean_field.cu) ---

// S is the type that values at vertices and cells are kept in: T, or for float one of narrow.hpp.
template <typename S, typename T>
std::size_t mean_field_workspace(const Model<T>& model, bool saves);

// U' of the last iteration, in planes. `saved` [T, images N, width] receives the marginals that
// each iteration starts from; or null.
template <typename S, typename T>
void mean_field(const Model<T>& model, const T* logits, T* refined, T* saved, void* workspace,
                const Stream& stream);

template <typename T>
std::size_t backward_workspace(const Model<T>& model, const PointGradient<T>* wanted);

// The gradients; `wanted` [kernels].
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
  std::int32_t* labels = nullptr;  // [B, H, W], changed in place; below 0: takes no part
  // Labels of an image with its margin: how many, where the first pixel lies, and the next row.
  std::int64_t padded_size = 0, padded_first = 0, padded_stride = 0;
  int colours = 1, step = 1;            // the pixels of a colour in a row are `step` apart
  const std::int32_t* first = nullptr;  // [colours, row mod colours], the first of them, or -1
  std::uint64_t seed = 0;
  const std::uint64_t* chain = nullptr;        // [B]
  const std::uint64_t* first_sweep = nullptr;  // [B]
  int sweeps = 0;
  const float* inverse_temperature = nullptr;  // [S]; infinity: the likeliest label
  double* marginals = nullptr;                 // [B, H, W, L], added to; or null
  std::int64_t* changes = nullptr;             // [B, S], written
};

std::size_t gibbs_workspace(const GibbsBatch& batch);

// Draws every pixel once in each sweep.
void gibbs_sweep(const GibbsBatch& batch, void* workspace, const Stream& stream);

}  // namespace cuda
}  // namespace dcrf
