"""refine: marginals of a dense CRF from saved logits and their image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks, unaries
from .._typing import Array
from ..params import CRFParams
from .array_likes import as_array, as_arrays
from .mean_field import infer


def refine(
    logits: Array,
    image: Array | None = None,
    params: CRFParams = CRFParams(),
    *,
    features: Array | None = None,
    kind: unaries.Kind = "logits",
    compatibility: Array | None = None,
    multilabel: bool = False,
    iterations: int = 10,
    mask: Array | None = None,
    spacing: Sequence[float] | None = None,
    prune: float = 0.0,
    quantization: tuple[float, float] | None = None,
    labels: bool = False,
    backend: str = "auto",
    threads: int | None = None,
    return_info: bool = False,
) -> Any:
    """Refine the logits that a network returned for an image; return label marginals.

    Parameters
    ----------
    logits : ndarray [L, H, W] or [L, D, H, W], with `features` [L, N]; float16, float32, float64
        Log-likelihood of each label up to a constant per pixel; higher is more probable. Log
        probabilities are logits too. -inf excludes a label. L = 1: one logit x for the
        foreground, treated as the two logits (0, x). float16 and views of other layouts, such as
        ``np.moveaxis(scores, -1, 0)`` of scores [H, W, L], need no copy in the native engine.
    image : ndarray [H, W, C] or [D, H, W, C], integer or floating point
        The image, up to 14 channels (13 in 3-D), in the units of ``params.theta_beta`` (0..255).
        None: no appearance kernel, so that labels are smoothed by position alone.
    params : CRFParams
        Bandwidths, weights and options. The defaults are the paper's, for a CRF trained with the
        network; to refine saved logits start with ``CRFParams(theta_alpha=30, theta_beta=5,
        w_bilateral=3)`` and evaluate a few images with ground truth.
    features : ndarray [N, d], integer or floating point, 1 <= d <= 16, optional
        N points without a grid, such as a point cloud, instead of the pixels of an image, already
        divided by their bandwidths. Their one kernel has the weight ``w_bilateral``. A mask is then
        [N], and the result [L, N], or with `labels` [N].
    kind : {"logits", "probabilities"}
        What `logits` holds. Probabilities lie in 0..1 and sum to 1 over the labels, up to the
        rounding of 8 bits (L = 1, and each map of a multilabel problem: those of the foreground);
        they are floating point, or uint8 or uint16, whose maximum represents 1.
        `unaries.logits_from_probabilities` converts them.
    compatibility : ndarray [L, L], optional
        Penalty of label l (row) next to label l' (column); default Potts, 1 - I.
    multilabel : bool
        Refine L maps that may overlap: regions inside one another, labels of which a pixel may
        have several, instances. Each map is the logit of its own foreground and gets a binary CRF,
        as ``logits[l : l + 1]`` alone would, with kernels that are built once. Weights in `params`
        are then one number, or one per map; a compatibility is rejected.
    iterations : int, at least 0
        Number of mean-field updates.
    mask : ndarray [H, W] or [D, H, W] of bool, optional
        Pixels where the mask is False are excluded and get the softmax of their logits. At these
        pixels logits and image may be NaN.
    spacing : sequence of one float per spatial axis, optional
        Pixel size along each axis of `logits`, in the unit of theta_alpha and theta_gamma.
    prune : float, 0 <= prune < 1 / L
        Save time by leaving labels out where they provably do not matter: no pixel loses more than
        `prune` of a label's marginal in an iteration, as `mean_field` explains. 0 is exact; 1e-3 is
        a good start.
    quantization : (scale, zero_point), optional
        Take logits of uint8, which stand for ``scale * (logits - zero_point)``, in float32.
    labels : bool
        Return the most probable label of each pixel instead of the marginals, which are then not
        written at all. Not with `multilabel`, where a pixel may have several labels.
    backend : str
        "auto", "cpu" or "numba"; `available_backends()` says which can run here.
    threads : int, optional
        Maximum number of threads; the result does not depend on it.
    return_info : bool
        Return `inference.info.Info` too: vertices, labels kept, time of each step.

    Returns
    -------
    ndarray, float32, shape of `logits`
        Marginals, which sum to 1 over the labels (L = 1, and each map of a multilabel problem:
        the marginal of the foreground). With `labels` the labels [H, W] or [D, H, W], in the
        smallest unsigned integer that holds L - 1 (L = 1: 1 for the foreground); of equally
        probable ones the lowest. With `return_info` a pair of them and the `Info`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype or range, or contains NaN or infinity.
    BackendUnavailableError
        `backend` cannot run here, or does not prune; the message says why.

    Notes
    -----
    Tensors on a CPU that need no gradient, xarray.DataArray and other array-likes are converted to
    NumPy arrays; the order of named axes and their coordinates are checked.

    [KK11] algorithm 1. The result is the softmax of `mean_field`, computed in the dtype of
    `logits`. Arguments are never modified.

    Examples
    --------
    >>> logits = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    >>> image = np.zeros((8, 9, 3), np.uint8)
    >>> q = refine(logits, image, CRFParams(theta_alpha=4, theta_beta=10))
    >>> q.shape, q.dtype.name, bool(np.allclose(q.sum(0), 1))
    ((3, 8, 9), 'float32', True)
    >>> refine(logits, image, labels=True).shape
    (8, 9)
    >>> points = np.random.default_rng(0).normal(size=(7, 3))
    >>> refine(logits[:, 0, :7], features=points).shape
    (3, 7)
    >>> refine(q, image, iterations=0, kind="probabilities").shape
    (3, 8, 9)
    """
    checks.flag("return_info", return_info)
    logits, image, mask = as_arrays(logits, image, mask)
    features = as_array("features", features)
    of_probabilities = unaries.holds_probabilities(kind)
    if of_probabilities:
        if quantization is not None:
            raise ValueError(
                "quantization is given but kind is 'probabilities', whose integers stand for 0..1; "
                "leave quantization out, or kind if the integers are logits"
            )
        checks.exchanged(logits, image, batched=False)
        logits = unaries.logits_from_probabilities(logits, multilabel=multilabel, mask=mask)
    q, info = infer(
        logits, image, params, features=features, kernel_weights=None, compatibility=compatibility,
        multilabel=multilabel, iterations=iterations, mask=mask, spacing=spacing, prune=prune,
        quantization=quantization, labels=labels, backend=backend, threads=threads,
        marginals=True, of_probabilities=of_probabilities, return_info=True,
    )  # fmt: skip
    q = q if labels else q.astype(np.float32, copy=False)
    return (q, info) if return_info else q
