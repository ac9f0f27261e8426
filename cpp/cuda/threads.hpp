// The serial launcher: runs the CUDA programs on a few CPU threads, to test them without a GPU.
// Included by world.hpp if the compiler is not nvcc. Results must not depend on the number of
// threads, as on a GPU they do not depend on its size.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <map>
#include <thread>
#include <vector>

#include "barrier.hpp"
#include "views.hpp"

#define DCRF_DEVICE inline

namespace dcrf::cuda {

// Return a positive integer environment variable, or 1.
inline int from_environment(const char* name) {
  const char* const wanted = std::getenv(name);
  return wanted == nullptr || std::atoi(wanted) < 1 ? 1 : std::atoi(wanted);
}
// Return the number of threads that share an item: a power of two up to 32.
inline int max_lanes() { return from_environment("DENSECRF_RNN_SERIAL_LANES"); }
// Return the number of groups of max_lanes() threads that run a program.
inline int team_count() { return from_environment("DENSECRF_RNN_SERIAL_THREADS"); }

// A barrier for `count` threads that can be used repeatedly. Waiting threads first yield, which takes
// a fraction of the time of a condition variable, and then sleep, to leave the processors to others.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    const int round = round_.load();
    if (waiting_.fetch_add(1) + 1 == count_) {
      waiting_.store(0);
      round_.fetch_add(1);
    } else {
      constexpr int kYields = 100;
      for (int i = 0; round_.load() == round; ++i) {
        if (i < kYields) {
          std::this_thread::yield();
        } else {
          std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
      }
    }
  }

 private:
  int count_;
  std::atomic<int> waiting_{0}, round_{0};
};

// Data that max_lanes() threads share, as those of a warp do: for Exchange, one value per thread,
// and the barriers of the groups of 2, 4, ... threads into which they can be divided.
struct Team {
  explicit Team(int lanes) : passed(lanes) {
    for (int count = 2; count <= lanes; count *= 2) {
      for (int group = 0; group < lanes / count; ++group) barriers[count].emplace_back(count);
    }
  }
  std::map<int, std::deque<Barrier>> barriers;  // by the number of threads of a group
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
      : rank_(int(world.rank()) % int(world.team().passed.size())), team_(world.team()) {
    if (count > 1) barrier_ = &team_.barriers.at(count)[rank_ / count];
  }
  // Pass `own` to the lane whose rank is this one's XOR `offset`, and return that lane's value.
  template <typename T>
  T swap(T own, int offset) const {
    team_.passed[rank_] = double(own);
    barrier_->wait();
    const T found = T(team_.passed[rank_ ^ offset]);
    barrier_->wait();
    return found;
  }

 private:
  int rank_;  // within the team
  Team& team_;
  Barrier* barrier_ = nullptr;  // of the group
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

}  // namespace dcrf::cuda
