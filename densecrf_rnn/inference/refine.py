"""refine: marginals of a dense CRF from saved logits and their image."""

from collections.abc import Sequence

import numpy as np

from .._typing import Array
from ..params import CRFParams
from .mean_field import infer


def refine(
    logits: Array,
    image: Array,
    params: CRFParams = CRFParams(),
    *,
    compatibility: Array | None = None,
    iterations: int = 10,
    mask: Array | None = None,
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Refine the logits that a network returned for an image; return label marginals.

    Parameters
    ----------
    logits : ndarray [L, H, W] or [L, D, H, W], float32 or float64
        Log-likelihood of each label up to a constant per pixel; higher is more probable. Log
        probabilities are logits too. -inf excludes a label. L = 1: one logit x for the
        foreground, treated as the two logits (0, x).
    image : ndarray [H, W, C] or [D, H, W, C], integer or floating point
        The image, up to 14 channels (13 in 3-D), in the units of ``params.theta_beta`` (0..255).
    params : CRFParams
        Bandwidths, weights and options. The defaults are the paper's, for a CRF trained with the
        network; to refine saved logits start with ``CRFParams(theta_alpha=30, theta_beta=5,
        w_bilateral=3)`` and evaluate a few images with ground truth.
    compatibility : ndarray [L, L], optional
        Penalty of label l (row) next to label l' (column); default Potts, 1 - I.
    iterations : int, at least 0
        Number of mean-field updates.
    mask : ndarray [H, W] or [D, H, W] of bool, optional
        Pixels where the mask is False are excluded and get the softmax of their logits. At these
        pixels logits and image may be NaN.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        Maximum number of threads; the result does not depend on it.

    Returns
    -------
    ndarray, float32, shape of `logits`
        Marginals, which sum to 1 over the labels (L = 1: marginal of the foreground).

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype or range, or contains NaN or infinity.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [KK11] algorithm 1. The result is the softmax of `mean_field`, computed in the dtype of
    `logits`. Arguments are never modified.

    Examples
    --------
    >>> logits = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    >>> image = np.zeros((8, 9, 3), np.uint8)
    >>> q = refine(logits, image, CRFParams(theta_alpha=4, theta_beta=10))
    >>> q.shape, q.dtype.name, bool(np.allclose(q.sum(0), 1))
    ((3, 8, 9), 'float32', True)
    """
    q = infer(
        logits, image, params, kernel_weights=None, compatibility=compatibility,
        iterations=iterations, mask=mask, spacing=spacing, backend=backend, threads=threads,
        marginals=True,
    )  # fmt: skip
    return q.astype(np.float32, copy=False)
