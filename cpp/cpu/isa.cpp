// Which of the compiled instruction sets this processor runs.
#include <cstdlib>
#include <cstring>

#include "loops.hpp"

namespace dcrf {

#define DCRF_DECLARE(isa)      \
  namespace isa {              \
  template <typename T>        \
  const Loops<T>& table();     \
  }
DCRF_DECLARE(baseline)
#ifdef DCRF_X86
DCRF_DECLARE(avx2)
DCRF_DECLARE(avx512)
#endif
#undef DCRF_DECLARE

namespace {

int best() {
#ifdef DCRF_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512cd")) {
    return 2;
  }
  return avx2 ? 1 : 0;
#else
  return 0;
#endif
}

const char* const kNames[] = {"baseline", "avx2", "avx512"};

int chosen() {
  static const int found = [] {
    const int most = best();
    const char* const asked = std::getenv("DENSECRF_RNN_ISA");
    for (int i = 0; asked != nullptr && i < most; ++i) {
      if (std::strcmp(asked, kNames[i]) == 0) return i;
    }
    return most;
  }();
  return found;
}

}  // namespace

template <typename T>
const Loops<T>& loops() {
#ifdef DCRF_X86
  if (chosen() == 2) return avx512::table<T>();
  if (chosen() == 1) return avx2::table<T>();
#endif
  return baseline::table<T>();
}

template const Loops<float>& loops();
template const Loops<double>& loops();

const char* isa_name() { return kNames[chosen()]; }

}  // namespace dcrf
