// SIMD version of locate in core/simplex.hpp: the same operations in the same order on each lane,
// so results are bit-identical (cpp/tests/test_lattice.cpp compares them). Compiled once per
// instruction set, without fused multiply-adds: the simplex of a point must not depend on the
// processor.
#include "locate.hpp"
#include "../loops.hpp"
#include "pack.hpp"

namespace dcrf::DCRF_ISA {

// Loops::locate for points with D features.
template <typename T, int D>
void locate_points(const LocateTask<T>& task, std::uint32_t* low, std::uint32_t* high, T* weight) {
  using Int = typename IntOf<T>::Type;
  constexpr int N = kLanes<T>;
  using P = Pack<T, N>;
  using I = Pack<Int, N>;
  constexpr T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);  // round_to_even
  constexpr T up = T(D + 1), down = T(1) / up;

  for (int at = 0; at < task.count; at += N) {
    P elevated[D + 1];
    P sum{};
    DCRF_UNROLL
    for (int j = D; j > 0; --j) {
      P feature{};
      const T* const from = task.features + (j - 1) * task.feature_stride;
      if (task.point_stride == 1 && at + N <= task.count) {
        feature = load<T, N>(from + at);
      } else {
        for (int i = 0; i < N && at + i < task.count; ++i)
          feature[i] = from[(at + i) * task.point_stride];
      }
      const P scaled = feature * task.scale[j - 1];
      elevated[j] = sum - T(j) * scaled;
      sum += scaled;
    }
    elevated[0] = sum;

    I quotient[D + 1], rank[D + 1], excess{};
    P delta[D + 1];
    DCRF_UNROLL
    for (int j = 0; j <= D; ++j) {
      const P rounded = (elevated[j] * down + magic) - magic;
      quotient[j] = __builtin_convertvector(rounded, I);
      delta[j] = elevated[j] - rounded * up;
      excess += quotient[j];
      // Start as if delta[j] were smaller than all deltas before it; the next loop corrects this.
      rank[j] = I{} + Int(j);
    }
    DCRF_UNROLL
    for (int i = 0; i < D; ++i) {
      DCRF_UNROLL
      for (int j = i + 1; j <= D; ++j) {
        const I below = delta[i] < delta[j];  // -1 where true
        rank[i] -= below;
        rank[j] += below;
      }
    }
    P moved[D + 1];
    DCRF_UNROLL
    for (int j = 0; j <= D; ++j) {
      rank[j] += excess;
      const I under = rank[j]<Int(0), over = rank[j]> Int(D);
      rank[j] += (under & Int(D + 1)) - (over & Int(D + 1));
      quotient[j] += over - under;
      const P shift = under ? P{} - up : (over ? P{} + up : P{});
      moved[j] = (delta[j] + shift) * down;
    }
    P sorted[D + 1];
    I key_low = I{}, key_high = I{};
    // KeyMaths::unit of the axis of each rank, in 32-bit halves.
    I unit_low[D + 1], unit_high[D + 1];
    DCRF_UNROLL
    for (int r = 0; r <= D; ++r) {
      sorted[r] = moved[0];
      unit_low[r] = unit_high[r] = I{};
      DCRF_UNROLL
      for (int j = 0; j <= D; ++j) {
        const I here = rank[j] == Int(r);
        if (j > 0) sorted[r] = here ? moved[j] : sorted[r];
        if (j == D) continue;  // the last axis has no field
        if (task.high[j])
          unit_high[r] |= here & Int(task.unit[j]);
        else
          unit_low[r] |= here & Int(task.unit[j]);
      }
    }
    DCRF_UNROLL
    for (int j = 0; j < D; ++j) {
      const I field = (quotient[j] - Int(task.base[j])) * Int(task.unit[j]);
      if (task.high[j])
        key_high += field;
      else
        key_low += field;
    }
    const auto put = [&](int k) {
      if constexpr (sizeof(Int) == 4) {
        store<Int, N>(reinterpret_cast<Int*>(low) + k * kTile + at, key_low);
        store<Int, N>(reinterpret_cast<Int*>(high) + k * kTile + at, key_high);
      } else {
        for (int i = 0; i < N; ++i) {
          low[k * kTile + at + i] = std::uint32_t(key_low[i]);
          high[k * kTile + at + i] = std::uint32_t(key_high[i]);
        }
      }
    };
    put(0);
    store<T, N>(weight + at, T(1) + (sorted[D] - sorted[0]));
    DCRF_UNROLL
    for (int k = 1; k <= D; ++k) {
      key_low += Int(1);
      key_low -= unit_low[D - k + 1];
      key_high -= unit_high[D - k + 1];
      put(k);
      store<T, N>(weight + k * kTile + at, sorted[D - k] - sorted[D - k + 1]);
    }
  }
}

template <typename T>
void locate(const LocateTask<T>& task, std::uint32_t* low, std::uint32_t* high, T* weight) {
  switch (task.dims) {
    case 1:
      return locate_points<T, 1>(task, low, high, weight);
    case 2:
      return locate_points<T, 2>(task, low, high, weight);
    case 3:
      return locate_points<T, 3>(task, low, high, weight);
    case 4:
      return locate_points<T, 4>(task, low, high, weight);
    case 5:
      return locate_points<T, 5>(task, low, high, weight);
    case 6:
      return locate_points<T, 6>(task, low, high, weight);
  }
}

template void locate(const LocateTask<float>&, std::uint32_t*, std::uint32_t*, float*);
template void locate(const LocateTask<double>&, std::uint32_t*, std::uint32_t*, double*);

}  // namespace dcrf::DCRF_ISA
