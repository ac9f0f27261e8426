// Implements platform.hpp. Tried: Linux on x86-64 and, emulated, on AArch64; Windows by MinGW-w64.
// Not tried: macOS, and Clang for Windows.
#include "platform.hpp"

#include <atomic>
#include <cstdlib>

#ifdef _WIN32
#include <malloc.h>
#else
#include <pthread.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __x86_64__
#include <cpuid.h>
#include <xmmintrin.h>
#endif

namespace dcrf::platform {

#ifdef _WIN32
void* allocate(std::size_t alignment, std::size_t bytes) {
  return _aligned_malloc(bytes, alignment);
}
void release(void* block) { _aligned_free(block); }

long fork_count() { return 0; }
#else
void* allocate(std::size_t alignment, std::size_t bytes) {
  void* const block = std::aligned_alloc(alignment, bytes);
#ifdef __linux__
  // Failure is harmless.
  if (block != nullptr && alignment == kHugePage) madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return block;
}
void release(void* block) { std::free(block); }

long fork_count() {
  static std::atomic<long> forks{0};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  (void)registered;
  return forks.load();
}
#endif

#if defined(__x86_64__)
const FloatMode kFlush = 0x8040;  // bits FTZ and DAZ of MXCSR
FloatMode float_mode() { return _mm_getcsr(); }
void set_float_mode(FloatMode mode) { _mm_setcsr(unsigned(mode)); }
#elif defined(__aarch64__)
const FloatMode kFlush = FloatMode(1) << 24;  // bit FZ of FPCR
FloatMode float_mode() {
  FloatMode mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(FloatMode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
const FloatMode kFlush = 0;
FloatMode float_mode() { return 0; }
void set_float_mode(FloatMode) {}
#endif

#ifdef __x86_64__
namespace {

bool has(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }
constexpr unsigned bit(int i) { return 1u << i; }

// What CPUID says. Compilers have __builtin_cpu_supports, but Clang for Windows does not link the
// table that it reads.
struct Features {
  bool avx2 = false, avx512 = false;

  Features() {
    constexpr unsigned kFirst = bit(12) | bit(22) | bit(29),      // FMA, MOVBE, F16C
        kSaves = bit(27),                                         // OSXSAVE: XCR0 can be read
        kSecond = bit(3) | bit(5) | bit(8),                       // BMI1, AVX2, BMI2
        kThird = bit(5),                                          // LZCNT
        kWide = bit(16) | bit(17) | bit(28) | bit(30) | bit(31),  // AVX512F, DQ, CD, BW, VL
        kYmm = 0x6, kZmm = 0xe6;                                  // saved by the system: XCR0
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, kFirst | kSaves)) return;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !has(c, kThird)) return;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    unsigned saved = 0, upper = 0;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    avx2 = has(saved, kYmm) && has(b, kSecond);
    avx512 = avx2 && has(saved, kZmm) && has(b, kWide);
  }
};

const Features& features() {
  static const Features found;
  return found;
}

}  // namespace

bool supports_avx2() { return features().avx2; }
bool supports_avx512() { return features().avx512; }
#else
bool supports_avx2() { return false; }
bool supports_avx512() { return false; }
#endif

}  // namespace dcrf::platform
