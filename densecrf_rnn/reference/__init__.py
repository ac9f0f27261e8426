"""Slow and simple implementations: `dense` is the exact CRF, `lattice` the approximation in Numba.

`gibbs` is the definition of a grid CRF and of its sampling, `gibbs_numba` the same sweep in Numba.

Engines are tested against these modules, which therefore import neither engines nor native code.
"""
