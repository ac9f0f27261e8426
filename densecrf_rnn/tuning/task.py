"""The definition of a search: its examples, the ranges of its parameters and its scores."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from .._typing import Array
from .. import checks, metrics
from ..inference.build import Lattices
from ..inference.mean_field import infer
from ..kernels import leading
from ..params import CRFParams
from ..postprocess import most_probable

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


def ranges_of(base: CRFParams) -> dict[str, tuple[float, float]]:
    """Return the default ranges of a search that starts from `base`.

    They are `RANGES`; but if `base` has several bandwidths, the range of the first is as many times
    smaller or larger than it as the range in `RANGES` is than the value in `START`, because the
    units of the first axis or channel may be any.

    Examples
    --------
    >>> ranges_of(CRFParams(theta_beta=(0.05, 30)))["theta_beta"]
    (0.01, 0.5)
    """
    found = dict(RANGES)
    for name, ends in RANGES.items():
        value, usual = getattr(base, name), leading(getattr(START, name))
        if isinstance(value, tuple) and name.startswith("theta"):
            low, high = (float(f"{end / usual * value[0]:.6g}") for end in ends)
            found[name] = (low, high)
    return found


class Example(Protocol):
    """An image with logits and true labels, such as `samples.Sample`.

    May also have a `mask` and a `spacing`, as in `refine`.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.zeros((4, 6), np.uint8)
    >>> image, logits = np.zeros((4, 6, 3), np.uint8), np.zeros((2, 4, 6), np.float32)
    >>> example: Example = Sample("one", image, logits, truth)
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
    """Return `mask` and `spacing` as keyword arguments of `refine`; None where there is none.

    Parameters
    ----------
    example : Example

    Returns
    -------
    dict

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> optional(SimpleNamespace(name="a volume", spacing=(5, 1, 1)))
    {'mask': None, 'spacing': (5, 1, 1)}
    """
    return {name: getattr(example, name, None) for name in ("mask", "spacing")}


@dataclass(frozen=True)
class Task:
    """Everything besides the examples that a score depends on.

    Parameters
    ----------
    base : CRFParams
        The first setting tried, exactly and whatever the ranges, so that nothing worse is found;
        and the values of all parameters that are not searched.
    ranges : mapping of parameter name to (low, high)
        Parameters to search, among those of `RANGES`. They are sampled on a logarithmic scale, so
        both ends must be positive. If `base` has several bandwidths, one per axis or channel, the
        range is that of the first, and the others keep their ratio to it. Default: `ranges_of`.
    iterations : int, at least 1
        Mean-field updates.
    score : callable
        Takes the sum of the confusion matrices of all images [L, L] and returns a number; higher
        is better. See `metrics`.
    ignore : int
        Label of the truth whose pixels are not scored.
    backend : str
        "auto", "cpu" or "numba"; `available_backends()` says which can run here.
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
    >>> task = Task(ranges={"theta_alpha": (10, 100)})
    >>> task.ranges, task.describe()["iterations"]
    ({'theta_alpha': (10.0, 100.0)}, 5)
    """

    base: CRFParams = START
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: RANGES)
    iterations: int = ITERATIONS
    score: Score = metrics.mean_iu
    ignore: int = 255
    backend: str = "auto"
    threads: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.params(self.base, CRFParams)
        checks.count("iterations", self.iterations, 1)
        if self.ranges is RANGES:
            object.__setattr__(self, "ranges", ranges_of(self.base))
        if not isinstance(self.ranges, Mapping):
            raise TypeError(
                f"ranges is {type(self.ranges).__name__}; it must be a mapping of parameters to "
                "(low, high)"
            )
        if not callable(self.score):
            raise TypeError(
                f"score is {self.score!r}; it must be a function of a confusion matrix, such as "
                "metrics.mean_iu"
            )
        object.__setattr__(self, "ignore", checks.count("ignore", self.ignore, -(2**63), 63))
        if not isinstance(self.about, Mapping):
            raise TypeError(f"about is {type(self.about).__name__}; it must be a mapping")
        if not self.ranges:
            raise ValueError("ranges is empty; name at least one parameter to search")
        found = {}
        for name, ends in self.ranges.items():
            checks.option("a name in ranges", name, tuple(RANGES))
            if not hasattr(ends, "__len__") or len(ends) != 2:
                raise ValueError(
                    f"ranges[{name!r}] is {ends!r}; it must be (low, high), or leave {name} out to "
                    "keep that of `base`"
                )
            low, high = (checks.positive_number(f"ranges[{name!r}]", end) for end in ends)
            if low > high:
                raise ValueError(
                    f"ranges[{name!r}] is {low:g} to {high:g}; give the lower end first"
                )
            found[name] = (low, high)
        object.__setattr__(self, "ranges", found)

    def describe(self) -> dict[str, Any]:
        """Return what scores depend on, as plain values; a study resumes only if they are equal."""
        score: Any = self.score
        extra = ""
        if isinstance(score, partial):
            score, extra = score.func, f" {score.keywords}"
        own = {
            "base": self.base.to_dict(),
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "iterations": self.iterations,
            "score": getattr(score, "__qualname__", repr(type(score))) + extra,
            "ignore": self.ignore,
        }
        if repeated := own.keys() & self.about.keys():
            raise ValueError(f"about has {', '.join(sorted(repeated))}, which a task has itself")
        return own | dict(self.about)


