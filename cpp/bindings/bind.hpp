// The parts of the module densecrf_rnn._cpu.
#pragma once

#include <pybind11/pybind11.h>

namespace bindings {

void bind_lattice(pybind11::module_& m);     // lattice.cpp
void bind_mean_field(pybind11::module_& m);  // mean_field.cpp
void bind_gibbs(pybind11::module_& m);       // gibbs.cpp

}  // namespace bindings
