// The threads that run a CUDA program, as the program sees them: World (all threads), Lanes (a
// group of threads) and loops over items. The header includes one of two launchers: cooperative.hpp
// runs a program as one cooperative launch on a GPU, threads.hpp on a few CPU threads, so that
// every index, summation order and barrier is tested without a GPU.
//
// A program is a struct of numbers and pointers whose operator() every thread calls with its World.
// Between two calls of World::sync(), a memory location that one thread writes is not accessed by
// any other thread.
#pragma once

#ifdef __CUDACC__
#include "cooperative.hpp"
#else
#include "threads.hpp"
#endif

namespace dcrf::cuda {

// A group of `count` neighbouring threads (a power of two) that share one item.
class Lanes {
 public:
  DCRF_DEVICE Lanes(const World& world, int count)
      : count_(count), rank_(int(world.rank()) & (count - 1)), exchange_(world, count) {}
  DCRF_DEVICE int rank() const { return rank_; }
  DCRF_DEVICE int size() const { return count_; }
  // Return the sum over the lanes; it is bit-identical on every lane.
  template <typename T>
  DCRF_DEVICE T sum(T x) const {
    for (int o = count_ / 2; o > 0; o /= 2) x += exchange_.swap(x, o);
    return x;
  }
  // Return the maximum over the lanes.
  template <typename T>
  DCRF_DEVICE T greatest(T x) const {
    for (int o = count_ / 2; o > 0; o /= 2) {
      const T other = exchange_.swap(x, o);
      x = other > x ? other : x;
    }
    return x;
  }
  // Exclusive prefix sum: return the sum over the lanes of lower rank; set `total` to the sum over
  // all lanes.
  template <typename T>
  DCRF_DEVICE T before(T x, T& total) const {
    T sum = 0;
    total = x;
    for (int o = 1; o < count_; o *= 2) {
      const T other = exchange_.swap(total, o);
      if ((rank_ & o) != 0) sum += other;
      total += other;
    }
    return sum;
  }

 private:
  int count_, rank_;
  Exchange exchange_;
};

constexpr int kPerLane = 4;  // elements of a row that one lane keeps in registers

// Return the number of lanes for rows of `channels` elements: 1, kGroup or the maximum, so that
// most rows fit into the registers of one group.
inline int lanes_for(std::int64_t channels) {
  constexpr int kGroup = 8;
  const int wanted = channels <= kPerLane            ? 1
                     : channels <= kGroup * kPerLane ? kGroup
                                                     : max_lanes();
  return wanted < max_lanes() ? wanted : max_lanes();
}

// Call body(i) for the items 0..n-1, each on one group of lanes.
template <class Body>
DCRF_DEVICE void for_items(const World& world, const Lanes& lanes, std::int64_t n,
                           const Body& body) {
  const std::int64_t groups = world.size() / lanes.size();
  for (std::int64_t i = world.rank() / lanes.size(); i < n; i += groups) body(i);
}

// Call body(i) for the items 0..n-1, each on one thread.
template <class Body>
DCRF_DEVICE void for_each(const World& world, std::int64_t n, const Body& body) {
  for (std::int64_t i = world.rank(); i < n; i += world.size()) body(i);
}

}  // namespace dcrf::cuda
