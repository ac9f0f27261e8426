"""The parameters of a dense CRF: bandwidths, kernel weights and the choices of the operator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from . import checks

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
    """Bandwidths, kernel weights and options of a dense CRF; the defaults are CRF-RNN's own.

    Parameters
    ----------
    theta_alpha : float
        Appearance kernel, deviation in position: pixels (volumes: units of `spacing`). Above 0.
    theta_beta : float
        Appearance kernel, deviation in intensity: the image's own units, 0..255 for 8-bit
        pictures. Above 0.
    theta_gamma : float
        Smoothness kernel, deviation in position: pixels (volumes: units of `spacing`). Above 0.
    w_bilateral, w_spatial : float or sequence of L floats
        Weights of the appearance and the smoothness kernel, one for all labels or one each.
        Positive weights make similar pixels agree.
    normalization : {"after", "before", "symmetric", "none"}
        With n = K 1: diag(1/n) K, K diag(1/n), diag(n^-1/2) K diag(n^-1/2), or K itself.
        CRF-RNN divides after filtering, pydensecrf on both sides.
    self_term : bool
        Whether a pixel sends a message to itself. The papers sum over the others only, all
        released code keeps it. False removes the diagonal of K, and from the normaliser too.
    feature_order : {"xy", "yx"}
        Order of the position features. The exact CRF does not depend on it; the lattice does, in
        about one label in a thousand.
    spatial : {"grid", "lattice"}
        How the smoothness kernel is filtered: on a regular grid, separably and nearly exactly; or
        by a lattice of two or three dimensions, as other packages do.
    quality : {"standard", "symmetric", "filled"}
        How hard the lattices try, see `PermutohedralLattice`.

    Raises
    ------
    TypeError, ValueError
        A bandwidth that is not a positive finite number, a weight that is not finite, or an
        option that is not one of those above.

    Notes
    -----
    [CRF-RNN] section 3 and its released code (160, 3, 3, weights 5 and 3).

    Examples
    --------
    >>> CRFParams(theta_alpha=80, theta_beta=13).theta_alpha
    80.0
    """

    theta_alpha: float = 160.0
    theta_beta: float = 3.0
    theta_gamma: float = 3.0
    w_bilateral: float | Sequence[float] = 5.0
    w_spatial: float | Sequence[float] = 3.0
    normalization: Normalization = "after"
    self_term: bool = True
    feature_order: FeatureOrder = "xy"
    spatial: SpatialFilter = "grid"
    quality: Quality = "standard"

    def __post_init__(self) -> None:
        for name in ("theta_alpha", "theta_beta", "theta_gamma"):
            object.__setattr__(self, name, checks.positive_number(name, getattr(self, name)))
        for name in ("w_bilateral", "w_spatial"):
            object.__setattr__(self, name, checks.weight(name, getattr(self, name)))
        checks.option("normalization", self.normalization, NORMALIZATIONS)
        checks.flag("self_term", self.self_term)
        checks.option("feature_order", self.feature_order, FEATURE_ORDERS)
        checks.option("spatial", self.spatial, SPATIAL_FILTERS)
        checks.option("quality", self.quality, QUALITIES)

    def __str__(self) -> str:
        """The parameters that differ from the defaults, as a constructor call."""
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return f"CRFParams({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"

    def to_dict(self) -> dict[str, Any]:
        """All parameters by name: numbers, strings, booleans and lists, so JSON can hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CRFParams":
        """The parameters that `to_dict` gave; those left out have their defaults.

        Raises
        ------
        TypeError, ValueError
            A name that is no parameter, or a value that it cannot have.

        Examples
        --------
        >>> CRFParams.from_dict({"theta_alpha": 80, "w_spatial": [1, 2]}).w_spatial
        (1.0, 2.0)
        """
        names = [f.name for f in fields(cls)]
        unknown = set(values) - set(names)
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(map(repr, unknown)))}: no such parameter; there are "
                f"{', '.join(names)}"
            )
        return cls(**values)
