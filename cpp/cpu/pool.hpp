// Thread pool of the CPU engine: one per process, shared by all calls. Callers cut their work into
// chunks that do not depend on the number of threads, so results do not depend on it either.
#pragma once

#include <cstdint>
#include <functional>

#include "platform.hpp"

namespace dcrf {

// Chunk sizes. They are fixed, since partial sums per chunk determine the rounding of results.
constexpr std::int64_t kPointChunk = 4096;     // points per chunk
constexpr std::int64_t kVertexChunk = 1024;    // vertices per chunk
constexpr std::int64_t kRowChunk = 4096;       // rows of values per chunk
constexpr std::int64_t kClearChunk = 1 << 17;  // elements per chunk

// While an object of this class exists, its thread computes in the floating-point mode `mode`.
class InFloatMode {
 public:
  explicit InFloatMode(platform::FloatMode mode);
  ~InFloatMode();
  InFloatMode(const InFloatMode&) = delete;
  InFloatMode& operator=(const InFloatMode&) = delete;

 private:
  platform::FloatMode before_;  // mode that the destructor restores
};

// While an object of this class exists, its thread and the loops that the thread runs treat
// subnormal numbers as 0: a mean field does not need them, and processors are slow with them.
class FlushToZero : public InFloatMode {
 public:
  FlushToZero();
};

// Call body(0) ... body(chunks - 1), once each, on at most `threads` threads, the caller's
// included. If the pool is in use (a nested call, or another Python thread), the caller runs all
// chunks, in order. The first exception of a body is rethrown here; chunks that have not started
// are then skipped. All threads use the caller's floating-point mode.
void parallel_for(std::int64_t chunks, int threads, const std::function<void(std::int64_t)>& body);

// While an object of this class exists, its thread calls `check` about ten times a second while it
// runs a loop or waits for one, in the floating-point mode that the thread has now. An exception
// thrown by `check` ends the loop, like one thrown by its body. Objects nest: an interrupt handler
// may run loops of its own.
class InterruptCheck {
 public:
  explicit InterruptCheck(void (*check)());
  ~InterruptCheck();
  InterruptCheck(const InterruptCheck&) = delete;
  InterruptCheck& operator=(const InterruptCheck&) = delete;

 private:
  void (*outer_)();  // the check of the enclosing object; null if there is none
  platform::FloatMode outer_mode_;
};

// Call this thread's interrupt check if it is due, and throw if the thread's loop has failed on
// another thread. Chunks that run for long call it regularly.
void poll_interrupt();

// Cut `items` into chunks of `size` and call body(begin, end) for each half-open range in parallel.
template <class Body>
void parallel_ranges(std::int64_t items, std::int64_t size, int threads, const Body& body) {
  parallel_for((items + size - 1) / size, threads, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * size;
    const std::int64_t end = begin + size < items ? begin + size : items;
    body(begin, end);
  });
}

// Set `count` elements to 0 in parallel.
template <typename T>
void clear(T* numbers, std::int64_t count, int threads) {
  parallel_ranges(count, kClearChunk, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) numbers[i] = T(0);
  });
}

// Call body(item, threads to use) for each of `count` independent items: in parallel with one
// thread each if there are enough items for all threads, otherwise one after the other with all
// threads each.
template <class Body>
void parallel_items(std::size_t count, int threads, const Body& body) {
  if (std::int64_t(count) >= threads && count > 1) {
    parallel_for(std::int64_t(count), threads, [&](std::int64_t i) { body(std::size_t(i), 1); });
  } else {
    for (std::size_t i = 0; i < count; ++i) body(i, threads);
  }
}

}  // namespace dcrf
