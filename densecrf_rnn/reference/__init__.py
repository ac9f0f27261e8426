"""The truth, slow and obvious: `dense` is the exact definition, `lattice` its Numba approximation.

`gibbs` is the definition of a grid CRF and of its sampling, `gibbs_numba` the same sweep in Numba.

Nothing here may import the engine registry or native code; the fast paths are tested against it.
"""
