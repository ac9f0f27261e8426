// Programs that build the lattices of a batch: compute the key of every corner, number the distinct
// keys in sorted order (sort.hpp sorts them), and link corners, vertices and their neighbours.
// Launched by build.cu. A corner is a vertex of the simplex of one point.
#pragma once

#include "../core/key.hpp"
#include "world.hpp"

namespace dcrf::cuda {

// Binary search: return the first i in [0, count) where below(i) is false, or `count`. below(i)
// must be true before that index and false from there on.
template <class Below>
DCRF_DEVICE std::int64_t partition_point(std::int64_t count, const Below& below) {
  std::int64_t low = 0, high = count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (below(middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// An array of keys, [words, count]: word w of key i is data[w * count + i].
template <int Words>
struct Keys {
  const std::uint64_t* data = nullptr;
  std::int64_t count = 0;
  int words = 1;  // words of a key in use, at most Words

  DCRF_DEVICE Key<Words> operator[](std::int64_t i) const {
    Key<Words> key;
    for (int w = 0; w < words; ++w) key.word[w] = data[w * count + i];
    return key;
  }
  // Return the index of `key`, or -1 if the array does not contain it; the keys must be sorted.
  DCRF_DEVICE std::int32_t find(const Key<Words>& key) const {
    const std::int64_t at =
        partition_point(count, [&](std::int64_t i) { return (*this)[i] < key; });
    return at < count && (*this)[at] == key ? std::int32_t(at) : -1;
  }
};

// Store key i of an array [words, count].
template <int Words>
DCRF_DEVICE void write_key(const Key<Words>& key, int words, std::int64_t count, std::int64_t i,
                           std::uint64_t* to) {
  for (int w = 0; w < words; ++w) to[w * count + i] = key.word[w];
}

// elevation_scale of each feature, computed once on the host since it needs double precision.
template <typename T>
struct Scales {
  explicit Scales(int dims) {
    for (int i = 0; i < dims; ++i) of[i] = elevation_scale<T>(dims, i);
  }
  T of[kMaxDims] = {};
};

// Find the simplex of one point of the batch. A point out of reach is taken as 0; its batch is
// rejected as soon as the caller knows the range of the features.
template <typename T>
DCRF_DEVICE void locate_point(const FeatureView<T>& f, const Scales<T>& scales, std::int64_t point,
                              Simplex<T>& out) {
  T feature[kMaxDims];
  const std::int64_t image = point / f.points;
  const T* const from =
      f.data + image * f.image_stride + (point - image * f.points) * f.point_stride;
  for (int i = 0; i < f.dims; ++i) feature[i] = from[i * f.feature_stride];
  keep_within_reach(feature, scales.of, f.dims);
  locate<T, 0>(feature, scales.of, f.dims, out);
}

// Compute the barycentric weights and the keys of all corners. The corners of points that are not
// `inside` all get one key, that of no image, which is the greatest.
template <typename T, int Words>
struct Locate {
  FeatureView<T> features;
  Scales<T> scales;
  KeyMaths<Words> maths;
  Key<Words> outside;             // unused unless features.inside
  int words = 1;                  // words of a key in use, at most Words
  T* weight = nullptr;            // [images N, d+1]
  std::uint64_t* keys = nullptr;  // [words, images N (d+1)]

  DCRF_DEVICE void operator()(const World& world) const {
    const std::int64_t points = features.images * features.points;
    const int d = features.dims, corners = d + 1;
    for_each(world, points, [&](std::int64_t point) {
      Simplex<T> simplex;
      int axis[kMaxDims + 1];
      locate_point(features, scales, point, simplex);
      for (int j = 0; j <= d; ++j) axis[d - simplex.rank[j]] = j;
      const bool inside = features.inside == nullptr || features.inside[point];
      Key<Words> key =
          inside ? maths.pack(simplex.quotient, std::uint64_t(point / features.points)) : outside;
      for (int k = 0; k <= d; ++k) {
        const std::int64_t slot = point * corners + k;
        weight[slot] = simplex.weight[k];
        write_key(key, words, points * corners, slot, keys);
        if (k < d && inside) maths.advance(key, axis[k]);
      }
    });
  }
};

// Backpropagate from the barycentric weights to the features.
template <typename T>
struct FeatureGradient {
  FeatureView<T> features;
  Scales<T> scales;
  const T* d_weight = nullptr;  // [images, N, d+1]
  T* d_feature = nullptr;       // [images, N, d], contiguous

  DCRF_DEVICE void operator()(const World& world) const {
    const int d = features.dims;
    for_each(world, features.images * features.points, [&](std::int64_t point) {
      Simplex<T> simplex;
      locate_point(features, scales, point, simplex);
      weight_gradient(simplex.rank, scales.of, d, d_weight + point * (d + 1),
                      d_feature + point * d);
    });
  }
};

// Write out[i] = i: the order of `count` items before they are sorted.
struct Number {
  std::int64_t count = 0;
  std::int32_t* out = nullptr;

  DCRF_DEVICE void operator()(const World& world) const {
    for_each(world, count, [&](std::int64_t i) { out[i] = std::int32_t(i); });
  }
};

// Write out[i] = word[order[i]]: one word of the keys, in the order in which they have been sorted
// so far.
struct Gather {
  std::int64_t count = 0;
  const std::uint64_t* word = nullptr;
  const std::int32_t* order = nullptr;
  std::uint64_t* out = nullptr;

  DCRF_DEVICE void operator()(const World& world) const {
    for_each(world, count, [&](std::int64_t i) { out[i] = word[order[i]]; });
  }
};

// Write first[i] = 1 if the key at sorted position i differs from the key before it, otherwise 0.
template <int Words>
struct MarkFirsts {
  Keys<Words> keys;
  const std::int32_t* order = nullptr;  // [count]
  std::int32_t* first = nullptr;        // [count]

  DCRF_DEVICE void operator()(const World& world) const {
    for_each(world, keys.count,
             [&](std::int64_t i) { first[i] = i == 0 || !(keys[order[i]] == keys[order[i - 1]]); });
  }
};

// Write the distinct keys in sorted order.
template <int Words>
struct Distinct {
  Keys<Words> keys;
  std::int64_t distinct = 0;
  const std::int32_t* order = nullptr;   // [count]
  const std::int32_t* number = nullptr;  // [count]: 1 + index of the key among the distinct keys
  std::uint64_t* out = nullptr;          // [words, distinct]

  DCRF_DEVICE void operator()(const World& world) const {
    for_each(world, keys.count, [&](std::int64_t i) {
      if (i == 0 || number[i] != number[i - 1])
        write_key(keys[order[i]], keys.words, distinct, number[i] - 1, out);
    });
  }
};

// Write the keys of vertices and of all their neighbours (duplicates included).
template <int Words>
struct Surround {
  KeyMaths<Words> maths;
  Keys<Words> keys;
  int corners = 2;
  std::uint64_t* out = nullptr;  // [words, count (2 d + 3)]

  DCRF_DEVICE void operator()(const World& world) const {
    const std::int64_t all = keys.count * (2 * corners + 1);
    for_each(world, keys.count, [&](std::int64_t v) {
      const Key<Words> key = keys[v];
      for (int i = 0; i <= 2 * corners; ++i) {
        const Key<Words> one = i == 0         ? key
                               : i <= corners ? maths.neighbour(key, i - 1)
                                              : maths.neighbour_back(key, i - 1 - corners);
        write_key(one, keys.words, all, i * keys.count + v, out);
      }
    });
  }
};

// From the sorted corners, write the vertex of each corner, the entries of the links and, for each
// vertex, the index of its first entry and its number of chunks. A vertex is touched if it is a
// corner of a point; filled lattices also have other vertices, whose `begins` and `chunk_count`
// stay 0. The vertex of the points that are not `inside` gets no chunks, so that nothing is ever
// added to it, however many they are.
template <int Words>
struct FillEntries {
  std::int64_t entries = 0;
  int corners = 2;
  const bool* inside = nullptr;          // [entries / corners]; null: all points are
  const std::int32_t* order = nullptr;   // [entries]
  const std::int32_t* number = nullptr;  // [entries]: 1 + index of the touched vertex
  Keys<Words> touched;  // keys of the touched vertices; data null: all vertices are touched
  Keys<Words> keys;     // keys of all vertices, sorted
  Links links;
  std::int32_t* array = nullptr;        // the writable memory into which `links` points
  std::int32_t* vertex = nullptr;       // [entries]
  std::int32_t* vertex_of = nullptr;    // [touched], scratch; unused if all are touched
  std::int32_t* begins = nullptr;       // [vertices], 1 + the first entry; initially 0
  std::int32_t* chunk_count = nullptr;  // [vertices], initially 0

  DCRF_DEVICE void operator()(World& world) const {
    std::int32_t* const entry = array + (links.entry - array);
    if (touched.data != nullptr) {
      for_each(world, touched.count, [&](std::int64_t v) { vertex_of[v] = keys.find(touched[v]); });
      world.sync();
    }
    for_each(world, entries, [&](std::int64_t i) {
      const std::int32_t v = of(number[i] - 1);
      entry[i] = order[i];
      vertex[order[i]] = v;
      if (i == 0 || number[i] != number[i - 1]) begins[v] = std::int32_t(i) + 1;
    });
    world.sync();
    for_each(world, entries, [&](std::int64_t i) {
      if (i + 1 < entries && number[i] == number[i + 1]) return;
      const std::int32_t v = of(number[i] - 1);  // i is the last entry of v
      if (inside != nullptr && !inside[order[i] / corners]) return;
      const std::int64_t length = i + 2 - begins[v];
      chunk_count[v] = std::int32_t((length + kSegmentChunk - 1) / kSegmentChunk);
    });
  }

 private:
  // Return the index among all vertices of a touched vertex.
  DCRF_DEVICE std::int32_t of(std::int32_t touched_vertex) const {
    return touched.data == nullptr ? touched_vertex : vertex_of[touched_vertex];
  }
};

// Write the other arrays of the links: segments, chunks and neighbours. Vertices without entries
// get an empty segment.
template <int Words>
struct Link {
  KeyMaths<Words> maths;
  Keys<Words> keys;  // keys of all vertices, sorted
  int corners = 2;
  const std::int32_t* begins = nullptr;         // [vertices]
  const std::int32_t* chunk_count = nullptr;    // [vertices]
  const std::int32_t* chunks_before = nullptr;  // [vertices], inclusive sum of chunk_count
  std::int64_t touched = 0;
  const std::int32_t* vertex_of = nullptr;  // [touched], ascending; null: all are touched
  Links links = {};
  std::int32_t* array = nullptr;

  DCRF_DEVICE void operator()(World& world) const {
    const std::int64_t vertices = links.vertices;
    std::int32_t* const segment = array + (links.segment - array);
    std::int32_t* const chunk_first = array + (links.chunk_first - array);
    std::int32_t* const chunk_vertex = array + (links.chunk_vertex - array);
    std::int32_t* const neighbour = array + (links.neighbour - array);
    for_each(world, 2 * corners * vertices, [&](std::int64_t i) { neighbour[i] = -1; });
    for_each(world, vertices + 1, [&](std::int64_t v) {
      chunk_first[v] = v == 0 ? 0 : chunks_before[v - 1];
      const std::int64_t next = next_touched(v);  // v itself if it has entries
      segment[v] = next < vertices ? begins[next] - 1 : std::int32_t(links.entries);
    });
    for_each(world, vertices, [&](std::int64_t v) {
      const std::int32_t end = chunks_before[v];
      for (std::int32_t chunk = end - chunk_count[v]; chunk < end; ++chunk)
        chunk_vertex[chunk] = std::int32_t(v);
    });
    const std::int64_t used = vertices == 0 ? 0 : chunks_before[vertices - 1];
    for_each(world, links.most_chunks() - used,
             [&](std::int64_t i) { chunk_vertex[used + i] = 0; });
    world.sync();
    // Search for the backward neighbour only, and store the pair of neighbours at both vertices.
    for_each(world, corners * vertices, [&](std::int64_t i) {
      const std::int64_t axis = i / vertices, v = i - axis * vertices;
      const std::int32_t other = keys.find(maths.neighbour_back(keys[v], int(axis)));
      if (other < 0) return;
      neighbour[2 * i + 1] = other;
      neighbour[2 * (axis * vertices + other)] = std::int32_t(v);
    });
  }

 private:
  // Return the first vertex >= v that has entries, or the number of vertices if there is none. This
  // is a binary search, since very many consecutive vertices can be without entries.
  DCRF_DEVICE std::int64_t next_touched(std::int64_t v) const {
    if (vertex_of == nullptr || v == links.vertices) return v;
    const std::int64_t at =
        partition_point(touched, [&](std::int64_t i) { return vertex_of[i] < v; });
    return at < touched ? vertex_of[at] : links.vertices;
  }
};

}  // namespace dcrf::cuda
