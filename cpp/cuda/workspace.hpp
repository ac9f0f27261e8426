// Cuts one piece of memory into arrays; without memory it only measures.
#pragma once

#include <cstddef>
#include <cstdint>

#include "spread.hpp"

namespace dcrf {
namespace cuda {

class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(std::int64_t count) {
    constexpr std::size_t kAlignment = 256;
    T* const out = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + size_);
    size_ += (std::size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return out;
  }
  std::size_t size() const { return size_; }

 private:
  char* memory_;
  std::size_t size_ = 0;
};

template <typename S, typename T>
SpreadRoom<S> spread_room(const KernelView<T>& kernel, const Shape& shape, bool blurred,
                          Workspace& workspace) {
  const std::int64_t size = kernel.rows(shape.images) * shape.width;
  SpreadRoom<S> room;
  room.parts = workspace.take<S>(parts_rows(kernel, shape.images) * shape.width);
  room.sums = workspace.take<S>(size);
  if (!blurred) return room;
  room.a = workspace.take<S>(size);
  room.b = workspace.take<S>(size);
  if (kernel.is_grid() || !kernel.lattice.symmetric) return room;
  room.c = workspace.take<S>(size);
  room.d = workspace.take<S>(size);
  return room;
}

// What the slice of a d-dimensional lattice is scaled by.
template <typename T>
T slice_scale(int dims) {
  return T(1) / (T(1) + std::ldexp(T(1), -dims));
}

}  // namespace cuda
}  // namespace dcrf
