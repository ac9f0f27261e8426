// Tells programs that use a barrier from those that do not, for both launchers.
#pragma once

#include <type_traits>

namespace dcrf::cuda {

// Whether a program may call World::sync(): its operator() takes a World that is not const. On a
// GPU only these programs are launched cooperatively.
template <class Program, class World>
constexpr bool kHasBarrier =
    !std::is_same<decltype(&Program::operator()), void (Program::*)(const World&) const>::value;

}  // namespace dcrf::cuda
