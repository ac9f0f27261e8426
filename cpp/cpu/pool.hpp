// Threads for the CPU loops: one pool per process, shared by every call. Work is cut by the
// caller into chunks that do not depend on the number of threads, so results do not either.
#pragma once

#include <cstdint>
#include <functional>

namespace dcrf {

// How the loops cut their work. Fixed, because partial sums are added up by unit of work.
constexpr std::int64_t kPointChunk = 4096;     // points per unit of work
constexpr std::int64_t kVertexChunk = 1024;    // vertices per unit of work
constexpr std::int64_t kRowChunk = 4096;       // rows of values per unit of work
constexpr std::int64_t kClearChunk = 1 << 17;  // numbers per unit of work

// While one lives, its thread and the loops it runs take numbers too small to be normal for 0,
// which a mean field does not need and processors are slow at.
class FlushToZero {
 public:
  FlushToZero();
  ~FlushToZero();
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

 private:
  unsigned before_;
};

// Calls body(0) ... body(chunks - 1), each once, on at most `threads` threads including the
// caller's; in order on the caller's thread alone when the pool is already in use (a nested call,
// or another Python thread). The first exception that a body throws is thrown again from here;
// chunks not yet begun are then left out. All threads compute in the caller's floating-point mode.
void parallel_for(std::int64_t chunks, int threads, const std::function<void(std::int64_t)>& body);

// While one lives, its thread calls `check` about ten times a second, in the loops that it runs or
// waits for. It may throw, which ends the loop as an exception of its body would.
class InterruptCheck {
 public:
  explicit InterruptCheck(void (*check)());
  ~InterruptCheck();
  InterruptCheck(const InterruptCheck&) = delete;
  InterruptCheck& operator=(const InterruptCheck&) = delete;
};

// Calls this thread's check if it is due, and throws if its work is no longer wanted. For long
// loops that are not cut into chunks.
void poll_interrupt();

// Chunks of `size` items cover `items`; body receives the half-open range of each.
template <class Body>
void parallel_ranges(std::int64_t items, std::int64_t size, int threads, const Body& body) {
  parallel_for((items + size - 1) / size, threads, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * size;
    const std::int64_t end = begin + size < items ? begin + size : items;
    body(begin, end);
  });
}

// Calls body(item, threads to use) for each of `count` independent items: on one thread each where
// they keep all threads busy, else one after the other, each on all threads.
template <class Body>
void parallel_items(std::size_t count, int threads, const Body& body) {
  if (std::int64_t(count) >= threads && count > 1) {
    parallel_for(std::int64_t(count), threads, [&](std::int64_t i) { body(std::size_t(i), 1); });
  } else {
    for (std::size_t i = 0; i < count; ++i) body(i, threads);
  }
}

}  // namespace dcrf
