// The table of the hot loops (Loops) for one instruction set. Compiled once per instruction set;
// the build sets DCRF_ISA and DCRF_PACK_BYTES. Nothing here may instantiate a function of the
// standard library: the linker keeps only one copy of such a function, which might be one that an
// older processor cannot run.
#include "binary_pass.hpp"
#include "locate.hpp"
#include "passes.hpp"
#include "prune_pass.hpp"
#include "vertices.hpp"

namespace dcrf::DCRF_ISA {

template <typename T>
const Loops<T>& table() {
  static const Loops<T> found{&locate<T>,          &range<T>,       &splat<T>,   &slice<T>,
                              &weight_gradient<T>, &forward<T>,     &binary<T>,  &prune<T>,
                              &count_tiles<T>,     &shares<T>,      &backward<T>, &fold<T>,
                              &broadcast<T>,       &blur<T>,        &finish<T>,  &outer<T>,
                              &grid_columns<T>,    &grid_rows<T>};
  return found;
}

template const Loops<float>& table();
template const Loops<double>& table();

}  // namespace dcrf::DCRF_ISA
