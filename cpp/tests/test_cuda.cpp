// Tests of the CUDA programs: results equal those of the CPU engine within rounding, and are
// bit-identical for any number of threads and for an image in any batch. On the serial launcher
// (cpp/cuda/threads.hpp) the thread sanitizer finds missing barriers, since several threads run
// each program. test_cuda_device.cu compiles the same tests for a GPU.
#include <stdexcept>

#include "../cuda/build.hpp"
#include "../cuda/devices.hpp"
#include "../cuda/filter.hpp"
#include "../cuda/mean_field.hpp"
#include "cuda_problems.hpp"

using namespace tests;
using dcrf::Quality;

namespace {

constexpr int kThreads[] = {1, 2, 5};

// Largest differences to the CPU engine relative to max(1, max). A GPU fuses multiplications and
// additions, so its tolerance is that of tests/test_cuda.py.
template <typename T>
constexpr double kTolerance = kOnDevice ? (sizeof(T) == 4 ? 1e-4 : 1e-10)
                                        : (sizeof(T) == 4 ? 2e-5 : 1e-12);
template <typename T>
constexpr double kMeanFieldTolerance = kOnDevice ? kTolerance<T> : 4 * kTolerance<T>;

// Random features [images, points, dims]; some points are repeated.
template <typename T>
std::vector<T> some_features(std::int64_t images, std::int64_t points, int dims, double spread) {
  auto out = random_numbers<T>(images * points * dims, spread, unsigned(dims));
  for (std::int64_t b = 0; b < images; ++b) {
    T* const of_image = out.data() + b * points * dims;
    for (std::int64_t i = 0; i < points / 4 * dims; ++i)
      of_image[points / 2 * dims + i] = of_image[i % (3 * dims)];
  }
  return out;
}

// Check that the entries of a vertex are its corners in order of points, that chunks cover them,
// and that neighbour links are mutual.
template <typename T>
void check_links(const DeviceLattice<T>& lattice) {
  const gpu::Links links = lattice.host_links();
  CHECK(links.segment[0] == 0 && links.segment[links.vertices] == links.entries);
  CHECK(links.chunk_first[0] == 0 && links.chunk_first[links.vertices] <= links.most_chunks());
  for (std::int64_t v = 0; v < links.vertices; ++v) {
    const std::int32_t begin = links.segment[v], end = links.segment[v + 1];
    for (std::int32_t e = begin; e < end; ++e) {
      CHECK(lattice.vertex[links.entry[e]] == v);
      CHECK(e == begin || links.entry[e - 1] < links.entry[e]);
    }
    const std::int32_t chunks = links.chunk_first[v + 1] - links.chunk_first[v];
    CHECK(chunks == (end - begin + gpu::kSegmentChunk - 1) / gpu::kSegmentChunk);
    for (std::int32_t c = 0; c < chunks; ++c)
      CHECK(links.chunk_vertex[links.chunk_first[v] + c] == v);
    for (int axis = 0; axis <= lattice.view.dims; ++axis) {
      const std::int32_t* const ends = links.neighbour + 2 * axis * links.vertices;
      for (int side = 0; side < 2; ++side) {
        const std::int32_t other = ends[2 * v + side];
        CHECK(other < links.vertices && other != v);
        CHECK(other < 0 || ends[2 * other + 1 - side] == v);
      }
    }
  }
}

// Compare lattices of a batch, and every operation on them, with the CPU engine's lattice of each
// image. Return the number of words per key.
template <typename T>
int check_lattices(const std::vector<T>& features, std::int64_t images, int dims, Quality quality,
                   int channels) {
  const std::int64_t points = std::int64_t(features.size()) / dims / images;
  const std::int64_t rows = images * points;
  const auto values = random_numbers<T>(rows * channels, 1.0, 1);
  const auto cotangent = random_numbers<T>(rows * channels, 1.0, 2);
  const auto d_weight = random_numbers<T>(rows * (dims + 1), 1.0, 3);
  const auto d_diagonal = random_numbers<T>(rows, 1.0, 4);
  std::vector<std::int32_t> vertex, links;
  std::vector<std::vector<T>> found;
  int words = 0;
  std::int64_t numbered = 0;
  for (const int threads : kThreads) {
    set_threads(threads);
    const DeviceLattice<T> lattice(features, images, dims, quality);
    std::vector<std::vector<T>> all{lattice.weight,
                                    lattice.feature_gradient(d_weight),
                                    lattice.self_response({}),
                                    lattice.self_response(d_diagonal),
                                    lattice.filter(values, channels, false),
                                    lattice.filter(values, channels, true),
                                    lattice.weight_gradient(values, cotangent, channels, false),
                                    lattice.weight_gradient(values, cotangent, channels, true)};
    if (found.empty()) {
      check_links(lattice);
      words = lattice.words;
      numbered = lattice.vertices;
      vertex = lattice.vertex;
      links = lattice.links;
      found = std::move(all);
    }
    CHECK(vertex == lattice.vertex && links == lattice.links);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(same_bits(all[i], found[i]));
    if (threads != 2 || images == 1) continue;
    for (std::int64_t b = 0; b < images; ++b) {  // each image as a batch of one
      const auto own = slice(features, b, images);
      const auto x = slice(values, b, images), y = slice(cotangent, b, images);
      const DeviceLattice<T> one(own, 1, dims, quality);
      CHECK(same_bits(one.filter(x, channels, false), slice(found[4], b, images)));
      CHECK(same_bits(one.weight_gradient(x, y, channels, true), slice(found[7], b, images)));
    }
  }
  std::int64_t vertices = 0;
  for (std::int64_t b = 0; b < images; ++b) {
    const auto own = slice(features, b, images);
    const Lattice<T> cpu(own, dims, quality, 1);
    const auto x = slice(values, b, images), y = slice(cotangent, b, images);
    const auto part = [&](int i) { return slice(found[i], b, images); };
    vertices += dcrf::Links(cpu.links.data(), dims).vertices;
    CHECK(same_bits(cpu.weight, part(0)));
    std::vector<T> d_features(points * dims), diagonal(points), gradient(points * (dims + 1));
    const dcrf::FeatureView<T> view{own.data(), dims, 1, points, dims};
    const auto of_weight = slice(d_weight, b, images), of_diagonal = slice(d_diagonal, b, images);
    dcrf::feature_gradient(view, of_weight.data(), d_features.data(), 1);
    CHECK(near(part(1), d_features, kTolerance<T>));
    dcrf::self_response(cpu.view, diagonal.data(), 1);
    CHECK(near(part(2), diagonal, kTolerance<T>));
    dcrf::self_response_gradient(cpu.view, of_diagonal.data(), gradient.data(), 1);
    CHECK(near(part(3), gradient, kTolerance<T>));
    for (const bool transpose : {false, true}) {
      CHECK(near(part(4 + transpose), cpu.filter(x, channels, transpose, 1), kTolerance<T>));
      dcrf::filter_weight_gradient(cpu.view, x.data(), y.data(), channels, transpose,
                                   gradient.data(), 1);
      CHECK(near(part(6 + transpose), gradient, kTolerance<T>));
    }
  }
  CHECK(vertices == numbered);
  return words;
}

// Compare a batch, forward and backward, with other thread counts, batches of one and the CPU
// engine.
template <typename T>
void check_mean_fields(Batch<T> batch) {
  const std::int64_t images = batch.images;
  set_threads(1);
  Outcome<T> first = batch.on_device(0, images, true);
  for (const int threads : kThreads) {
    set_threads(threads);
    CHECK(same_bits(batch.on_device(0, images, false).refined, first.refined));
    if (threads == 1) continue;
    Outcome<T> again = batch.on_device(0, images, true);
    CHECK(same_bits(again.saved, first.saved) && same_bits(again.d_coupling, first.d_coupling));
    for (std::size_t i = 0; i < first.parts().size(); ++i)
      CHECK(same_bits(*again.parts()[i], *first.parts()[i]));
  }
  std::vector<T> d_coupling(first.d_coupling.size());
  for (std::int64_t b = 0; b < images; ++b) {
    set_threads(3);
    Outcome<T> alone = batch.on_device(b, b + 1, true), cpu = batch.on_cpu(b);
    for (std::size_t i = 0; i < first.parts().size(); ++i) {
      const auto part = slice(*first.parts()[i], b, images);
      CHECK(same_bits(*alone.parts()[i], part));
      CHECK(near(part, *cpu.parts()[i], kMeanFieldTolerance<T>));
    }
    for (std::size_t i = 0; i < d_coupling.size(); ++i) d_coupling[i] += cpu.d_coupling[i];
  }
  CHECK(near(first.d_coupling, d_coupling, kMeanFieldTolerance<T>));
}

template <typename T>
std::vector<typename Batch<T>::Kind> kinds_of(int which) {
  const Quality standard = Quality::kStandard;
  switch (which) {
    case 0:  // lattices without self terms
      return {{2, 1.5, standard, true, true, true, false},
              {5, 0.7, Quality::kFilled, false, false, true, false}};
    case 1:  // self terms
      return {{5, 0.7, standard, false, true, true, true},
              {1, 0.5, Quality::kSymmetric, true, false, false, true},
              {0, 1, standard, true, true, false, true}};
    default:  // a grid
      return {{0, 1, standard, true, false, true, false}, {3, 0.6, standard, false}};
  }
}

}  // namespace