def confusions(
    examples: Sequence[Example],
    params: CRFParams | None,
    task: Task,
    compatibility: Array | None = None,
) -> Array:
    """Compute the confusion matrices of refined examples.

    Parameters
    ----------
    examples : sequence of Example
        Indexed once each, in order, so they may be read from disk one at a time.
    params : CRFParams, or None for the logits without a CRF
    task : Task
    compatibility : ndarray [L, L], optional
        As in `refine`.

    Returns
    -------
    ndarray [examples, L, L] of int64
        L is 2 for binary logits [1, H, W].

    Raises
    ------
    TypeError, ValueError
        An example that cannot be refined or scored; the message begins with its name.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.arange(24).reshape(4, 6) % 2
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), -np.eye(2, dtype="f")[:, truth], truth)
    >>> confusions([one], None, Task()).tolist()
    [[[0, 12], [12, 0]]]
    """
    return counted(examples, params, task, compatibility)


def counted(
    examples: Sequence[Example],
    params: CRFParams | None,
    task: Task,
    compatibility: Array | None = None,
    contents: "Contents | None" = None,
) -> Array:
    """Do what `confusions` does, and add each example to `contents` while it is in memory."""
    if len(examples) == 0:
        raise ValueError("examples is empty; give at least one image with logits and truth")
    found: list[Array] = []
    unscored = 0
    for index in range(len(examples)):
        one = Scorer(examples[index], task)
        found.append(one.confusion(params, compatibility))
        if contents is not None:
            one.add_to(contents)
        if len(found[-1]) != len(found[0]):
            raise ValueError(
                f"{one.name}: logits have {len(found[-1])} labels where those of "
                f"{examples[0].name} have {len(found[0])}"
            )
        unscored += one.pixels - int(found[-1].sum())
    counts = np.stack(found)
    only_zero = counts.any() and not counts[:, 1:].any()
    if params is None and only_zero and unscored and task.ignore == Task.ignore:
        warnings.warn(
            f"the truth holds only 0 and {task.ignore}, which is ignored, so label 0 everywhere "
            f"scores 100 %; if {task.ignore} is the foreground, pass truth // {task.ignore}",
            stacklevel=3,
        )
    return counts


class Contents:
    """Checksums of the examples of a search: other files may have the same names."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}

    def add(self, **parts: Any) -> None:
        """Add the parts of the next example: arrays, or None for those it lacks."""
        for name, part in parts.items():
            digest = self._sums.setdefault(name, hashlib.sha256())
            if part is None:
                digest.update(b"none;")
                continue
            array = np.ascontiguousarray(part)
            digest.update(f"{array.dtype.str} {np.shape(part)};".encode())
            digest.update(array.reshape(-1).view(np.uint8))  # bytes, which are not copied

    def facts(self) -> dict[str, str]:
        """Return a checksum per part, for the facts of a study."""
        return {
            f"contents of {name}": f"sha256 {digest.hexdigest()[:16]}"
            for name, digest in self._sums.items()
        }


class Scorer:
    """Scores settings on one example and caches its lattices between them."""

    def __init__(self, example: Example, task: Task) -> None:
        self._example, self._task = example, task
        self.name = example.name
        self.pixels = 0 if example.truth is None else example.truth.size
        self._logits, self._image = example.logits, example.image  # read from disk once
        self._lattices: Lattices = {}

    def add_to(self, contents: Contents) -> None:
        """Add all that a score depends on to the checksums."""
        contents.add(
            logits=self._logits, image=self._image, truth=self._example.truth,
            **optional(self._example),
        )  # fmt: skip

    def confusion(self, params: CRFParams | None, compatibility: Array | None = None) -> Array:
        """Return the confusion matrix [L, L] of a setting, or of the logits if it is None."""
        task, logits, truth = self._task, self._logits, self._example.truth
        try:
            if truth is None:
                raise ValueError("it has no true labels to score against")
            if params is not None:
                logits = infer(
                    logits, self._image, params, kernel_weights=None,
                    compatibility=compatibility, iterations=task.iterations,
                    backend=task.backend, threads=task.threads, marginals=True,
                    lattices=self._lattices, warn=False, **optional(self._example),
                )  # fmt: skip
            prediction = most_probable(logits, 0.0 if params is None else 0.5)
            return metrics.confusion_matrix(
                truth, prediction, max(2, len(logits)), task.ignore
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: {error}") from error
