// Rows of label values [N, width] or [M, width]: how wide they are and how they are read ahead.
#pragma once

#include <cstdint>
#include <type_traits>

#include "buffer.hpp"

namespace dcrf {

// How many rows ahead the loops ask for memory that they will read out of order.
constexpr std::int64_t kAhead = 12;

// Asks for a row of `width` values to be brought near.
template <typename T>
inline void prefetch(const T* row, int width) {
#if defined(__GNUC__)
  for (int c = 0; c < width; c += int(64 / sizeof(T))) __builtin_prefetch(row + c);
#else
  (void)row, (void)width;
#endif
}

// Rows of L labels are padded with zeros to this width (densecrf_rnn/_backends.py: row_width).
inline int row_width(int labels) { return (labels + 3) / 4 * 4; }

// Calls body(std::integral_constant<int, W>) with W = width for the common ones, else W = 0.
template <class Body>
void with_width(int width, const Body& body) {
  switch (width) {
    case 4: return body(std::integral_constant<int, 4>());
    case 8: return body(std::integral_constant<int, 8>());
    case 12: return body(std::integral_constant<int, 12>());
    case 16: return body(std::integral_constant<int, 16>());
    case 20: return body(std::integral_constant<int, 20>());
    case 24: return body(std::integral_constant<int, 24>());
    default: return body(std::integral_constant<int, 0>());
  }
}

// One row of values in registers where the width is known, on the heap where it is not.
template <typename T, int Width>
class Row {
 public:
  explicit Row(int width) : heap_(Width > 0 ? Buffer<T>() : make_buffer<T>(width)) {}
  T* data() { return Width > 0 ? fixed_ : heap_.get(); }

 private:
  T fixed_[Width > 0 ? Width : 1];
  Buffer<T> heap_;
};

}  // namespace dcrf
