"""From images to feature rows: the Gaussian kernels of a dense CRF, in 2-D and 3-D.

A kernel is exp(-|f_i - f_j|^2 / 2) of features f that are already divided by their bandwidths.
Positions come first, channels after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .params import CRFParams, FeatureOrder

Array = np.ndarray[Any, Any]

# A normaliser n = K 1 below this counts as 0 and its pixel hears nothing. With the self term n is
# above 0.1. Without it n is the small difference of two numbers near 1 where a pixel has hardly a
# neighbour; dividing by less would let float32's rounding through.
EMPTY_MASS = 1e-2


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel over positions and, if `theta_guide` is given, over the image's channels.

    Parameters
    ----------
    theta_position : float
        Deviation in position: pixels, or units of `spacing`. Above 0.
    theta_guide : float, optional
        Deviation in intensity, in the image's own units. None: the kernel does not see the image.
    """

    theta_position: float
    theta_guide: float | None = None

    def features(self, positions: Array, image: Array) -> Array:
        """Feature rows [N, D] from positions [N, S] and an image [*S, C], in positions' dtype."""
        scaled = positions / positions.dtype.type(self.theta_position)
        if self.theta_guide is None:
            return scaled
        guide = image.reshape(len(positions), -1).astype(positions.dtype)
        return np.concatenate([scaled, guide / positions.dtype.type(self.theta_guide)], axis=1)


def Bilateral(theta_alpha: float, theta_beta: float) -> Kernel:
    """The appearance kernel k1 of [CRF-RNN]: near in position and alike in intensity."""
    return Kernel(theta_alpha, theta_beta)


def Spatial(theta_gamma: float) -> Kernel:
    """The smoothness kernel k2 of [CRF-RNN]: near in position."""
    return Kernel(theta_gamma)


def from_params(params: CRFParams) -> tuple[Kernel, ...]:
    """The kernels of a CRF, in the order of its weights: bilateral, spatial."""
    return (Bilateral(params.theta_alpha, params.theta_beta), Spatial(params.theta_gamma))


def positions(
    size: Sequence[int], order: FeatureOrder, spacing: Sequence[float], dtype: Any
) -> Array:
    """Coordinates of every pixel, rows in memory order.

    Parameters
    ----------
    size : (H, W) or (D, H, W)
    order : {"xy", "yx"}
        "xy": column first, then row (then depth); "yx": in the order of the axes.
    spacing : one float per axis of `size`
        Distance between neighbours along each axis.
    dtype : floating dtype of the result

    Returns
    -------
    ndarray [N, S]

    Examples
    --------
    >>> positions((1, 3), "xy", (1.0, 1.0), np.float32).tolist()
    [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
    """
    axes = [np.arange(n, dtype=dtype) * dtype(s) for n, s in zip(size, spacing, strict=True)]
    grids = list(np.meshgrid(*axes, indexing="ij"))
    if order == "xy":
        grids.reverse()
    return np.stack([grid.ravel() for grid in grids], axis=1)


def inverse_mass(mass: Array) -> Array:
    """1 / n, and 0 where n counts as 0."""
    return np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > EMPTY_MASS)
