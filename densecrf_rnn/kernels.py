"""The Gaussian kernels of a dense CRF: features, names of their weights, normalisation.

A kernel is exp(-|f_i - f_j|^2 / 2) for features f that are already divided by their bandwidths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._typing import Array
from . import checks
from .params import CRFParams, FeatureOrder, SpatialFilter, Weight

__all__ = ["Bilateral", "Custom", "Kernel", "Spatial"]


# A pixel whose mass n = K 1 (its row sum of K) is at most this gets the scale 0 instead of a power
# of 1 / n. With the self term n exceeds 0.1. Without it, n of an isolated pixel is the difference
# of two numbers near 1, so a mass below this bound is mostly float32 rounding error.
EMPTY_MASS = 1e-2


@dataclass(frozen=True)
class Normalizer:
    """A normalisation of a kernel K: diag(after) K diag(before), with scales from the mass n = K 1.

    Parameters
    ----------
    scales_input : bool
        Whether values are multiplied by the scale `before` before they are filtered.
    scales_output : bool
        Whether filtered values are multiplied by the scale `after`.
    power : float
        The scales are n ** -power.
    """

    scales_input: bool
    scales_output: bool
    power: float = 1.0

    @property
    def needs_mass(self) -> bool:
        """Whether scales must be computed from the mass; False if K is not normalised."""
        return self.scales_input or self.scales_output

    def scales(self, mass: Any, xp: Any = np) -> tuple[Any, Any]:
        """Compute `before` and `after` from the mass; None stands for a scale of 1.

        Where the mass is at most `EMPTY_MASS`, the scales and their gradients are 0.

        Parameters
        ----------
        mass : array or tensor
            K 1, without the diagonal of K if the self term is removed.
        xp : module
            `numpy` or `torch`, whichever `mass` belongs to.
        """
        present = mass > EMPTY_MASS
        if self.power == 1.0:
            scale = xp.reciprocal(xp.where(present, mass, xp.inf))
        else:  # a power of 0 would have an infinite gradient
            scale = xp.reciprocal(xp.where(present, mass, 1.0)) ** self.power
            scale = xp.where(present, scale, 0.0)
        return (scale if self.scales_input else None), (scale if self.scales_output else None)


_NORMALIZERS = {
    "none": Normalizer(False, False),
    "before": Normalizer(True, False),
    "after": Normalizer(False, True),
    "symmetric": Normalizer(True, True, 0.5),
}


def normalizer(normalization: str) -> Normalizer:
    """Return the normaliser for a value of `CRFParams.normalization`; raise for any other name."""
    checks.option("normalization", normalization, tuple(_NORMALIZERS))
    return _NORMALIZERS[normalization]


class Window(NamedTuple):
    """The position of a tile in an image, whose feature coordinates and grids the tile uses."""

    origin: tuple[int, ...]  # index of the tile's first pixel along each axis
    whole: tuple[int, ...]  # size of the image


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel over positions, over the channels of a guide, or over both.

    Parameters
    ----------
    theta_position : float or sequence of floats, optional
        Bandwidth in position, positive: in pixels, or units of `spacing`; one for all axes, or one
        per axis in the order of `spacing`. None: the kernel does not depend on positions.
    theta_guide : float or sequence of floats, optional
        Bandwidth in the guide's values, positive, in the guide's own units; one for all channels,
        or one per channel. None: the kernel depends on positions only.
    guide : str
        Name of the guide: "image", or a key of the torch layer's argument `guides`.

    Raises
    ------
    TypeError, ValueError
        A bandwidth is not a positive finite number, or both are None.

    Examples
    --------
    >>> kernel = Kernel(theta_position=30.0, theta_guide=0.5, guide="depth")
    >>> kernel.bandwidths, kernel.along_axes(2)
    ((30.0, 0.5), (30.0, 30.0))
    >>> rows = kernel.features(list(np.mgrid[:8, :9].astype(float)), np.zeros((8, 9, 1)))
    >>> rows.shape  # 72 pixels, 2 positions and 1 channel
    (72, 3)
    """

    theta_position: float | Sequence[float] | None = None
    theta_guide: float | Sequence[float] | None = None
    guide: str = "image"

    def __post_init__(self) -> None:
        thetas = ("theta_position", "theta_guide")
        for name in thetas:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checks.bandwidth(name, getattr(self, name)))
        if self.theta_position is None and self.theta_guide is None:
            raise ValueError(
                "theta_position and theta_guide are both None; a kernel needs one of them"
            )

    @property
    def bandwidths(self) -> tuple[float, float]:
        """The bandwidths (position, guide), the first number if there are several; 1 for None."""
        position, guide = (
            1.0 if theta is None else leading(theta)
            for theta in (self.theta_position, self.theta_guide)
        )
        return position, guide

    def along_axes(self, axes: int) -> tuple[float, ...]:
        """Return `theta_position`, which is not None, as one number per spatial axis."""
        theta: Any = self.theta_position
        return theta if isinstance(theta, tuple) else (theta,) * axes

    def features(
        self, positions: Sequence[Array], image: Array, order: FeatureOrder = "xy"
    ) -> Array:
        """Compute feature rows [N, D] from `positions` and an image [*S, C].

        The dtype is that of the positions, which are in the feature order `order`. The result is a
        transposed view of an array [D, N], the memory layout that engines read fastest.
        """
        dtype = positions[0].dtype
        parts: list[tuple[Array, float]] = []
        if self.theta_position is not None:
            thetas = in_feature_order(list(self.along_axes(len(positions))), order)
            parts += zip(positions, thetas, strict=True)
        if (theta := self.theta_guide) is not None:
            channels = np.moveaxis(image, -1, 0)
            each: Any = theta if isinstance(theta, tuple) else (theta,) * len(channels)
            parts += zip(channels, each, strict=True)
        planes = np.empty((len(parts), *image.shape[:-1]), dtype)
        for plane, (values, theta) in zip(planes, parts, strict=True):
            np.divide(values, dtype.type(theta), out=plane, dtype=dtype, casting="unsafe")
        return planes.reshape(len(planes), -1).T


