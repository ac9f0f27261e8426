// The loops over rows of lattice vertices and grid cells: ghosts, blur and coupling. The functions
// that Loops points to are specified there.
#pragma once

#include "number_vertices.hpp"

namespace dcrf::DCRF_ISA {

constexpr int kAhead = 16;  // rows to prefetch ahead

// Call body(Width<n>(), block of the ghost's row, same block of the owner's row) for all blocks of
// each pair of rows.
template <typename T, class Body>
DCRF_INLINE void for_ghosts(const std::int32_t* ghost, const std::int32_t* owner,
                            std::int64_t count, T* rows, int width, const Body& body) {
  with_row(width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    for (std::int64_t i = 0; i < count; ++i) {
      if (i + kAhead < count) {
        prefetch(rows + std::int64_t(ghost[i + kAhead]) * width, width);
        prefetch(rows + std::int64_t(owner[i + kAhead]) * width, width);
      }
      T* const of_ghost = rows + std::int64_t(ghost[i]) * width;
      T* const of_owner = rows + std::int64_t(owner[i]) * width;
      in_blocks<W>(width, [&](auto block, int at) { body(block, of_ghost + at, of_owner + at); });
    }
  });
}

template <typename T>
void fold(const std::int32_t* ghost, const std::int32_t* owner, std::int64_t count, T* rows,
          int width) {
  for_ghosts(ghost, owner, count, rows, width, [](auto block, T* from, T* to) {
    Row<T, decltype(block)::value> sum, zero;
    sum.load(to);
    sum.add(from);
    sum.store(to);
    zero.clear();
    zero.store(from);
  });
}

template <typename T>
void broadcast(const std::int32_t* ghost, const std::int32_t* owner, std::int64_t count, T* rows,
               int width) {
  for_ghosts(ghost, owner, count, rows, width, [](auto block, T* to, const T* from) {
    Row<T, decltype(block)::value> row;
    row.load(from);
    row.store(to);
  });
}

// Blur with weights 1/2, 1, 1/2 (kBlurSide) along chains of rows, in place; each row is read and
// written once. The list holds whole chains; kChainEnd marks the last row of each.
template <typename T>
void blur(const std::uint32_t* chain, std::int64_t count, T* rows, int width) {
  if (width == 1) return blur_numbers(chain, count, rows);
  with_width(width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    in_blocks<W>(width, [&](auto block, int at) {
      using R = Row<T, decltype(block)::value>;
      const auto row = [&](std::int64_t i) {
        return rows + std::int64_t(chain[i] & ~kChainEnd) * width + at;
      };
      R before, here, next;
      before.clear();
      here.load(row(0));
      for (std::int64_t i = 0; i < count; ++i) {
        if (i + kAhead < count) prefetch(row(i + kAhead), decltype(block)::value);
        // Whether a chain ends is not predictable, so the next row is read in any case.
        const bool ends = chain[i] & kChainEnd;
        next.load(row(i + 1 < count ? i + 1 : i));
        R sides = next;
        sides.clear_if(ends);
        sides.add_scaled(T(1), before);
        before = here;
        before.clear_if(ends);
        here.add_scaled(T(kBlurSide), sides);
        here.store(row(i));
        here = next;
      }
    });
  });
}

template <typename T>
T finish(const CouplingView<T>& coupling, const std::int32_t* row, std::int64_t count, T* a,
         const T* b, T* values, T* raw, int width) {
  if (width == 1) {
    finish_numbers(coupling.extra[0], row, count, a, b, values);
    return T(0);
  }
  T greatest = 0;
  with_width(width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    Row<T, (W > 0 ? W : 8)> top;  // maximum of |values|, lane by lane
    top.clear();
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at_row = (row != nullptr ? row[i] : i) * width;
      in_blocks<W>(width, [&](auto block, int at) {
        if (b == nullptr && raw == nullptr) return;
        Row<T, decltype(block)::value> in;
        in.load(a + at_row + at);
        if (b != nullptr) {
          in.add(b + at_row + at);
          in.scale(T(0.5));
          in.store(a + at_row + at);
        }
        if (raw != nullptr) in.store(raw + at_row + at);
      });
      couple<W>(coupling, a + at_row, values + at_row, width);
      in_blocks<W>(width, [&](auto block, int at) {
        Row<T, decltype(block)::value> zero, value;
        zero.clear();
        zero.store(a + at_row + at);
        value.load(values + at_row + at);
        value.drop_sign();
        if constexpr (W > 0) {
          top.raise_to(value);
        } else {
          const T size = value.max();
          greatest = size > greatest ? size : greatest;
        }
      });
    }
    if constexpr (W > 0) greatest = top.max();
  });
  return greatest;
}

