// Converts a densecrf_rnn.engines.Plan (a built lattice) to a dcrf::LatticeView; used by
// lattice.cpp and mean_field.cpp.
#pragma once

#include "../cpu/lattice.hpp"
#include "arrays.hpp"

namespace bindings {

// Return the view of a plan; check dtypes, shapes and the size of `links`. The row numbers in
// `vertex` are not checked: only build() writes them.
template <typename T>
dcrf::LatticeView<T> lattice_view(const py::handle& plan) {
  dcrf::LatticeView<T> out;
  const Named vertex = DCRF_FIELD(plan, vertex), links = DCRF_FIELD(plan, links);
  const std::int64_t corners = length(vertex, 1);
  out.points = length(vertex, 0);
  out.dims = int(corners) - 1;
  vertex.require(out.dims >= 1 && out.dims <= dcrf::kMaxDims, "[N, d+1], d from 1 to MAX_DIMS");
  out.vertex = data<std::int32_t>(vertex, {out.points, corners});
  out.weight = data<T>(DCRF_FIELD(plan, weight), {out.points, corners});
  const std::int64_t size = length(links, 0);
  out.links = data<std::int32_t>(links, {size});
  links.require(dcrf::Links::fits(out.links, size, out.points, out.dims),
                "those of a built plan of these points");
  return out;
}

}  // namespace bindings
