// Uninitialised memory for large arrays. It uses huge pages where available, which avoids most TLB
// misses of random reads. Freed buffers are cached for the next call, which avoids page faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dcrf {

// Return at least `bytes` bytes, aligned to a cache line. Throws std::bad_alloc.
void* take_memory(std::size_t bytes);

// Cache the memory for a later take_memory(), or free it if the cache is full.
void give_memory(void* memory);

// Deleter of Buffer.
struct GiveBuffer {
  void operator()(void* memory) const { give_memory(memory); }
};

// An array that owns its memory.
template <typename T>
using Buffer = std::unique_ptr<T[], GiveBuffer>;

// Return an uninitialised array of `count` elements.
template <typename T>
Buffer<T> make_buffer(std::int64_t count) {
  return Buffer<T>(static_cast<T*>(take_memory(std::size_t(count) * sizeof(T))));
}

}  // namespace dcrf
