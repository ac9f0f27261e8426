// What differs between operating systems, compilers and processors, for the rest of cpp/cpu:
// aligned memory, forks, the floating-point mode and the instruction sets of this processor.
// Nothing else in cpp/core, cpp/cpu and cpp/bindings tests for an operating system.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dcrf::platform {

// Return uninitialised memory, or null if there is none. `alignment` is a power of two that divides
// `bytes`. Where the system can, blocks aligned to kHugePage use huge pages.
constexpr std::size_t kHugePage = std::size_t(1) << 21;  // bytes
void* allocate(std::size_t alignment, std::size_t bytes);
void release(void* block);  // free memory of allocate()

// Number of fork() calls between the first process and this one. It identifies the process better
// than the process id, which a child in another PID namespace may share with its parent. Always 0
// on Windows, which has no fork().
long fork_count();

// The floating-point mode of this thread, and kFlush, the bits that make subnormal numbers 0. On
// processors that are neither x86-64 nor AArch64 the mode is always 0 and cannot be set.
using FloatMode = std::uint64_t;
extern const FloatMode kFlush;
FloatMode float_mode();
void set_float_mode(FloatMode mode);

// Whether the processor and the operating system support all instructions of the microarchitecture
// level x86-64-v3 (AVX2) or x86-64-v4 (AVX-512) that compilers use in cpp/cpu/loops.
bool supports_avx2();
bool supports_avx512();

}  // namespace dcrf::platform
