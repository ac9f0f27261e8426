"""How results are compared: within a tolerance, or bit by bit."""

from contextlib import contextmanager
from importlib import import_module
from unittest import mock

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


@contextmanager
def recorded_relu():
    """Record the logits [B, N, L] and the marginals of each application of update="relu"."""
    steps, genuine = [], stepwise()._relu_marginals

    def recorded(logits):
        q = genuine(logits)
        steps.append((logits.detach().numpy(), q.detach().numpy()))
        return q

    with mock.patch.object(stepwise(), "_relu_marginals", recorded):
        yield steps


def stepwise():
    return import_module("densecrf_rnn.nn.stepwise")


def met_a_jump(one, other):
    """Whether two records of `recorded_relu` part at the jump of the ReLU's marginals.

    They jump where the largest logit of a pixel is 0: below, all labels have the same. Logits of
    exactly 0 are common, since a label that no neighbour has costs nothing, and there rounding
    decides. So marginals may differ at such pixels, and everything after them.
    """
    for (mine, my_q), (theirs, their_q) in zip(one, other, strict=True):
        part = np.abs(my_q - their_q).max(-1) > 1e-9
        if part.any():
            largest = np.maximum(np.abs(mine.max(-1)), np.abs(theirs.max(-1)))[part]
            assert largest.max() < 1e-4, f"marginals differ where a logit is {largest.max():g}"
            return True
    return False