def Bilateral(
    theta_alpha: float | Sequence[float],
    theta_beta: float | Sequence[float],
    guide: str = "image",
) -> Kernel:
    """Make the appearance kernel k1 of [CRF-RNN], over positions and a guide's channels.

    Parameters
    ----------
    theta_alpha : float or sequence of floats
        Bandwidth in position, positive: `theta_position` of `Kernel`.
    theta_beta : float or sequence of floats
        Bandwidth in the guide's units, positive: `theta_guide` of `Kernel`.
    guide : str
        Name of the guide, as in `Kernel`.

    Returns
    -------
    Kernel

    Raises
    ------
    TypeError, ValueError
        As `Kernel`.

    Examples
    --------
    >>> Bilateral(30, 5).bandwidths
    (30.0, 5.0)
    >>> Bilateral((5, 30, 30), 0.1, guide="depth").guide
    'depth'
    """
    return Kernel(theta_alpha, theta_beta, guide)


def Spatial(theta_gamma: float | Sequence[float]) -> Kernel:
    """Make the smoothness kernel k2 of [CRF-RNN], over positions.

    Parameters
    ----------
    theta_gamma : float or sequence of floats
        Bandwidth in position, positive: `theta_position` of `Kernel`.

    Returns
    -------
    Kernel

    Raises
    ------
    TypeError, ValueError
        As `Kernel`.

    Examples
    --------
    >>> Spatial(3).theta_guide is None
    True
    """
    return Kernel(theta_gamma)


def Custom(theta_guide: float | Sequence[float], guide: str) -> Kernel:
    """Make a kernel over a guide alone, such as an embedding that includes the position.

    Parameters
    ----------
    theta_guide : float or sequence of floats
        Bandwidth in the guide's units, positive, as in `Kernel`.
    guide : str
        Name of the guide, as in `Kernel`.

    Returns
    -------
    Kernel

    Raises
    ------
    TypeError, ValueError
        As `Kernel`.

    Examples
    --------
    >>> Custom(1.0, "features").theta_position is None
    True
    """
    return Kernel(None, theta_guide, guide)


# For each kernel of a CRFParams, by the name of its weight: the function that makes the kernel, and
# the names of its bandwidths in CRFParams. Arguments called `kernel_weights` have the same order.
_OF_PARAMS: dict[str, tuple[Callable[..., Kernel], tuple[str, ...]]] = {
    "w_bilateral": (Bilateral, ("theta_alpha", "theta_beta")),
    "w_spatial": (Spatial, ("theta_gamma",)),
}


