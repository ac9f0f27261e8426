// Uninitialised memory for large arrays: on huge pages where the system has them, which spares most
// of the address translation of random reads; and kept for the next call, which spares the page
// faults of a first touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dcrf {

// At least `bytes`, aligned to a cache line. Throws std::bad_alloc.
void* take_memory(std::size_t bytes);

// Keeps the memory for another take_memory(), or frees it if enough is kept.
void give_memory(void* memory);

struct GiveBuffer {
  void operator()(void* memory) const { give_memory(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], GiveBuffer>;

template <typename T>
Buffer<T> make_buffer(std::int64_t count) {
  return Buffer<T>(static_cast<T*>(take_memory(std::size_t(count) * sizeof(T))));
}

}  // namespace dcrf
