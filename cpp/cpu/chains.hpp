// The lattice blur in place: one read and one write of each row, no second array.
#pragma once

#include <cstdint>
#include <vector>

#include "pool.hpp"
#include "rows.hpp"

namespace dcrf {

// The vertices of one axis as runs of neighbours, so that its blur can work in place.
class Chains {
 public:
  // `neighbour` [M, 2] links each vertex along the axis; M means missing.
  Chains(const std::int32_t* neighbour, std::int64_t vertices) {
    const auto missing = std::int32_t(vertices);
    for (std::int32_t head = 0; head < missing; ++head) {
      // A vertex on its own is left as it is.
      if (neighbour[2 * head] != missing || neighbour[2 * head + 1] == missing) continue;
      if (std::int64_t(rows_.size()) - (blocks_.empty() ? -kChainBlock : blocks_.back()) >= kChainBlock) {
        blocks_.push_back(std::int64_t(rows_.size()));
      }
      for (std::int32_t v = head; v != missing; v = neighbour[2 * v + 1]) rows_.push_back(v);
      rows_.back() |= kEnd;
    }
    blocks_.push_back(std::int64_t(rows_.size()));
  }

  // 1/2, 1, 1/2 along every chain of values [M, width].
  template <typename T, int Width>
  void blur(T* values, int runtime_width, int threads) const {
    const int width = Width > 0 ? Width : runtime_width;
    parallel_for(std::int64_t(blocks_.size()) - 1, threads, [&](std::int64_t block) {
      Row<T, Width> row_before(width), row_here(width);
      T* const before = row_before.data();
      T* const here = row_here.data();
      const std::int64_t end = blocks_[block + 1];
      bool starts = true;
      for (std::int64_t i = blocks_[block]; i < end; ++i) {
        if (i + kAhead < end) prefetch(values + std::int64_t(rows_[i + kAhead] & ~kEnd) * width, width);
        T* const out = values + std::int64_t(rows_[i] & ~kEnd) * width;
        if (starts) {
          for (int c = 0; c < width; ++c) {
            before[c] = T(0);
            here[c] = out[c];
          }
        }
        const bool ends = rows_[i] & kEnd;
        const T* const next = ends ? out : values + std::int64_t(rows_[i + 1] & ~kEnd) * width;
        const T keep = ends ? T(0) : T(1);
        for (int c = 0; c < width; ++c) {
          const T after = keep * next[c];
          out[c] = here[c] + T(0.5) * (before[c] + after);
          before[c] = here[c];
          here[c] = after;
        }
        starts = ends;
      }
    });
  }

 private:
  static constexpr std::int64_t kChainBlock = 4096;  // rows per unit of work, at least
  static constexpr std::uint32_t kEnd = std::uint32_t(1) << 31;

  std::vector<std::uint32_t> rows_;   // vertices, chain after chain; kEnd marks a chain's last
  std::vector<std::int64_t> blocks_;  // where units of work begin, and the end
};

}  // namespace dcrf
