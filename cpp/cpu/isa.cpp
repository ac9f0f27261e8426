// Selects at run time the best compiled instruction set that this processor supports; the
// environment variable DENSECRF_RNN_ISA lowers the choice.
#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "loops.hpp"
#include "loops/gibbs.hpp"
#include "loops/lookup.hpp"
#include "platform.hpp"

namespace dcrf {

#define DCRF_DECLARE(isa)          \
  namespace isa {                  \
  template <typename T>            \
  const Loops<T>& table();         \
  const GibbsLoops& gibbs_table(); \
  const LookupLoops& lookup_table(); \
  }
DCRF_DECLARE(baseline)
#ifdef DCRF_WITH_AVX2
DCRF_DECLARE(avx2)
#endif
#ifdef DCRF_WITH_AVX512
DCRF_DECLARE(avx512)
#endif
#undef DCRF_DECLARE

namespace {

const char* const kNames[] = {"baseline", "avx2", "avx512"};

// Return the index in kNames of the best instruction set that was compiled and that this processor
// supports.
int best() {
  int most = 0;
#ifdef DCRF_WITH_AVX2
  if (platform::supports_avx2()) most = 1;
#endif
#ifdef DCRF_WITH_AVX512
  if (platform::supports_avx512()) most = 2;
#endif
  return most;
}

// Return the index in kNames of the instruction set in use.
int chosen() {
  static const int found = [] {
    const char* const asked = std::getenv("DENSECRF_RNN_ISA");
    if (asked == nullptr || *asked == '\0') return best();
    for (int i = 0; i < 3; ++i) {
      if (std::string(kNames[i]) == asked) return std::min(i, best());
    }
    throw std::invalid_argument("DENSECRF_RNN_ISA must be baseline, avx2 or avx512, not " +
                                std::string(asked));
  }();
  return found;
}

}  // namespace

template <typename T>
const Loops<T>& loops() {
#ifdef DCRF_WITH_AVX512
  if (chosen() == 2) return avx512::table<T>();
#endif
#ifdef DCRF_WITH_AVX2
  if (chosen() == 1) return avx2::table<T>();
#endif
  return baseline::table<T>();
}

template const Loops<float>& loops();
template const Loops<double>& loops();

const GibbsLoops& gibbs_loops() {
#ifdef DCRF_WITH_AVX512
  if (chosen() == 2) return avx512::gibbs_table();
#endif
#ifdef DCRF_WITH_AVX2
  if (chosen() == 1) return avx2::gibbs_table();
#endif
  return baseline::gibbs_table();
}

const LookupLoops& lookup_loops() {
#ifdef DCRF_WITH_AVX512
  if (chosen() == 2) return avx512::lookup_table();
#endif
#ifdef DCRF_WITH_AVX2
  if (chosen() == 1) return avx2::lookup_table();
#endif
  return baseline::lookup_table();
}

const char* isa_name() { return kNames[chosen()]; }

}  // namespace dcrf
