// The serial launcher: runs the CUDA programs on a few CPU threads, to test them without a GPU.
// Included by world.hpp if the compiler is not nvcc. Results must not depend on the number of
// threads, as on a GPU they do not depend on its size.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "views.hpp"

#define DCRF_DEVICE inline

namespace dcrf::cuda {

// Return a positive integer environment variable, or 1.
inline int from_environment(const char* name) {
  const char* const wanted = std::getenv(name);
  return wanted == nullptr || std::atoi(wanted) < 1 ? 1 : std::atoi(wanted);
}
// Return the number of threads that share an item: a power of two up to 8.
inline int max_lanes() { return from_environment("DENSECRF_RNN_SERIAL_LANES"); }
// Return the number of groups of max_lanes() threads that run a program.
inline int team_count() { return from_environment("DENSECRF_RNN_SERIAL_THREADS"); }

// A barrier for `count` threads that can be used repeatedly.
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

// Data that the threads of one group share: a barrier and, for Exchange, one value per thread.
struct Team {
  explicit Team(int count) : barrier(count), passed(count) {}
  Barrier barrier;
  std::vector<double> passed;  // double represents every float and 32-bit integer exactly
};

// All threads that run a program, as one of them sees them: its rank, their number, a barrier.
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

// Exchange of values within a group of `count` threads.
class Exchange {
 public:
  Exchange(const World& world, int count)
      : rank_(int(world.rank()) & (count - 1)), team_(world.team()) {}
  // Pass `own` to the lane whose rank is this one's XOR `offset`, and return that lane's value.
  template <typename T>
  T swap(T own, int offset) const {
    team_.passed[rank_] = double(own);
    team_.barrier.wait();
    const T found = T(team_.passed[rank_ ^ offset]);
    team_.barrier.wait();
    return found;
  }

 private:
  int rank_;
  Team& team_;
};

// Add atomically.
inline void add(std::int64_t* to, std::int64_t amount) {
  __atomic_fetch_add(to, amount, __ATOMIC_RELAXED);
}

// Return the number of threads that `launch` starts, whatever number it is asked for.
inline std::int64_t most_threads(std::int64_t) { return std::int64_t(max_lanes()) * team_count(); }

// Run a program and wait for it.
template <class Program>
void launch(const Program& program, std::int64_t, const Stream&) {
  const int lanes = max_lanes(), teams = team_count();
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

// Return a value from the memory of a program.
template <typename T>
T fetch(const T* from, const Stream&) {
  return *from;
}

}  // namespace dcrf::cuda
