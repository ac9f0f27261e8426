"""What is refined: an image, an image without a guide, or points without a grid."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import checks, kernels
from .._typing import Array
from ..params import CRFParams, Weight


class Given(NamedTuple):
    """Arrays in the shape of an image, and the kernels between their pixels."""

    logits: Array  # [L, *S]; of points [L, 1, N]
    image: Array  # [*S, C]; of points their features [1, N, d]; without an image zeros
    mask: Array | None  # [*S]
    kernels: tuple[kernels.Kernel, ...]
    weights: dict[str, Weight]  # of each kernel, by its name in CRFParams
    uses_image: bool  # whether `image` is one, whose units can be judged


def as_image(
    logits: Any,
    image: Any,
    features: Any,
    mask: Any,
    spacing: Sequence[float] | None,
    params: CRFParams,
) -> Given:
    """Return the arguments of `mean_field` as those of an image; check those of points."""
    weights = kernels.weights(params)
    if features is not None:
        checks.points(logits, features, image, spacing, batched=False)
        checks.mask(mask, logits.shape[1:])
        row = None if mask is None else mask[None]
        own = (kernels.Custom(1.0, "image"),)
        first = {"w_bilateral": weights["w_bilateral"]}
        return Given(logits[:, None], features[None], row, own, first, False)
    if image is not None:
        return Given(logits, image, mask, kernels.from_params(params), weights, True)
    checks.array_kind("logits", logits, batched=False)
    nothing = np.broadcast_to(np.float32(0), (*logits.shape[1:], 1))
    of_position = {"w_spatial": weights["w_spatial"]}
    return Given(logits, nothing, mask, kernels.from_params(params, False), of_position, False)