TEST(lattices_equal_those_of_the_cpu_engine) {
  for (const int dims : {1, 2, 5, 7, 16}) {
    for (const Quality quality : kQualities) {
      const std::int64_t points = dims == 16 ? 7 : 21;
      const int channels = dims == 5 ? 6 : 3;
      check_lattices(some_features<float>(3, points, dims, 1.5), 3, dims, quality, channels);
      check_lattices(some_features<double>(1, points, dims, 1.0), 1, dims, quality, channels);
    }
  }
}

TEST(lattices_of_one_point_equal_those_of_the_cpu_engine) {
  for (const int dims : {1, 5, 16}) {
    for (const Quality quality : kQualities) {
      check_lattices(some_features<double>(1, 1, dims, 1.0), 1, dims, quality, 1);
      check_lattices(some_features<float>(2, 1, dims, 1.0), 2, dims, quality, 5);
    }
  }
}

TEST(keys_of_one_two_and_more_words_name_the_same_vertices) {
  const auto words = [](int dims, double spread, Quality quality) {
    return check_lattices(some_features<double>(2, 12, dims, spread), 2, dims, quality, 2);
  };
  for (const Quality quality : kQualities) {
    CHECK(words(2, 1.0, quality) == 1);
    CHECK(words(5, 3e2, quality) == 2);
    CHECK(words(7, 3e4, quality) > 2);
    CHECK(words(16, 1e6, quality) >= 8);
  }
}

