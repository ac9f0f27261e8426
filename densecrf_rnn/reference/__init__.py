"""The truth, slow and obvious: `dense` is the exact definition, `lattice` its Numba approximation.

Nothing here may import the engine registry or native code; the fast paths are tested against it.
"""