template <typename T>
void outer(const std::int32_t* row, std::int64_t count, const T* a, const T* b, const T* weight,
           int labels, int width, T* sum) {
  with_width(width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at_row = row != nullptr ? row[i] : i;
      const T* const left = a + at_row * width;
      in_blocks<W>(width, [&](auto block, int at) {
        Row<T, decltype(block)::value> right, to;
        right.load(b + at_row * width + at);
        if (weight != nullptr) right.scale(weight[at_row]);
        for (int l = 0; l < labels; ++l) {
          to.load(sum + l * width + at);
          to.add_scaled(left[l], right);
          to.store(sum + l * width + at);
        }
      });
    }
  });
}

template <typename T>
bool range(const T* from, std::int64_t stride, std::int64_t count, T* least, T* greatest) {
  constexpr int N = kLanes<T>;
  T low = from[0], high = from[0];
  T poison = 0;  // 0 * x is NaN if x is not finite
  std::int64_t i = 0;
  if (stride == 1 && count >= N) {
    Pack<T, N> lows = load<T, N>(from), highs = lows, poisons{};
    for (; i + N <= count; i += N) {
      const Pack<T, N> x = load<T, N>(from + i);
      lows = x < lows ? x : lows;
      highs = x > highs ? x : highs;
      poisons += x * T(0);
    }
    for (int lane = 0; lane < N; ++lane) {
      low = lows[lane] < low ? lows[lane] : low;
      high = highs[lane] > high ? highs[lane] : high;
      poison += poisons[lane];
    }
  }
  for (; i < count; ++i) {
    const T x = from[i * stride];
    low = x < low ? x : low;
    high = x > high ? x : high;
    poison += x * T(0);
  }
  *least = low;
  *greatest = high;
  return poison == T(0);
}

template <typename T>
void grid_columns(T* const* rows, int count, const T* band, int radius, std::int64_t cells,
                  int width, T* scratch, T* out) {
  if (width == 1) return number_columns(rows, count, band, radius, cells, scratch, out);
  with_width(width, [&](auto w) {
    constexpr int W = decltype(w)::value;
    for (std::int64_t x = 0; x < cells; ++x) {
      in_blocks<W>(width, [&](auto block, int at) {
        const std::int64_t here = x * width + at;
        Row<T, decltype(block)::value> sum, zero;
        sum.clear();
        zero.clear();
        for (int i = 0; i < count; ++i) {
          sum.add(rows[i] + here);
          zero.store(rows[i] + here);
        }
        sum.store(scratch + here);
      });
    }
    for (std::int64_t x = 0; x < cells; ++x) {
      const std::int64_t low = x < radius ? -x : -radius;
      const std::int64_t high = x + radius < cells ? radius : cells - 1 - x;
      in_blocks<W>(width, [&](auto block, int at) {
        Row<T, decltype(block)::value> sum;
        sum.clear();
        for (std::int64_t k = low; k <= high; ++k) {
          sum.add_scaled(band[k + radius], scratch + (x + k) * width + at);
        }
        sum.store(out + x * width + at);
      });
    }
  });
}

template <typename T>
void grid_rows(const T* const* rows, const T* band, int count, std::int64_t length, T* out) {
  std::int64_t at = 0;
  const auto block = [&](auto w) {
    constexpr int W = decltype(w)::value;
    for (; at + W <= length; at += W) {
      Row<T, W> sum;
      sum.clear();
      for (int k = 0; k < count; ++k) sum.add_scaled(band[k], rows[k] + at);
      sum.store(out + at);
    }
  };
  block(Width<32>());
  block(Width<4>());
  block(Width<1>());  // rows are padded to a multiple of 4, or of one number each
}

}  // namespace dcrf::DCRF_ISA