TEST(vertices_with_many_entries_are_summed_in_chunks) {
  const std::int64_t points = 700;
  for (const Quality quality : kQualities) {
    auto features = random_numbers<double>(2 * points * 2, 0.01, 1);
    for (std::int64_t i = 0; i < points / 2; ++i) features[i] = features[i % 2];
    const DeviceLattice<double> lattice(features, 2, 2, quality);
    const gpu::Links links = lattice.host_links();
    std::int32_t most = 0;
    for (std::int64_t v = 0; v < lattice.vertices; ++v)
      most = std::max(most, links.segment[v + 1] - links.segment[v]);
    CHECK(most > 9 * gpu::kSegmentChunk);
    check_lattices(features, 2, 2, quality, 5);
  }
}

TEST(vertices_with_very_many_entries_are_summed_by_a_tree) {
  for (const std::int64_t points : {64 * 64, 64 * 64 + 1, 3 * 64 * 64 + 5}) {
    const std::vector<float> features(points * 2, 0.25f);  // a flat picture
    const DeviceLattice<float> lattice(features, 1, 2, Quality::kStandard);
    const std::vector<float> values = random_numbers<float>(points * 3, 1.0, 1);
    const Lattice<float> cpu(features, 2, Quality::kStandard, 1);
    std::vector<float> first;
    for (const int threads : kThreads) {
      set_threads(threads);
      const auto found = lattice.filter(values, 3, false);
      if (first.empty()) first = found;
      CHECK(same_bits(found, first));
    }
    CHECK(near(first, cpu.filter(values, 3, false, 1), kTolerance<float>));
    set_threads(1);
  }
}