def from_params(params: CRFParams, with_image: bool = True) -> tuple[Kernel, ...]:
    """Return the kernels of a CRFParams, in the order of `weights`.

    Without an image they are those that depend on positions alone.
    """
    found = (
        make(*(getattr(params, name) for name in thetas)) for make, thetas in _OF_PARAMS.values()
    )
    return tuple(kernel for kernel in found if with_image or kernel.theta_guide is None)


def weights(params: CRFParams) -> dict[str, Weight]:
    """Return the weight of each kernel of `from_params`, by the weight's name in CRFParams."""
    return {name: getattr(params, name) for name in _OF_PARAMS}


def bandwidths_of(weight: str) -> tuple[str, ...]:
    """Return the names in CRFParams of the bandwidths of the kernel with this weight."""
    return _OF_PARAMS[weight][1]


def leading(theta: Any) -> float:
    """Return a bandwidth, or the first number of several: what is learned or tuned."""
    return float(theta[0] if isinstance(theta, tuple) else theta)


def with_leading(theta: Any, first: Any) -> Any:
    """Return `first` or, if `theta` holds several bandwidths, these scaled so that `first` leads.

    `first` is a number or a tensor.
    """
    if isinstance(theta, tuple):
        return tuple(first * (other / theta[0]) for other in theta)
    return first


def check_bandwidths(
    given: Sequence[Kernel], params: CRFParams, size: Sequence[int], channels: Mapping[str, int]
) -> None:
    """Check that kernels with several bandwidths have one per axis of `size` or per channel.

    `channels` holds the number of channels of each known guide. Messages name the kernels of
    `params` as it does.
    """
    if not any(isinstance(t, tuple) for k in given for t in (k.theta_position, k.theta_guide)):
        return
    axes = "(depth, row, column)" if len(size) == 3 else "(row, column)"
    thetas = [thetas for _, thetas in _OF_PARAMS.values()]
    names = dict(zip(from_params(params), thetas, strict=True))
    if not names.keys() >= set(given):
        of_kernel = ("theta_position", "theta_guide")
        names = {k: tuple(f"kernels[{i}].{n}" for n in of_kernel) for i, k in enumerate(given)}
    for kernel in given:
        own = names[kernel]
        if (theta := kernel.theta_position) is not None:
            checks.bandwidths_fit(
                own[0], theta, len(size), f"there are {len(size)} spatial axes {axes}"
            )
        if (theta := kernel.theta_guide) is not None and kernel.guide in channels:
            count = channels[kernel.guide]
            several = f"{count} channel{'s' * (count != 1)}"
            checks.bandwidths_fit(own[-1], theta, count, f"{kernel.guide} has {several}")


def is_on_grid(kernel: Kernel, spatial: SpatialFilter) -> bool:
    """Return whether a kernel is filtered on a regular grid when CRFParams has this `spatial`."""
    if spatial == "grid":
        return kernel.theta_guide is None
    if spatial == "lattice":
        return False
    raise ValueError(f"spatial is {spatial!r}; choose from 'grid', 'lattice'")


def positions(
    size: Sequence[int],
    order: FeatureOrder,
    spacing: Sequence[float],
    dtype: Any,
    origin: Sequence[int] | None = None,
) -> list[Array]:
    """Compute the coordinates of the pixels, one array per axis.

    Parameters
    ----------
    size : (H, W) or (D, H, W)
    order : {"xy", "yx"}
        "xy": column first, then row (then depth); "yx": in the order of the axes.
    spacing : one float per axis of `size`
        Distance between neighbours along each axis.
    dtype : NumPy scalar type
        Floating-point type of the result.
    origin : one integer per axis, optional
        Index of the first pixel along each axis; default 0.

    Returns
    -------
    list of ndarray
        Each array broadcasts to `size`.

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
    return in_feature_order(along, order)


def in_feature_order(axes: list[Any], order: FeatureOrder) -> list[Any]:
    """Reorder a list with one entry per image axis into the order of the position features."""
    if order == "xy":
        return axes[::-1]
    if order == "yx":
        return axes
    raise ValueError(f"feature_order is {order!r}; choose from 'xy', 'yx'")
