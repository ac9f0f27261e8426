"""What a search works on: examples, the ranges of the parameters and how they are scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from .._typing import Array
from .. import checks, metrics
from ..params import CRFParams

Score = Callable[[Array], float]

# Default ranges, both ends included; bandwidths in pixels and in intensities of 0..255. All
# parameters are sampled on a logarithmic scale.
RANGES: Mapping[str, tuple[float, float]] = {
    "theta_alpha": (5.0, 200.0),
    "theta_beta": (1.0, 50.0),
    "theta_gamma": (1.0, 10.0),
    "w_bilateral": (0.3, 30.0),
    "w_spatial": (0.1, 30.0),
}
# The first setting tried: works well for logits of a modern network at image resolution.
START = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3)
ITERATIONS = 5


class Example(Protocol):
    """An image with logits and true labels, such as `samples.Sample`.

    May also have a `mask` and a `spacing`, as in `refine`.
    """

    @property
    def name(self) -> str:
        """Name of the example in error messages."""

    @property
    def logits(self) -> Array:
        """Logits [L, H, W] or [L, D, H, W], as in `refine`."""

    @property
    def image(self) -> Array:
        """Image [H, W, C] or [D, H, W, C], as in `refine`."""

    @property
    def truth(self) -> Array | None:
        """Label map, integers [H, W] or [D, H, W]."""


def optional(example: Example) -> dict[str, Any]:
    """Return the keyword arguments of `refine` that an example may lack: `mask` and `spacing`."""
    return {name: getattr(example, name, None) for name in ("mask", "spacing")}


@dataclass(frozen=True)
class Task:
    """Everything besides the examples that a score depends on.

    Parameters
    ----------
    base : CRFParams
        The first setting tried, and the values of all parameters that are not searched.
    ranges : mapping of parameter name to (low, high)
        Parameters to search, among those of `RANGES`. They are sampled on a logarithmic scale, so
        both ends must be positive.
    iterations : int, at least 1
        Mean-field updates.
    score : callable
        Takes the sum of the confusion matrices of all images [L, L] and returns a number; higher
        is better. See `metrics`.
    ignore : int
        Label of the truth whose pixels are not scored.
    backend : str
        "auto", or a name from `available_backends()`.
    threads : int, optional
        Maximum number of threads; does not affect results.
    about : mapping
        Further facts that scores depend on, such as how examples are read; JSON-serialisable.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range.

    Examples
    --------
    >>> Task(ranges={"theta_alpha": (10, 100)}).ranges
    {'theta_alpha': (10.0, 100.0)}
    """

    base: CRFParams = START
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(RANGES))
    iterations: int = ITERATIONS
    score: Score = metrics.mean_iu
    ignore: int = 255
    backend: str = "auto"
    threads: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.params(self.base, CRFParams)
        checks.count("iterations", self.iterations, 1)
        if not self.ranges:
            raise ValueError("ranges is empty; name at least one parameter to search")
        found = {}
        for name, ends in self.ranges.items():
            checks.option("a name in ranges", name, tuple(RANGES))
            if len(ends) != 2:
                raise ValueError(f"ranges[{name!r}] is {ends!r}; it must be (low, high)")
            low, high = (checks.positive_number(f"ranges[{name!r}]", end) for end in ends)
            if low > high:
                raise ValueError(
                    f"ranges[{name!r}] is {low:g} to {high:g}; give the lower end first"
                )
            found[name] = (low, high)
        object.__setattr__(self, "ranges", found)

    def describe(self) -> dict[str, Any]:
        """Return what scores depend on as plain values; studies resume only if it is equal."""
        score: Any = self.score
        extra = ""
        if isinstance(score, partial):
            score, extra = score.func, f" {score.keywords}"
        return {
            "base": self.base.to_dict(),
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "iterations": self.iterations,
            "score": getattr(score, "__qualname__", repr(type(score))) + extra,
            "ignore": self.ignore,
            **self.about,
        }