TEST(points_outside_a_mask_are_not_splatted_and_get_zeros) {
  const std::int64_t images = 2, points = 300;
  const int dims = 2, channels = 3;
  const auto features = some_features<double>(images, points, dims, 1.0);
  std::vector<unsigned char> inside(images * points);
  for (std::size_t i = 0; i < inside.size(); ++i) inside[i] = i % 7 == 3 || i > 400;
  const auto values = random_numbers<double>(images * points * channels, 1.0, 1);
  for (const Quality quality : kQualities) {
    const DeviceLattice<double> lattice(features, images, dims, quality, inside);
    const DeviceLattice<double> whole(features, images, dims, quality);
    const gpu::Links links = lattice.host_links();
    std::int32_t most = 0;
    for (std::int64_t v = 0; v < links.vertices; ++v)
      most = std::max(most, links.chunk_first[v + 1] - links.chunk_first[v]);
    CHECK(most <= 5 && links.vertices <= whole.vertices + 2 * dims + 3);
    // The points inside alone, with values of their own image, give the same bits.
    std::vector<double> own, given;
    for (std::int64_t p = 0; p < points; ++p) {
      if (!inside[p]) continue;
      own.insert(own.end(), &features[p * dims], &features[(p + 1) * dims]);
      given.insert(given.end(), &values[p * channels], &values[(p + 1) * channels]);
    }
    const DeviceLattice<double> few(own, 1, dims, quality);
    const auto wanted = few.filter(given, channels, false);
    const auto found = lattice.filter(values, channels, false);
    for (std::int64_t p = 0, at = 0; p < points; ++p) {
      for (int c = 0; c < channels; ++c)
        CHECK(found[p * channels + c] == (inside[p] ? wanted[at * channels + c] : 0));
      at += inside[p];
    }
  }
}

TEST(only_programs_with_a_barrier_are_launched_cooperatively) {
  using gpu::World;
  CHECK((gpu::kHasBarrier<gpu::Link<1>, World>));
  CHECK((!gpu::kHasBarrier<gpu::Forward<float, float>, World>));
  CHECK((!gpu::kHasBarrier<gpu::Filter<float>, World>));
  CHECK((!gpu::kHasBarrier<gpu::Locate<float, 1>, World>));
  CHECK((!gpu::kHasBarrier<gpu::SelfResponse<float>, World>));
  CHECK((!gpu::kHasBarrier<gpu::Number, World>));
}

TEST(one_lattice_serves_every_image_of_a_batch) {
  const std::int64_t images = 3, points = 26;
  const int dims = 3, channels = 7;
  const auto features = some_features<float>(1, points, dims, 1.0);
  const auto values = random_numbers<float>(images * points * channels, 1.0, 1);
  for (const Quality quality : kQualities) {
    for (const int threads : kThreads) {
      set_threads(threads);
      const DeviceLattice<float> lattice(features, 1, dims, quality);
      const auto out = lattice.filter(values, channels, true);
      const auto gradient = lattice.weight_gradient(values, values, channels, false);
      for (std::int64_t b = 0; b < images; ++b) {
        const auto x = slice(values, b, images);
        CHECK(same_bits(lattice.filter(x, channels, true), slice(out, b, images)));
        CHECK(
            same_bits(lattice.weight_gradient(x, x, channels, false), slice(gradient, b, images)));
      }
    }
  }
}

// Check rounding of a 16-bit type with floats at, next to and half-way between consecutive values.
template <typename S>
void check_rounding(int precision, int least_exponent, double greatest) {
  const auto exact = [&](int bits) {
    const int stored = bits >> (precision - 1), fraction = bits & ((1 << (precision - 1)) - 1);
    const double scaled = stored == 0 ? fraction : fraction + (1 << (precision - 1));
    return std::ldexp(scaled, least_exponent + (stored == 0 ? 0 : stored - 1));
  };
  for (int bits = 0; exact(bits) < greatest; ++bits) {
    const double low = exact(bits), high = exact(bits + 1), middle = (low + high) / 2;
    const float even = float(bits % 2 == 0 ? low : high);
    for (const float sign : {1.0f, -1.0f}) {
      CHECK(float(S(sign * float(low))) == sign * float(low));
      CHECK(float(S(sign * float(middle))) == sign * even);
      CHECK(float(S(sign * std::nextafter(float(middle), 0.0f))) == sign * float(low));
      CHECK(float(S(sign * std::nextafter(float(middle), INFINITY))) == sign * float(high));
    }
  }
  CHECK(std::isnan(float(S(NAN))));
}

