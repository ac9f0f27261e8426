// The threads that run a program together: on a GPU one cooperative launch, on a CPU a few threads
// with a barrier, so that every index, order and barrier can be tested without a GPU. A program is
// a struct of numbers and pointers whose operator() every thread calls with the World; between two
// calls of sync() each number is written by one thread at most, and read by no other.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "views.hpp"

#ifdef __CUDACC__
#include <cooperative_groups.h>
#define DCRF_DEVICE __device__ inline
#else
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>
#define DCRF_DEVICE inline
#endif

namespace dcrf {
namespace cuda {

#ifdef __CUDACC__

inline int max_lanes() { return 32; }

class World {
 public:
  DCRF_DEVICE std::int64_t rank() const {
    return std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  }
  DCRF_DEVICE std::int64_t size() const { return std::int64_t(gridDim.x) * blockDim.x; }
  DCRF_DEVICE void sync() { cooperative_groups::this_grid().sync(); }
};

// Neighbouring threads of a warp that share one item: `count` of them, a power of two.
class Lanes {
 public:
  DCRF_DEVICE Lanes(const World&, int count)
      : count_(count),
        rank_(int(threadIdx.x) & (count - 1)),
        mask_(count == 32 ? 0xffffffffu
                          : ((1u << count) - 1) << ((threadIdx.x & 31) & ~unsigned(count - 1))) {}
  DCRF_DEVICE int rank() const { return rank_; }
  DCRF_DEVICE int size() const { return count_; }
  // The sum, or the greatest, over all lanes; the same bits in each.
  template <typename T>
  DCRF_DEVICE T sum(T x) const {
    for (int o = count_ / 2; o > 0; o /= 2) x += __shfl_xor_sync(mask_, x, o);
    return x;
  }
  template <typename T>
  DCRF_DEVICE T greatest(T x) const {
    for (int o = count_ / 2; o > 0; o /= 2) {
      const T other = __shfl_xor_sync(mask_, x, o);
      x = other > x ? other : x;
    }
    return x;
  }
  // The sum over the lanes before this one, and over all.
  template <typename T>
  DCRF_DEVICE T before(T x, T& total) const {
    T sum = 0;
    total = x;
    for (int o = 1; o < count_; o *= 2) {
      const T other = __shfl_xor_sync(mask_, total, o);
      if ((rank_ & o) != 0) sum += other;
      total += other;
    }
    return sum;
  }

 private:
  int count_, rank_;
  unsigned mask_;
};

// Adds to a whole number that others may add to: the same sum in any order.
DCRF_DEVICE void add(std::int64_t* to, std::int64_t amount) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(amount));
}

// Raises what CUDA reports, and clears it: the next call starts anew.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// Makes a device current while it lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "no device is current");
    if (device == before_) return;
    check(cudaSetDevice(device), "the device cannot be used");
    changed_ = true;
  }
  // Left alone where nothing changed: to set a device is to start using it.
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

constexpr int kBlockThreads = 256;

// At most how many threads a launch for so many starts.
inline std::int64_t most_threads(std::int64_t threads) {
  return (threads < 1 ? 1 : (threads + kBlockThreads - 1) / kBlockThreads) * kBlockThreads;
}

template <class Program>
__global__ void __launch_bounds__(kBlockThreads) run(const __grid_constant__ Program program) {
  World world;
  program(world);
}

// Starts a program on at most as many threads as the device holds at once, and returns.
template <class Program>
void launch(const Program& program, std::int64_t threads, const Stream& stream) {
  static_assert(sizeof(Program) <= 4096, "beyond what every driver passes to a kernel");
  const OnDevice on(stream.device);
  int per_processor = 0, processors = 0;
  check(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, run<Program>, kBlockThreads, 0),
      "this build has no code for the device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device),
        "the device does not answer");
  const std::int64_t most = std::int64_t(per_processor) * processors;
  std::int64_t blocks = (threads + kBlockThreads - 1) / kBlockThreads;
  blocks = blocks < 1 ? 1 : blocks > most ? most : blocks;
  void* arguments[] = {const_cast<Program*>(&program)};
  check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(run<Program>),
                                    dim3(unsigned(blocks)), dim3(kBlockThreads), arguments, 0,
                                    static_cast<cudaStream_t>(stream.handle)),
        "a launch failed");
}

// A number that the device has written, once everything before it is done.
template <typename T>
T fetch(const T* from, const Stream& stream) {
  const OnDevice on(stream.device);
  T out;
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  check(cudaMemcpyAsync(&out, from, sizeof(T), cudaMemcpyDeviceToHost, handle), "a copy failed");
  check(cudaStreamSynchronize(handle), "a program failed");
  return out;
}

