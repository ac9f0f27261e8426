// Loops::binary, in a file of its own so that it is compiled while loops.cpp is.
#pragma once

#include "../loops.hpp"

namespace dcrf::DCRF_ISA {

template <typename T>
bool binary(const BinaryPass<T>& pass, int strip, T* scratch);

}  // namespace dcrf::DCRF_ISA
