// Sets up and launches the programs of build.hpp (the lattice part of engine.hpp). Compiled without
// fused multiply-adds, so that all values, and therefore the simplex of each point, are rounded as
// on a CPU.
#include "build.hpp"

#include <stdexcept>
#include <type_traits>

#include "engine.hpp"
#include "sort.hpp"
#include "workspace.hpp"

namespace dcrf::cuda {
namespace {

// Call body(n), where the integral constant n (1, 2 or the maximum) is enough for the words of a
// key.
template <class Body>
void with_words(const KeyLayout& layout, const Body& body) {
  if (layout.words > kMaxKeyWords) throw std::invalid_argument("vertex keys of too many words");
  if (layout.words == 1) {
    body(std::integral_constant<int, 1>());
  } else if (layout.words == 2) {
    body(std::integral_constant<int, 2>());
  } else {
    body(std::integral_constant<int, kMaxKeyWords>());
  }
}

// Scratch buffers for sorting or summing `count` items.
struct SortRoom {
  SortRoom(std::int64_t count, void* memory) {
    Workspace workspace(memory);
    keys = workspace.take<std::uint64_t>(count);
    sorted_keys = workspace.take<std::uint64_t>(count);
    order = workspace.take<std::int32_t>(count);
    bytes = sort_scratch(count);
    scratch = workspace.take<char>(std::int64_t(bytes));
    size = workspace.size();
  }
  std::uint64_t *keys, *sorted_keys;
  std::int32_t* order;
  void* scratch;
  std::size_t bytes, size;
};

}  // namespace

template <typename T>
void locate_corners(const FeatureView<T>& features, const KeyLayout& layout, T* weight,
                    std::uint64_t* keys, const Stream& stream) {
  std::int32_t lowest[kMaxDims] = {};  // quotients from which blurs stay within the fields
  for (int j = 0; j < layout.dims; ++j)
    lowest[j] = std::int32_t(layout.base[j] + 1 + kBlurSteps);
  with_words(layout, [&](auto words) {
    const KeyMaths<words()> maths(layout);
    const Key<words()> outside = features.inside == nullptr
                                     ? Key<words()>()
                                     : maths.pack(lowest, std::uint64_t(features.images));
    const Locate<T, words()> program{features, Scales<T>(layout.dims), maths, outside,
                                     layout.words, weight, keys};
    launch(program, features.images * features.points, stream);
  });
}

std::size_t scratch_size(std::int64_t count) { return SortRoom(count, nullptr).size; }

void number_keys(const KeyLayout& layout, std::int64_t count, const std::uint64_t* keys,
                 std::int32_t* order, std::int32_t* number, void* scratch, const Stream& stream) {
  if (count == 0) return;
  const SortRoom room(count, scratch);
  // Radix sort by words, least significant first; each sort is stable. `order` and `room.order`
  // alternate as input and output, so that the last sort writes `order`.
  std::int32_t* from = layout.words % 2 == 0 ? order : room.order;
  std::int32_t* to = layout.words % 2 == 0 ? room.order : order;
  launch(Number{count, from}, count, stream);
  for (int w = 0; w < layout.words; ++w) {
    const std::uint64_t* word = keys + w * count;
    if (w > 0) {
      launch(Gather{count, word, from, room.keys}, count, stream);
      word = room.keys;
    }
    const int bits = w + 1 < layout.words ? 64 : layout.used;
    sort_pairs(count, bits, word, from, room.sorted_keys, to, room.scratch, room.bytes, stream);
    std::swap(from, to);
  }
  with_words(layout, [&](auto words) {
    const Keys<words()> all{keys, count, layout.words};
    launch(MarkFirsts<words()>{all, order, room.order}, count, stream);
  });
  running_sum(count, room.order, number, room.scratch, room.bytes, stream);
}

void distinct_keys(const KeyLayout& layout, const Sorted& sorted, std::uint64_t* out,
                   const Stream& stream) {
  with_words(layout, [&](auto words) {
    const Keys<words()> keys{sorted.keys, sorted.count, layout.words};
    const Distinct<words()> program{keys, sorted.distinct, sorted.order, sorted.number, out};
    launch(program, sorted.count, stream);
  });
}

void surround(const KeyLayout& layout, std::int64_t count, const std::uint64_t* keys,
              std::uint64_t* out, const Stream& stream) {
  with_words(layout, [&](auto words) {
    const Keys<words()> all{keys, count, layout.words};
    const Surround<words()> program{KeyMaths<words()>(layout), all, layout.dims + 1, out};
    launch(program, count, stream);
  });
}

void link_vertices(const KeyLayout& layout, const Sorted& corners,
                   const std::uint64_t* touched_keys, std::int64_t vertices,
                   const std::uint64_t* keys, const bool* inside, std::int32_t* vertex,
                   std::int32_t* array,
                   const LinkRoom& room, const Stream& stream) {
  const int corner_count = layout.dims + 1;
  const Links links(array, vertices, corners.count);
  with_words(layout, [&](auto words) {
    FillEntries<words()> fill;
    fill.entries = corners.count;
    fill.corners = corner_count;
    fill.inside = inside;
    fill.order = corners.order;
    fill.number = corners.number;
    fill.touched = {touched_keys, corners.distinct, layout.words};
    fill.keys = {keys, vertices, layout.words};
    fill.links = links;
    fill.array = array;
    fill.vertex = vertex;
    fill.vertex_of = room.vertex_of;
    fill.begins = room.begins;
    fill.chunk_count = room.chunk_count;
    launch(fill, corners.count, stream);
    if (vertices > 0) {
      const SortRoom sums(vertices, room.scratch);
      running_sum(vertices, room.chunk_count, room.chunks_before, sums.scratch, sums.bytes, stream);
    }
    Link<words()> link{KeyMaths<words()>(layout), fill.keys, corner_count};
    link.begins = room.begins;
    link.chunk_count = room.chunk_count;
    link.chunks_before = room.chunks_before;
    link.touched = corners.distinct;
    link.vertex_of = touched_keys == nullptr ? nullptr : room.vertex_of;
    link.links = links;
    link.array = array;
    launch(link, corner_count * vertices, stream);
  });
}

template <typename T>
void feature_gradient(const FeatureView<T>& features, const T* d_weight, T* d_feature,
                      const Stream& stream) {
  const FeatureGradient<T> program{features, Scales<T>(features.dims), d_weight, d_feature};
  launch(program, features.images * features.points, stream);
}

#define DCRF_INSTANTIATE(T)                                                                 \
  template void locate_corners(const FeatureView<T>&, const KeyLayout&, T*, std::uint64_t*, \
                               const Stream&);                                              \
  template void feature_gradient(const FeatureView<T>&, const T*, T*, const Stream&);
DCRF_INSTANTIATE(float)
DCRF_INSTANTIATE(double)
#undef DCRF_INSTANTIATE

}  // namespace dcrf::cuda
