// Rows of label values: how wide they are.
#pragma once

namespace dcrf {

// Rows of L labels are padded with zeros to this width (densecrf_rnn/engines: row_width).
inline int row_width(int labels) {
  const int step = labels <= 32 ? 4 : 8;
  return (labels + step - 1) / step * step;
}

}  // namespace dcrf
