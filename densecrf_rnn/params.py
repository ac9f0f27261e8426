"""The parameters of a dense CRF: bandwidths, kernel weights and options of the kernels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from . import checks

__all__ = ["CRFParams"]

Normalization = Literal["after", "before", "symmetric", "none"]
FeatureOrder = Literal["xy", "yx"]
SpatialFilter = Literal["grid", "lattice"]
Quality = Literal["standard", "symmetric", "filled"]
Weight = float | tuple[float, ...]

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
FEATURE_ORDERS: tuple[FeatureOrder, ...] = get_args(FeatureOrder)
SPATIAL_FILTERS: tuple[SpatialFilter, ...] = get_args(SpatialFilter)
QUALITIES: tuple[Quality, ...] = get_args(Quality)  # native engines number them in this order


@dataclass(frozen=True)
class CRFParams:
    """Bandwidths, kernel weights and options of a dense CRF; the defaults are those of CRF-RNN.

    Parameters
    ----------
    theta_alpha : float or sequence of one float per spatial axis
        Bandwidth of the appearance kernel in position, positive: in pixels (volumes: in units of
        `spacing`). Several are in the order of `spacing`: ([depth,] row, column).
    theta_beta : float or sequence of C floats
        Bandwidth of the appearance kernel in intensity, positive: in the image's own units, 0..255
        for 8-bit images. Several: one per channel, for channels of different units.
    theta_gamma : float or sequence of one float per spatial axis
        Bandwidth of the smoothness kernel in position, positive: in pixels (volumes: in units of
        `spacing`). Several are in the order of `spacing`.
    w_bilateral, w_spatial : float or sequence of L floats
        Weights of the appearance and the smoothness kernel: one for all labels, or one per label.
        Positive weights make similar pixels take the same label.
    normalization : {"after", "before", "symmetric", "none"}
        How the kernel matrix K is normalised by its row sums n = K 1: diag(1/n) K, K diag(1/n),
        diag(n^-1/2) K diag(n^-1/2), or K itself. CRF-RNN uses "after", pydensecrf "symmetric".
    self_term : bool
        Whether a pixel sends a message to itself: the diagonal (i = j) of K. The papers exclude
        it, released code includes it. False removes the diagonal, also from the row sums n.
    feature_order : {"xy", "yx"}
        Order of the position features: columns or rows first. The exact CRF does not depend on
        it. The lattice approximation does: about one label in a thousand changes.
    spatial : {"grid", "lattice"}
        How the smoothness kernel is filtered: on a regular grid, which is separable and nearly
        exact, or by a permutohedral lattice of two or three dimensions, as in other packages.
    quality : {"standard", "symmetric", "filled"}
        Accuracy of the permutohedral lattices, see `PermutohedralLattice`.

    Raises
    ------
    TypeError, ValueError
        A bandwidth is not a positive finite number, a weight is not finite, or an option has
        a value that is not listed above. (How many bandwidths there must be is known, and checked,
        when an image is given.)

    Notes
    -----
    [CRF-RNN] section 3; the defaults are those of its released code (160, 3, 3, weights 5, 3).

    Examples
    --------
    >>> params = CRFParams(theta_alpha=80, theta_beta=13)
    >>> params.theta_alpha, CRFParams.from_dict(params.to_dict()) == params
    (80.0, True)

    Channels of different units, such as intensity and metres:

    >>> CRFParams(theta_beta=(30, 0.06)).theta_beta
    (30.0, 0.06)
    """

    theta_alpha: float | Sequence[float] = 160.0
    theta_beta: float | Sequence[float] = 3.0
    theta_gamma: float | Sequence[float] = 3.0
    w_bilateral: float | Sequence[float] = 5.0
    w_spatial: float | Sequence[float] = 3.0
    normalization: Normalization = "after"
    self_term: bool = True
    feature_order: FeatureOrder = "xy"
    spatial: SpatialFilter = "grid"
    quality: Quality = "standard"

    def __post_init__(self) -> None:
        convert = {"theta": checks.bandwidth, "w": checks.weight}  # by the name's first word
        for name in (field.name for field in fields(self)):
            if check := convert.get(name.partition("_")[0]):
                object.__setattr__(self, name, check(name, getattr(self, name)))
        checks.option("normalization", self.normalization, NORMALIZATIONS)
        checks.flag("self_term", self.self_term)
        checks.option("feature_order", self.feature_order, FEATURE_ORDERS)
        checks.option("spatial", self.spatial, SPATIAL_FILTERS)
        checks.option("quality", self.quality, QUALITIES)

    def __str__(self) -> str:
        """Return a constructor call with the parameters that differ from the defaults."""
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return f"CRFParams({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters by name, as values that JSON can store."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CRFParams":
        """Make the parameters from the output of `to_dict`; missing ones get their defaults.

        Raises
        ------
        TypeError, ValueError
            A name is not a parameter, or its value is not valid.

        Examples
        --------
        >>> CRFParams.from_dict({"theta_alpha": 80, "w_spatial": [1, 2]}).w_spatial
        (1.0, 2.0)
        """
        names = [f.name for f in fields(cls)]
        unknown = set(values) - set(names)
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(map(repr, unknown)))}: unknown parameter; choose from "
                f"{', '.join(names)}"
            )
        return cls(**values)