#else  // the serial launcher

// Lanes are threads here too. DENSECRF_RNN_SERIAL_LANES, a power of two up to 8, says how many
// share an item; DENSECRF_RNN_SERIAL_THREADS how many such teams run a program.
inline int from_environment(const char* name) {
  const char* const wanted = std::getenv(name);
  return wanted == nullptr || std::atoi(wanted) < 1 ? 1 : std::atoi(wanted);
}
inline int max_lanes() { return from_environment("DENSECRF_RNN_SERIAL_LANES"); }

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const std::int64_t round = round_;
    if (++waiting_ == count_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }

 private:
  int count_, waiting_ = 0;
  std::int64_t round_ = 0;
  std::mutex mutex_;
  std::condition_variable all_here_;
};

// Threads that share items, and what they tell each other.
struct Team {
  explicit Team(int count) : barrier(count), told(count) {}
  Barrier barrier;
  std::vector<double> told;  // holds any float
};

class World {
 public:
  World(int rank, int size, Barrier& barrier, Team& team)
      : rank_(rank), size_(size), barrier_(barrier), team_(team) {}
  std::int64_t rank() const { return rank_; }
  std::int64_t size() const { return size_; }
  void sync() { barrier_.wait(); }
  Team& team() const { return team_; }

 private:
  int rank_, size_;
  Barrier& barrier_;
  Team& team_;
};

class Lanes {
 public:
  Lanes(const World& world, int count)
      : count_(count), rank_(int(world.rank()) & (count - 1)), team_(world.team()) {}
  int rank() const { return rank_; }
  int size() const { return count_; }
  template <typename T>
  T sum(T x) const {
    for (int o = count_ / 2; o > 0; o /= 2) x += other(x, o);
    return x;
  }
  template <typename T>
  T greatest(T x) const {
    for (int o = count_ / 2; o > 0; o /= 2) {
      const T found = other(x, o);
      x = found > x ? found : x;
    }
    return x;
  }
  template <typename T>
  T before(T x, T& total) const {
    T sum = 0;
    total = x;
    for (int o = 1; o < count_; o *= 2) {
      const T found = other(total, o);
      if ((rank_ & o) != 0) sum += found;
      total += found;
    }
    return sum;
  }

 private:
  template <typename T>
  T other(T own, int offset) const {
    team_.told[rank_] = double(own);
    team_.barrier.wait();
    const T found = T(team_.told[rank_ ^ offset]);
    team_.barrier.wait();
    return found;
  }

  int count_, rank_;
  Team& team_;
};

inline void add(std::int64_t* to, std::int64_t amount) {
  __atomic_fetch_add(to, amount, __ATOMIC_RELAXED);
}

inline std::int64_t most_threads(std::int64_t) {
  return std::int64_t(max_lanes()) * from_environment("DENSECRF_RNN_SERIAL_THREADS");
}

// Results must not depend on how many teams there are, as on a device they do not on its size.
template <class Program>
void launch(const Program& program, std::int64_t, const Stream&) {
  const int lanes = max_lanes(), teams = from_environment("DENSECRF_RNN_SERIAL_THREADS");
  Barrier barrier(lanes * teams);
  std::deque<Team> team;
  for (int i = 0; i < teams; ++i) team.emplace_back(lanes);
  const auto run = [&](int rank) {
    World world(rank, lanes * teams, barrier, team[rank / lanes]);
    program(world);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < lanes * teams; ++i) others.emplace_back(run, i);
  run(0);
  for (std::thread& other : others) other.join();
}

template <typename T>
T fetch(const T* from, const Stream&) {
  return *from;
}

#endif

// Lanes that suit rows of this many numbers: a few numbers for each.
inline int lanes_for(std::int64_t channels) {
  const int wanted = channels <= 4 ? 1 : channels <= 32 ? 8 : 32;
  return wanted < max_lanes() ? wanted : max_lanes();
}

// body(i) for the items 0..n-1, each on one group of lanes.
template <class Body>
DCRF_DEVICE void for_items(const World& world, const Lanes& lanes, std::int64_t n,
                           const Body& body) {
  const std::int64_t groups = world.size() / lanes.size();
  for (std::int64_t i = world.rank() / lanes.size(); i < n; i += groups) body(i);
}

// body(i) for the items 0..n-1, each on one thread.
template <class Body>
DCRF_DEVICE void for_each(const World& world, std::int64_t n, const Body& body) {
  for (std::int64_t i = world.rank(); i < n; i += world.size()) body(i);
}

}  // namespace cuda
}  // namespace dcrf
