"""Bring the intensities of an image to known units, for a theta_beta that suits any file."""

from typing import Literal, get_args

import numpy as np

from .._typing import Array
from .. import checks

Normalize = Literal["percentile", "zscore"]
NORMALIZE: tuple[Normalize, ...] = get_args(Normalize)
_PERCENTILES = (0.5, 99.5)


def normalized(
    image: Array, how: Normalize = "percentile", *, mask: Array | None = None
) -> Array:
    """Rescale each channel of an image by its own statistics.

    Parameters
    ----------
    image : ndarray [H, W, C] or [D, H, W, C], integer or floating point
    how : {"percentile", "zscore"}
        "percentile": percentiles 0.5 to 99.5 become 0 to 255, and values beyond them are clipped,
        so the usual theta_beta apply. "zscore": mean 0 and standard deviation 1; theta_beta must be
        given in standard deviations.
    mask : ndarray [H, W] or [D, H, W] of bool, optional
        Pixels where it is False do not count for the statistics.

    Returns
    -------
    ndarray, shape of `image`, float32
        NaN stays NaN; it does not count for the statistics, nor does infinity. A constant channel
        becomes 0.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.

    Examples
    --------
    >>> image = np.linspace(-1, 1, 201).reshape(1, 201, 1)
    >>> normalized(image).min(), normalized(image).max()
    (np.float32(0.0), np.float32(255.0))
    """
    checks.option("normalize", how, NORMALIZE)
    checks.array_kind("image", image, batched=False)
    if image.ndim not in (3, 4) or image.dtype.kind not in "fiu":
        raise ValueError(
            f"image has shape {image.shape} and dtype {image.dtype}; it must be [H, W, C] or "
            "[D, H, W, C], integer or floating point"
        )
    if mask is not None:
        checks.mask(mask, image.shape[:-1])
    out = np.empty(image.shape, np.float32)
    for channel in range(image.shape[-1]):
        values = image[..., channel].astype(np.float64)
        seen = values.ravel() if mask is None else values[mask]
        seen = seen[np.isfinite(seen)]
        low, high = _ends(seen, how) if len(seen) else (0.0, 0.0)
        scale = 1 / (high - low) if high > low else 0.0
        with np.errstate(invalid="ignore"):  # infinity times 0
            unit = (values - low) * scale
        out[..., channel] = np.clip(255 * unit, 0, 255) if how == "percentile" else unit
    return out


def _ends(seen: Array, how: Normalize) -> tuple[float, float]:
    """Return the values that become 0 and 1 (before "percentile" scales to 255)."""
    if how == "percentile":
        low, high = np.percentile(seen, _PERCENTILES)
        if low == high:  # most pixels are equal: a dark ground
            low, high = seen.min(), seen.max()
        return float(low), float(high)
    if how == "zscore":
        return float(seen.mean()), float(seen.mean() + seen.std())
    raise ValueError(f"normalize is {how!r}; choose from {NORMALIZE}")
