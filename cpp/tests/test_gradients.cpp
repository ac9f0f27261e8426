// Tests of the backward pass of the CPU engine: gradients equal finite differences of the forward
// pass, and recomputed marginals give the same gradients as saved ones.
#include <cmath>

#include "problems.hpp"

using namespace tests;
using dcrf::Quality;

namespace {

// Check `gradient` against central differences of loss() along random directions of `input`.
template <class Loss>
void check_slopes(std::vector<double>& input, const std::vector<double>& gradient, const Loss& loss,
                  double step = 1e-5) {
  CHECK(input.size() == gradient.size() && !input.empty());
  const std::vector<double> kept = input;
  for (unsigned seed = 0; seed < 2; ++seed) {
    const auto direction = random_numbers(std::int64_t(input.size()), 1.0, 500 + seed);
    double want = 0;
    for (std::size_t i = 0; i < input.size(); ++i) want += gradient[i] * direction[i];
    const auto moved = [&](double by) {
      for (std::size_t i = 0; i < input.size(); ++i) input[i] = kept[i] + by * direction[i];
      return loss();
    };
    const double slope = (moved(step) - moved(-step)) / (2 * step);
    input = kept;
    CHECK(std::abs(slope - want) < 2e-6 * (1 + std::abs(slope)));
  }
}

double inner(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Gradients of <cotangent, refined> of a scene, from a forward and a backward pass.
struct Gradients {
  std::vector<double> cotangent, logits, coupling;
  struct Scales {
    std::vector<double> weight, before, after, diagonal;
  };
  std::vector<Scales> kernels;

  // If `features`, also compute the gradients of the weights and scales of lattices. Outputs are
  // initialised to arbitrary numbers, which must be overwritten.
  Gradients(Scene<double>& scene, bool features, int threads)
      : cotangent(random_numbers(scene.points * scene.labels, 1.0, 12)),
        logits(cotangent.size(), 5.0),
        coupling(scene.coupling.size(), 6.0),
        kernels(scene.kernels.size()) {
    dcrf::ImageGradient<double> to{cotangent.data(), logits.data(), coupling.data(), {}};
    for (std::size_t m = 0; m < kernels.size(); ++m) {
      const auto& k = scene.kernels[m];
      dcrf::PointGradient<double> wanted;
      if (features && k.lattice) {
        kernels[m].weight.assign(k.lattice->weight.size(), 7.0);
        kernels[m].before.assign(k.before.size(), 7.0);
        kernels[m].after.assign(k.after.size(), 7.0);
        kernels[m].diagonal.assign(k.diagonal.size(), 7.0);
        wanted.weight = kernels[m].weight.data();
        wanted.before = k.before.empty() ? nullptr : kernels[m].before.data();
        wanted.after = k.after.empty() ? nullptr : kernels[m].after.data();
        wanted.diagonal = k.diagonal.empty() ? nullptr : kernels[m].diagonal.data();
      }
      to.kernels.push_back(wanted);
    }
    CHECK(scene.run(threads));
    dcrf::mean_field_backward(scene.model(), {scene.image()}, {to}, threads);
  }
};

void check_gradients(Scene<double>& scene, bool features) {
  scene.keep();
  const Gradients found(scene, features, 2);
  const auto loss = [&] {
    CHECK(scene.run(2));
    return inner(scene.refined, found.cotangent);
  };
  check_slopes(scene.logits, found.logits, loss);
  check_slopes(scene.coupling, found.coupling, loss);
  for (std::size_t m = 0; m < scene.kernels.size(); ++m) {
    auto& k = scene.kernels[m];
    const auto& to = found.kernels[m];
    if (!to.weight.empty()) check_slopes(k.lattice->weight, to.weight, loss);
    if (!to.before.empty()) check_slopes(k.before, to.before, loss);
    if (!to.after.empty()) check_slopes(k.after, to.after, loss);
    if (!to.diagonal.empty()) check_slopes(k.diagonal, to.diagonal, loss);
  }
}

std::unique_ptr<Lattice<double>> lattice(int points, int dims, double spread, Quality quality) {
  return std::make_unique<Lattice<double>>(random_numbers(points * dims, spread, 8), dims, quality,
                                           1);
}

std::vector<double> scale(int points, unsigned seed) {
  return positive_numbers(points, 0.05, 0.2, seed);
}

}  // namespace

TEST(backward_is_the_derivative_of_forward_for_lattices) {
  for (const Quality quality : kQualities) {
    for (int labels : {1, 2, 3, 33}) {
      if (labels == 33 && quality != Quality::kStandard) continue;
      for (const bool features : {false, true}) {
        Scene<double> scene(71, labels, 3, 9);
        scene.add({lattice(71, 2, 1.5, quality), nullptr, scale(71, 1), {}, {}}, labels == 2);
        scene.add({lattice(71, 5, 1.0, quality), nullptr, {}, scale(71, 2), {}}, labels == 2);
        scene.add({lattice(71, 3, 0.3, quality), nullptr, scale(71, 3), scale(71, 4), {}});
        check_gradients(scene, features);
      }
    }
  }
}

TEST(backward_is_the_derivative_of_forward_for_grids) {
  for (const bool masked : {false, true}) {
    for (int depth : {0, 3}) {
      auto grid = std::make_unique<Grid<double>>(depth, 6, 11, 2, masked, 1);
      const int n = int(grid->points());
      Scene<double> scene(n, 3, 3, 2);
      scene.add({nullptr, std::move(grid), scale(n, 3), scale(n, 4), {}});
      check_gradients(scene, false);
    }
  }
}

TEST(backward_is_the_derivative_of_forward_without_self_terms) {
  for (const bool features : {false, true}) {
    for (int labels : {1, 3, 33}) {
      Scene<double> scene(77, labels, 3, 2);
      scene.add({lattice(77, 2, 1.0, Quality::kStandard), nullptr, scale(77, 3), scale(77, 4),
                 scale(77, 5)});
      scene.add({lattice(77, 2, 1.5, Quality::kSymmetric), nullptr, {}, {}, scale(77, 6)}, true);
      auto grid = std::make_unique<Grid<double>>(0, 7, 11, 2, false, 1);
      scene.add({nullptr, std::move(grid), {}, scale(77, 7), scale(77, 8)});
      check_gradients(scene, features);
    }
  }
}

TEST(backward_without_iterations_copies_the_gradient) {
  Scene<double> scene(70, 3, 0, 1);
  scene.add({lattice(70, 2, 1.0, Quality::kStandard), nullptr, scale(70, 3), {}, {}});
  const Gradients found(scene, true, 1);
  CHECK(found.logits == found.cotangent);
  CHECK(found.coupling == std::vector<double>(9, 0.0));
  CHECK(found.kernels[0].weight == std::vector<double>(210, 0.0));
  CHECK(found.kernels[0].before == std::vector<double>(70, 0.0));
}

TEST(recomputed_marginals_give_the_gradients_of_saved_ones) {
  for (const Quality quality : {Quality::kStandard, Quality::kSymmetric}) {
    for (int labels : {3, 21, 33}) {
      for (const bool features : {false, true}) {
        Scene<double> scene(540, labels, 4, 2);
        scene.add({lattice(540, 2, 0.5, quality), nullptr, scale(540, 3), scale(540, 4), {}},
                  labels == 3);
        auto grid = std::make_unique<Grid<double>>(0, 20, 27, 5, false, 1);
        const std::int64_t rows = dcrf::Links(scene.kernels[0].lattice->links.data(), 2).rows +
                                  grid->view.cells[1] * grid->view.cells[2];
        CHECK(rows < 540);
        scene.add({nullptr, std::move(grid), {}, scale(540, 5), {}});
        scene.keep();
        const Gradients kept(scene, features, 2);
        const auto refined = scene.refined;
        CHECK(scene.saved.back() != -7);
        scene.memory_budget = 1;
        scene.keep();
        const Gradients again(scene, features, 2);
        CHECK(scene.saved.back() == -7);  // not all marginals were saved
        const auto near = [](const std::vector<double>& a, const std::vector<double>& b) {
          double most = 0;
          for (std::size_t i = 0; i < a.size(); ++i)
            most = std::max(most, std::abs(a[i] - b[i]) / (1 + std::abs(b[i])));
          return a.size() == b.size() && most < 1e-10;
        };
        CHECK(near(scene.refined, refined));
        CHECK(near(again.logits, kept.logits) && near(again.coupling, kept.coupling));
        CHECK(near(again.kernels[0].weight, kept.kernels[0].weight));
        CHECK(near(again.kernels[0].before, kept.kernels[0].before));
        CHECK(near(again.kernels[0].after, kept.kernels[0].after));
      }
    }
  }
}

TEST(gradients_of_filters_are_their_slopes) {
  const int points = 67;
  for (const Quality quality : kQualities) {
    for (int dims : {1, 2, 5, 8}) {
      const auto operand = lattice(points, dims, 1.0, quality);
      std::vector<double> d_weight(points * (dims + 1));
      for (int channels : {1, 3, 26}) {
        const auto values = random_numbers(points * channels, 1.0, 1);
        const auto cotangent = random_numbers(points * channels, 1.0, 2);
        for (const bool transpose : {false, true}) {
          dcrf::filter_weight_gradient(operand->view, values.data(), cotangent.data(), channels,
                                       transpose, d_weight.data(), 2);
          check_slopes(operand->weight, d_weight, [&] {
            return inner(operand->filter(values, channels, transpose, 2), cotangent);
          });
        }
      }
      const auto cotangent = random_numbers(points, 1.0, 2);
      dcrf::self_response_gradient(operand->view, cotangent.data(), d_weight.data(), 2);
      check_slopes(operand->weight, d_weight, [&] {
        std::vector<double> diagonal(points);
        dcrf::self_response(operand->view, diagonal.data(), 2);
        return inner(diagonal, cotangent);
      });
    }
  }
}

TEST(gradient_of_features_is_the_slope_of_the_weights) {
  const int points = 67;
  for (int dims : {1, 2, 5, 16}) {
    auto features = random_numbers(points * dims, 1.0, dims);
    const auto cotangent = random_numbers(points * (dims + 1), 1.0, 2);
    std::vector<double> d_feature(points * dims);
    const dcrf::FeatureView<double> view{features.data(), dims, 1, points, dims};
    dcrf::feature_gradient(view, cotangent.data(), d_feature.data(), 2);
    const auto loss = [&] {
      return inner(Lattice<double>(features, dims, Quality::kStandard, 1).weight, cotangent);
    };
    check_slopes(features, d_feature, loss,
                 1e-8);  // the weights are piecewise linear; this step stays within all simplices
  }
}
