"""How results are compared: within a tolerance, or bit by bit."""

import numpy as np


def near(got, want, tolerance):
    assert got.shape == want.shape, (got.shape, want.shape)
    assert np.isfinite(got).all()
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    error = float(np.abs(got - want).max(initial=0))
    assert error <= tolerance * scale, f"differs by {error:g}, allowed {tolerance * scale:g}"


def same_bits(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    assert got.tobytes() == want.tobytes(), "not the same to the last bit"
