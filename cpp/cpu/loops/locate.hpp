// Where several points lie in the lattice: Loops::locate.
#pragma once

#include "../loops.hpp"

namespace dcrf::DCRF_ISA {

template <typename T>
void locate(const LocateTask<T>& task, std::uint32_t* low, std::uint32_t* high, T* weight);

}  // namespace dcrf::DCRF_ISA
