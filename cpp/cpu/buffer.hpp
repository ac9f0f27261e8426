// Uninitialised memory for large arrays. It uses huge pages where available, which avoids most TLB
// misses of random reads. Freed buffers are cached for the next call, which avoids page faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dcrf {

// Return at least `bytes` bytes, aligned to a cache line. Throws std::bad_alloc. Memory that is not
// `cached` is freed when it is given back.
void* take_memory(std::size_t bytes, bool cached = true);

// Cache the memory for a later take_memory(), or free it if the cache is full or not wanted.
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

// The same, for arrays whose size no other step of a call needs: cached, they would take memory
// while the rest of the call runs.
template <typename T>
Buffer<T> make_passing_buffer(std::int64_t count) {
  return Buffer<T>(static_cast<T*>(take_memory(std::size_t(count) * sizeof(T), false)));
}

}  // namespace dcrf
