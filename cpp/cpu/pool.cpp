// Implements pool.hpp: the thread pool (std::thread) and interrupt checks.
#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "platform.hpp"

namespace dcrf {
namespace {

constexpr std::int64_t kMaxWorkers = 255;

using Body = std::function<void(std::int64_t)>;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kCheckEvery{100};

thread_local void (*interrupt_check)() = nullptr;
thread_local platform::FloatMode check_mode;  // floating-point mode in which the check runs
thread_local Clock::time_point last_check;
// Stop flag of the pool for which this thread works.
thread_local const std::atomic<bool>* stop = nullptr;

// Thrown in threads that work for a loop that has failed; the pool keeps the original exception.
struct Stopped {};

// The worker threads of a process and the loop that they work on.
class Pool {
 public:
  // Return the pool of this process. Pools are never freed, since workers may outlive static
  // destruction. A forked child inherits no threads, so it creates its own pool. No mutex is used
  // here, since a fork could leave it locked.
  static Pool& get() {
    static std::atomic<Pool*> current{nullptr};
    Pool* pool = current.load();
    while (pool == nullptr || pool->owner_ != platform::fork_count()) {
      Pool* fresh = new Pool;
      if (current.compare_exchange_strong(pool, fresh)) return *fresh;
      delete fresh;  // another thread was first; `pool` is now its pool
    }
    return *pool;
  }

  // Run a loop; return false if the pool is in use.
  bool try_run(std::int64_t chunks, int threads, const Body& body) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    const int wanted = int(std::min({std::int64_t(threads), chunks, kMaxWorkers + 1})) - 1;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < wanted && add_worker()) {
      }
      body_ = &body;
      chunks_ = chunks;
      next_.store(0, std::memory_order_relaxed);
      stop_.store(false, std::memory_order_relaxed);
      mode_ = platform::float_mode();
      invited_ = running_ = std::min(wanted, workers_);
      ++round_;
    }
    wake_.notify_all();
    stop = &stop_;  // chunks may wait for one another, so the caller's must also see failures
    work();
    stop = nullptr;
    std::unique_lock<std::mutex> lock(mutex_);
    while (!done_.wait_for(lock, kCheckEvery, [&] { return running_ == 0; })) {
      lock.unlock();
      try {
        poll_interrupt();
      } catch (...) {
        fail();
      }
      lock.lock();
    }
    body_ = nullptr;
    const std::exception_ptr error = std::exchange(error_, nullptr);
    lock.unlock();
    busy_.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
    return true;
  }

 private:
  // Start a worker thread; return false if the system cannot start more.
  bool add_worker() {
    try {
      std::thread([this, id = workers_] { serve(id); }).detach();
    } catch (const std::exception&) {
      return false;  // out of threads or memory; fewer threads give the same result
    }
    ++workers_;
    return true;
  }

  // Wait for loops and work on them, forever: the main function of worker `id`.
  void serve(int id) {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (id >= invited_ || body_ == nullptr) continue;
      const platform::FloatMode mode = mode_;
      lock.unlock();
      platform::set_float_mode(mode);
      stop = &stop_;
      work();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  // Run chunks of the current loop until none is left.
  void work() {
    for (;;) {
      const std::int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks_) return;
      try {
        poll_interrupt();
        (*body_)(chunk);
      } catch (...) {
        fail();
      }
    }
  }

  // Store the current exception if it is the first, and stop all chunks: those that run stop at
  // their next poll_interrupt().
  void fail() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
    next_.store(chunks_, std::memory_order_relaxed);
    stop_.store(true, std::memory_order_relaxed);
  }

  const long owner_ = platform::fork_count();
  std::atomic<bool> busy_{false};        // true while a parallel_for runs
  std::mutex mutex_;                     // guards everything below
  std::condition_variable wake_, done_;  // a loop starts; its last worker has finished
  const Body* body_ = nullptr;           // body of the current loop
  std::int64_t chunks_ = 0;
  std::atomic<std::int64_t> next_{0};  // first chunk that has not started
  std::atomic<bool> stop_{false};      // set if the current loop has failed
  platform::FloatMode mode_ = 0;       // the caller's
  // Number of workers: all; those of the current loop; those that are still working on it.
  int workers_ = 0, invited_ = 0, running_ = 0;
  std::uint64_t round_ = 0;   // number of loops started
  std::exception_ptr error_;  // first exception of the current loop
};

}  // namespace

void parallel_for(std::int64_t chunks, int threads, const Body& body) {
  if (threads > 1 && chunks > 1 && Pool::get().try_run(chunks, threads, body)) return;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    poll_interrupt();
    body(chunk);
  }
}

InterruptCheck::InterruptCheck(void (*check)())
    : outer_(interrupt_check), outer_mode_(check_mode) {
  interrupt_check = check;
  check_mode = platform::float_mode();
  last_check = Clock::now();
}

InterruptCheck::~InterruptCheck() {
  interrupt_check = outer_;
  check_mode = outer_mode_;
}

void poll_interrupt() {
  if (stop != nullptr && stop->load(std::memory_order_relaxed)) throw Stopped();
  if (interrupt_check == nullptr) return;
  const Clock::time_point now = Clock::now();
  if (now - last_check < kCheckEvery) return;
  last_check = now;
  const InFloatMode mode(check_mode);
  interrupt_check();
}

InFloatMode::InFloatMode(platform::FloatMode mode) : before_(platform::float_mode()) {
  platform::set_float_mode(mode);
}

InFloatMode::~InFloatMode() { platform::set_float_mode(before_); }

FlushToZero::FlushToZero() : InFloatMode(platform::float_mode() | platform::kFlush) {}

}  // namespace dcrf
