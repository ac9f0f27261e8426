// Uninitialised memory for large arrays: on huge pages where the system has them, which spares
// most of the page faults of a first touch and the address translation of random reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace dcrf {

struct FreeBuffer {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], FreeBuffer>;

template <typename T>
Buffer<T> make_buffer(std::int64_t count) {
  constexpr std::size_t kLine = 64, kHugePage = std::size_t(1) << 21;
  const std::size_t bytes = std::size_t(count) * sizeof(T) + 1;  // never of size 0
  const std::size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kLine;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);  // only advice
#endif
  return Buffer<T>(static_cast<T*>(memory));
}

}  // namespace dcrf
