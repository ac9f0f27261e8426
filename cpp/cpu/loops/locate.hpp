// Declares locate() (Loops::locate), which finds the simplices of several points; used by
// loops.cpp.
#pragma once

#include "../loops.hpp"

namespace dcrf::DCRF_ISA {

template <typename T>
void locate(const LocateTask<T>& task, std::uint32_t* low, std::uint32_t* high, T* weight);

}  // namespace dcrf::DCRF_ISA
