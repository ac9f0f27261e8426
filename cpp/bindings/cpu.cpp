// The Python module densecrf_rnn._cpu: the loops of cpp/cpu on NumPy arrays. The bindings read the
// structs of densecrf_rnn/engines by field name, check dtypes and shapes, and release the GIL. The
// type stubs are in densecrf_rnn/_cpu.pyi; only densecrf_rnn/engines imports the module.
#include "../cpu/loops.hpp"

#include "fields.hpp"

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU loops of densecrf_rnn; use densecrf_rnn.PermutohedralLattice instead.";
  m.attr("compiler") = DCRF_COMPILER;
  m.attr("limits") = bindings::limits();
  m.attr("prunes") = true;
  m.def("isa", &dcrf::isa_name, "The instruction set in use: baseline, avx2 or avx512.");
  bindings::bind_lattice(m);
  bindings::bind_mean_field(m);
  bindings::bind_gibbs(m);
}
