// Launches a spread step by step. Each kind of step is a program of its own, with the registers that
// it needs: in one program with all steps, the step that needs most would leave few threads to the
// others. A launch begins when the one before it has ended, so no program waits at a barrier.
#pragma once

#include "spread.hpp"

namespace dcrf::cuda {

enum class Step { kChunks, kLevel, kVertices, kBlur, kContract, kBand, kCouple };

// One step of the spread of the rows `from`.
template <typename T, typename S, Step kStep>
struct SpreadStep {
  KernelView<T> kernel;
  Spread<T, S> spread;
  Shape shape;
  const T* from = nullptr;
  int lane_count = 1;
  int number = 0;  // how many steps of this kind went before; for kLevel, the level

  DCRF_DEVICE void operator()(const World& world) const {
    const Lanes lanes(world, lane_count);
    const SpreadRoom<S>& room = spread.room;
    if constexpr (kStep == Step::kChunks) {
      splat_chunks(world, lanes, kernel.lattice, shape, from, factor(), room);
    } else if constexpr (kStep == Step::kLevel) {
      splat_level(world, lanes, kernel.lattice, shape, number, room);
    } else if constexpr (kStep == Step::kVertices) {
      splat_vertices(world, lanes, kernel.lattice, shape, spread.levels, room);
    } else if constexpr (kStep == Step::kBlur) {
      blur(world, lanes);
    } else if constexpr (kStep == Step::kContract) {
      contract(world, lanes);
    } else if constexpr (kStep == Step::kBand) {
      band_axis(world, lanes, kernel.grid, shape, number, room.input(room.blurred, number),
                room.blurred[number % 2]);
    } else {
      couple(world, lanes, kernel.rows(shape.images), shape, spread, spread.blurred_rows(kernel),
             spread.other_blurred_rows(kernel), spread.values(kernel));
    }
  }

 private:
  // What values are multiplied by before they are splatted.
  DCRF_DEVICE const T* factor() const { return spread.transpose ? kernel.after : kernel.before; }

  // Blur along one axis of a lattice and, if both orders are averaged, along one from the other end.
  DCRF_DEVICE void blur(const World& world, const Lanes& lanes) const {
    const SpreadRoom<S>& room = spread.room;
    const int last = kernel.lattice.dims, i = number;
    const bool both = spread.both(kernel);
    const int axis = spread.transpose && !both ? last - i : i;
    blur_axis(world, lanes, kernel.lattice, shape, axis, room.input(room.blurred, i),
              room.blurred[i % 2]);
    if (!both) return;
    blur_axis(world, lanes, kernel.lattice, shape, last - i, room.input(room.reversed, i),
              room.reversed[i % 2]);
  }

  // Splat along one axis of a grid, the last axis first; `parts` holds all results but the last.
  DCRF_DEVICE void contract(const World& world, const Lanes& lanes) const {
    const GridView<T>& grid = kernel.grid;
    const SpreadRoom<S>& room = spread.room;
    const int axis = grid.axes - 1 - number;
    const T* const taps = (spread.transpose ? grid.slice : grid.splat)[axis];
    S* const second = room.parts + shape.images * grid.size[0] * grid.size[1] * grid.cells[2] *
                                       shape.width;  // used if there are 3 axes
    S* const to = axis == 0 ? room.sums : number == 0 ? room.parts : second;
    if (number == 0) {
      const bool per_image = kernel.grid_scales_per_image;
      contract_axis(world, lanes, grid, shape, axis, taps, from, factor(), per_image, to);
    } else {
      const S* const previous = number == 1 ? room.parts : second;
      const T* const none = nullptr;
      contract_axis(world, lanes, grid, shape, axis, taps, previous, none, false, to);
    }
  }
};

// Launches the steps of one spread.
template <typename T, typename S>
class SpreadLaunch {
 public:
  SpreadLaunch(const KernelView<T>& kernel, const Spread<T, S>& spread, const Shape& shape,
               const T* from, int lanes, const Stream& stream)
      : kernel_(kernel), spread_(spread), shape_(shape), from_(from), lanes_(lanes),
        stream_(stream) {}

  void run() const {
    const std::int64_t rows = kernel_.rows(shape_.images);
    if (kernel_.is_grid()) {
      for (int i = 0; i < kernel_.grid.axes; ++i) step<Step::kContract>(i, cells_after(i));
      if (!spread_.blurred) return;
      for (int i = 0; i < kernel_.grid.axes; ++i) step<Step::kBand>(i, rows);
    } else {
      const LatticeView<T>& lattice = kernel_.lattice;
      const std::int64_t copies = shape_.images / lattice.images;
      const std::int64_t chunks = lattice.links.most_chunks() * copies;
      step<Step::kChunks>(0, chunks);
      for (int i = 1; i <= spread_.levels; ++i) step<Step::kLevel>(i, chunks);
      step<Step::kVertices>(0, rows);
      if (!spread_.blurred) return;
      for (int i = 0; i <= lattice.dims; ++i) step<Step::kBlur>(i, rows);
    }
    step<Step::kCouple>(0, rows);
  }

 private:
  template <Step kStep>
  void step(int number, std::int64_t items) const {
    const SpreadStep<T, S, kStep> program{kernel_, spread_, shape_, from_, lanes_, number};
    launch(program, items * lanes_, stream_);
  }

  // Return the number of rows after the splats along the last `number` + 1 axes of a grid.
  std::int64_t cells_after(int number) const {
    const GridView<T>& grid = kernel_.grid;
    std::int64_t rows = shape_.images;
    for (int a = 0; a < grid.axes; ++a)
      rows *= a < grid.axes - 1 - number ? grid.size[a] : grid.cells[a];
    return rows;
  }

  const KernelView<T>& kernel_;
  const Spread<T, S>& spread_;
  const Shape& shape_;
  const T* from_;
  int lanes_;
  const Stream& stream_;
};

template <typename T, typename S>
void launch_spread(const KernelView<T>& kernel, const Spread<T, S>& spread, const Shape& shape,
                   const T* from, int lanes, const Stream& stream) {
  SpreadLaunch<T, S>(kernel, spread, shape, from, lanes, stream).run();
}

}  // namespace dcrf::cuda
