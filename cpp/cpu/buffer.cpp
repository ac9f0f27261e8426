// Implements buffer.hpp: allocation with huge pages and a small cache of freed buffers.
#include "buffer.hpp"

#include <atomic>
#include <new>

#include "platform.hpp"

namespace dcrf {
namespace {

using platform::kHugePage;
constexpr std::size_t kLine = 64;  // bytes
// Minimum number of bytes of a cached buffer; malloc itself caches smaller ones.
constexpr std::size_t kSmallest = std::size_t(1) << 16;
// Maximum number of bytes cached: enough for an image of 500 x 500 pixels.
constexpr std::size_t kMost = std::size_t(1) << 26;
constexpr int kSlots = 32;

// Stored in front of each buffer, so that give_memory() needs no size.
struct alignas(kLine) Header {
  void* block;
  std::size_t bytes;  // without the header
  bool cached;        // when it is given back
};

// The cache. No thread waits for its lock: a thread that finds it locked uses the allocator
// instead, so a fork that leaves it locked does no harm.
struct Kept {
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  Header* slot[kSlots] = {};
  std::size_t bytes = 0;
};
Kept kept;

// Take the smallest suitable buffer out of the cache; return null if there is none.
Header* take_kept(std::size_t bytes) {
  if (kept.busy.test_and_set(std::memory_order_acquire)) return nullptr;
  Header** best = nullptr;
  for (Header*& slot : kept.slot) {
    // Do not hand out more than twice what is needed: larger requests need the large buffers.
    if (slot == nullptr || slot->bytes < bytes || slot->bytes > 2 * bytes) continue;
    if (best == nullptr || slot->bytes < (*best)->bytes) best = &slot;
  }
  Header* const found = best != nullptr ? *best : nullptr;
  if (found != nullptr) {
    *best = nullptr;
    kept.bytes -= found->bytes;
  }
  kept.busy.clear(std::memory_order_release);
  return found;
}

// Put a buffer into the cache; return false if it was not taken.
bool keep(Header* header) {
#ifdef __SANITIZE_ADDRESS__
  return false;  // caching would hide uses after free from the sanitizer
#endif
  if (header->bytes < kSmallest || kept.busy.test_and_set(std::memory_order_acquire)) return false;
  bool done = false;
  for (Header*& slot : kept.slot) {
    if (slot != nullptr || kept.bytes + header->bytes > kMost) continue;
    slot = header;
    kept.bytes += header->bytes;
    done = true;
    break;
  }
  kept.busy.clear(std::memory_order_release);
  return done;
}

}  // namespace

void* take_memory(std::size_t bytes, bool cached) {
  Header* header = bytes >= kSmallest && cached ? take_kept(bytes) : nullptr;
  if (header == nullptr) {
    const std::size_t wanted = bytes + sizeof(Header);
    const std::size_t alignment = wanted >= kHugePage / 2 ? kHugePage : kLine;
    const std::size_t rounded = (wanted + alignment - 1) / alignment * alignment;
    void* const block = platform::allocate(alignment, rounded);
    if (block == nullptr) throw std::bad_alloc();
    header = static_cast<Header*>(block);
    header->block = block;
    header->bytes = rounded - sizeof(Header);
  }
  header->cached = cached;
  return header + 1;
}

void give_memory(void* memory) {
  Header* const header = static_cast<Header*>(memory) - 1;
  if (!header->cached || !keep(header)) platform::release(header->block);
}

}  // namespace dcrf