TEST(half_is_the_nearest_of_16_bits_and_never_infinite) {
  check_rounding<gpu::Half>(11, -24, 65504);
  for (const float x : {65504.0f, 65519.0f, 65520.0f, 1e30f, INFINITY}) {
    CHECK(float(gpu::Half(x)) == 65504);
    CHECK(float(gpu::Half(-x)) == -65504);
  }
}

TEST(bfloat16_is_the_nearest_upper_half_of_a_float) {
  check_rounding<gpu::Bfloat16>(8, -133, std::ldexp(255.0, 120));
}

TEST(mean_fields_equal_those_of_the_cpu_engine) {
  for (const int labels : {1, 2, 5, 21, 40}) {
    for (int which = 0; which < 3; ++which) {
      const std::int64_t images = 1 + (labels + which) % 3;
      const int depth = (labels + which) % 2 == 0 ? 0 : 2;
      if (depth == 0) {
        check_mean_fields(Batch<float>(images, 0, labels, 2, kinds_of<float>(which)));
      } else {
        check_mean_fields(Batch<double>(images, depth, labels, 3, kinds_of<double>(which)));
      }
    }
  }
}

TEST(mean_fields_without_iterations_return_their_logits) {
  for (int which = 0; which < 2; ++which)
    check_mean_fields(Batch<double>(2, 0, 3, 0, kinds_of<double>(which)));
}

TEST(results_with_several_lanes_equal_the_cpu_engine) {
  for (const int lanes : {2, 4}) {
    set_lanes(lanes);
    for (const Quality quality : kQualities)
      check_lattices(some_features<double>(2, 11, 3, 1.0), 2, 3, quality, 5 + 8 * lanes);
    for (int which = 0; which < 3; ++which) {
      const int labels = which == 0 ? 4 * lanes : which == 1 ? 4 * lanes + 5 : 5;
      check_mean_fields(Batch<double>(2, 0, labels, 2, kinds_of<double>(which)));
    }
  }
  set_lanes(1);
}

// Groups of 1, 8 and 32 lanes as on a GPU, and rows of more than one block of 32 lanes. With many
// labels the forward pass alone: the backward pass takes a sum over the lanes per entry of a
// coupling, which is slow with 32 threads.
TEST(a_warp_of_lanes_equals_the_cpu_engine) {
  set_lanes(32);
  for (const int labels : {3, 12, 33, 130}) {
    const bool backward = labels < 33;
    Batch<double> batch(1, 0, labels, 1, kinds_of<double>(2));
    set_threads(1);
    Outcome<double> found = batch.on_device(0, 1, backward), cpu = batch.on_cpu(0);
    CHECK(near(found.refined, cpu.refined, kMeanFieldTolerance<double>));
    if (!backward) continue;
    for (std::size_t i = 0; i < cpu.parts().size(); ++i)
      CHECK(near(*found.parts()[i], *cpu.parts()[i], kMeanFieldTolerance<double>));
    CHECK(near(found.d_coupling, cpu.d_coupling, kMeanFieldTolerance<double>));
    set_threads(2);
    CHECK(same_bits(batch.on_device(0, 1, false).refined, found.refined));
  }
  set_lanes(1);
  set_threads(1);
}

int main(int count, char** arguments) {
  constexpr int kSkipped = 77;  // as in CMakeLists.txt
  try {
    if (gpu::devices().empty()) throw std::runtime_error("no device has cooperative launches");
  } catch (const std::exception& error) {
    std::printf("skipped, there is no device: %s\n", error.what());
    return kSkipped;
  }
  std::printf("on %s\n", gpu::devices()[0].name.c_str());
  return run_tests(count > 1 ? arguments[1] : "");
}
