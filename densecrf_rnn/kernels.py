"""From images to feature rows: the Gaussian kernels of a dense CRF, in 2-D and 3-D.

A kernel is exp(-|f_i - f_j|^2 / 2) of features f that are already divided by their bandwidths.
Positions come first, channels after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._typing import Array
from . import checks
from .params import CRFParams, FeatureOrder


# A pixel whose mass n = K 1 is at most this gets the scale 0 instead of a power of 1 / n. With the
# self term n exceeds 0.1. Without it, n of an isolated pixel is the difference of two numbers near
# 1, so a smaller mass is mostly float32 rounding error.
EMPTY_MASS = 1e-2


@dataclass(frozen=True)
class Normalizer:
    """How a normalization scales a kernel K: diag(after) K diag(before), from the mass n = K 1.

    Parameters
    ----------
    scales_input, scales_output : bool
        Whether `before` (values before filtering) and `after` (filtered values) are scales.
    power : float
        The scales are n ** -power.
    """

    scales_input: bool
    scales_output: bool
    power: float = 1.0

    @property
    def needs_mass(self) -> bool:
        """False if K is used as it is."""
        return self.scales_input or self.scales_output

    def scales(self, mass: Any, xp: Any = np) -> tuple[Any, Any]:
        """Compute `before` and `after` from the mass; None stands for a scale of 1.

        Parameters
        ----------
        mass : array or tensor
            K 1, without the diagonal of K if the self term is removed.
        xp : module
            `numpy` or `torch`, whichever `mass` belongs to. The gradient is 0, not NaN, where the
            mass counts as 0.
        """
        present = mass > EMPTY_MASS
        scale = xp.reciprocal(xp.where(present, mass, 1.0))
        if self.power != 1.0:
            scale = scale**self.power
        scale = xp.where(present, scale, 0.0)
        return (scale if self.scales_input else None), (scale if self.scales_output else None)


_NORMALIZERS = {
    "none": Normalizer(False, False),
    "before": Normalizer(True, False),
    "after": Normalizer(False, True),
    "symmetric": Normalizer(True, True, 0.5),
}


def normalizer(normalization: str) -> Normalizer:
    """Return the normaliser of a normalization's name; raise ValueError if there is none."""
    checks.option("normalization", normalization, tuple(_NORMALIZERS))
    return _NORMALIZERS[normalization]


class Window(NamedTuple):
    """Which part of an image an array holds, where that is a tile of it.

    Kernels of a tile lie where those of the image do, so that tiles fit together (tiles.py).
    """

    origin: tuple[int, ...]  # the tile's first pixel along each axis
    whole: tuple[int, ...]  # size of the image


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel over positions, over the channels of a guide, or over both.

    Parameters
    ----------
    theta_position : float, optional
        Deviation in position: pixels, or units of `spacing`. Above 0. None: distance in the picture
        does not count.
    theta_guide : float, optional
        Deviation in intensity, in the guide's own units. Above 0. None: no guide is looked at.
    guide : str
        Name of the guide: "image", or one that the torch layer is given in `guides`.

    Raises
    ------
    TypeError, ValueError
        A deviation that is not a positive finite number, or none at all.

    Examples
    --------
    >>> Kernel(theta_position=30.0, theta_guide=0.5, guide="depth").guide
    'depth'
    """

    theta_position: float | None = None
    theta_guide: float | None = None
    guide: str = "image"

    def __post_init__(self) -> None:
        thetas = ("theta_position", "theta_guide")
        for name in thetas:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checks.positive_number(name, getattr(self, name)))
        if self.theta_position is None and self.theta_guide is None:
            raise ValueError(
                "theta_position and theta_guide are both None; a kernel needs one of them"
            )

    def features(self, positions: Sequence[Array], image: Array) -> Array:
        """Feature rows [N, D] from `positions` and an image [*S, C], in the dtype of positions.

        They come as a view of [D, N], which is how engines read them fastest.
        """
        size, dtype = image.shape[:-1], positions[0].dtype
        if self.theta_position is None:
            positions = ()
        channels = 0 if self.theta_guide is None else image.shape[-1]
        planes = np.empty((len(positions) + channels, *size), dtype)
        for plane, position in zip(planes, positions):  # the channels follow
            plane[...] = position / dtype.type(self.theta_position)
        for channel in range(channels):
            plane = planes[len(positions) + channel]
            plane[...] = image[..., channel]
            plane /= dtype.type(self.theta_guide)
        return planes.reshape(len(planes), -1).T


def Bilateral(theta_alpha: float, theta_beta: float, guide: str = "image") -> Kernel:
    """The appearance kernel k1 of [CRF-RNN]: near in position and alike in intensity."""
    return Kernel(theta_alpha, theta_beta, guide)


def Spatial(theta_gamma: float) -> Kernel:
    """The smoothness kernel k2 of [CRF-RNN]: near in position."""
    return Kernel(theta_gamma)


def Custom(theta_guide: float, guide: str) -> Kernel:
    """Alike in a guide, wherever in the picture: an embedding, say, that holds the position too."""
    return Kernel(None, theta_guide, guide)


def from_params(params: CRFParams) -> tuple[Kernel, ...]:
    """The kernels of a CRF, in the order of its weights: bilateral, spatial."""
    return (Bilateral(params.theta_alpha, params.theta_beta), Spatial(params.theta_gamma))


def positions(
    size: Sequence[int],
    order: FeatureOrder,
    spacing: Sequence[float],
    dtype: Any,
    origin: Sequence[int] | None = None,
) -> list[Array]:
    """Coordinates of the pixels, an array per axis.

    Parameters
    ----------
    size : (H, W) or (D, H, W)
    order : {"xy", "yx"}
        "xy": column first, then row (then depth); "yx": in the order of the axes.
    spacing : one float per axis of `size`
        Distance between neighbours along each axis.
    dtype : floating dtype of the result
    origin : one whole number per axis, optional
        Index of the first pixel along each axis; default 0.

    Returns
    -------
    list of ndarray
        Each broadcasts to `size`.

    Examples
    --------
    >>> x, y = positions((2, 3), "xy", (1.0, 1.0), np.float32)
    >>> x.tolist(), y.tolist()
    ([[0.0, 1.0, 2.0]], [[0.0], [1.0]])
    """
    first = (0,) * len(size) if origin is None else origin
    axes = [
        np.arange(start, start + n).astype(dtype) * dtype(s)
        for start, n, s in zip(first, size, spacing, strict=True)
    ]
    along = list(np.meshgrid(*axes, indexing="ij", sparse=True))
    return along[::-1] if order == "xy" else along
