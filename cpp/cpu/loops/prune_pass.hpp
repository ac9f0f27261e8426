// Loops::prune and its helpers, in a file of their own so that it is compiled while loops.cpp is.
#pragma once

#include "../loops.hpp"

namespace dcrf::DCRF_ISA {

template <typename T>
bool prune(const PrunePass<T>& pass, int strip, T* scratch);
template <typename T>
std::int64_t count_tiles(const PointPass<T>& pass, int strip);
template <typename T>
void shares(const T* const* values, int groups, const T* inverse_mass, T scale, std::int64_t begin,
            std::int64_t end, std::uint8_t* out, int width);

}  // namespace dcrf::DCRF_ISA
