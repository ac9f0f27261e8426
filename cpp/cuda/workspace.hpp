// Divides one block of memory into arrays, for the .cu files. If the block is null, a Workspace
// only computes the size it needs, so that the same code measures and allocates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "spread.hpp"

namespace dcrf {
namespace cuda {

class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}
  // Return the next array, of `count` elements, or null if there is no memory.
  template <typename T>
  T* take(std::int64_t count) {
    constexpr std::size_t kAlignment = 256;  // bytes, as cudaMalloc aligns
    T* const out = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + size_);
    size_ += (std::size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return out;
  }
  std::size_t size() const { return size_; }  // bytes taken so far

 private:
  char* memory_;
  std::size_t size_ = 0;
};

// Take the buffers of one spread (spread.hpp); only `parts` and `sums` unless `blurred`.
template <typename S, typename T>
SpreadRoom<S> spread_room(const KernelView<T>& kernel, const Shape& shape, bool blurred,
                          Workspace& workspace) {
  const std::int64_t size = kernel.rows(shape.images) * shape.width;
  SpreadRoom<S> room;
  room.parts = workspace.take<S>(parts_rows(kernel, shape.images) * shape.width);
  room.sums = workspace.take<S>(size);
  if (!blurred) return room;
  for (S*& rows : room.blurred) rows = workspace.take<S>(size);
  if (kernel.is_grid() || !kernel.lattice.symmetric) return room;
  for (S*& rows : room.reversed) rows = workspace.take<S>(size);
  return room;
}

}  // namespace cuda
}  // namespace dcrf
