"""Checks of a CRF's parameters: kernels, their weights and bandwidths, and the compatibility."""

from collections.abc import Sequence
from typing import Any

from .. import _limits
from . import wording
from .values import parameter


def params(value: Any, kind: type) -> None:
    """Check that `value` is a CRFParams; the class is `kind`, as its module imports this one."""
    if not isinstance(value, kind):
        raise TypeError(
            f"params is {wording.kind(value)}; it must be a CRFParams(theta_alpha=..., ...)"
        )


def weights_fit(name: str, value: float | tuple[float, ...], labels: int) -> None:
    """Check that a tuple of weights has one entry per label."""
    if isinstance(value, tuple) and len(value) != labels:
        raise ValueError(
            f"params.{name} has {len(value)} weights but there are {labels} labels; give one "
            "weight, or one for each label"
        )


def kernels(given: Sequence[Any], kind: type[Any], guides: Any) -> None:
    """Check the number and type of kernels, and that their guides are among `guides`.

    `guides` is None where the guides are not known yet.
    """
    if not 1 <= len(given) <= _limits.MAX_KERNELS:
        raise ValueError(f"kernels holds {len(given)}; give 1 to {_limits.MAX_KERNELS}")
    for kernel in given:
        if not isinstance(kernel, kind):
            raise TypeError(
                f"kernels holds {wording.kind(kernel)}; give kernels.Bilateral(...), Spatial(...) "
                "or Kernel(...)"
            )
        guide = None if kernel.theta_guide is None else kernel.guide
        if None not in (guide, guides) and guide not in guides:
            raise ValueError(
                f"a kernel uses the guide {guide!r}, which is not given; pass "
                f"guides={{{guide!r}: tensor}}"
            )


def kernel_weights(array: Any, kernels: int, labels: int, *, values: bool = True) -> None:
    """Check that kernel weights are [M], [M, L] or [M, L, L] and, if `values`, finite."""
    allowed = ((kernels,), (kernels, labels), (kernels, labels, labels))
    if tuple(array.shape) not in allowed:
        raise wording.shape_error(
            "kernel_weights",
            array,
            f"{' or '.join(map(wording.size, allowed))}: one weight per kernel, one per kernel and "
            "label, or one matrix per kernel",
        )
    if values:
        parameter("kernel_weights", array)


def bandwidths(array: Any, kernels: int) -> None:
    """Check that bandwidths are finite and positive, of shape [M, 2]."""
    if tuple(array.shape) != (kernels, 2):
        wanted = f"[{kernels}, 2], the bandwidths (position, guide) of each kernel"
        raise wording.shape_error("bandwidths", array, wanted)
    parameter("bandwidths", array)
    if not float(array.min()) > 0:
        raise ValueError(f"bandwidths holds {float(array.min()):g}; they must be positive")


def compatibility(array: Any, labels: int, *, values: bool = True) -> None:
    """Check that a compatibility matrix has shape [L, L] and, if `values`, is finite."""
    if tuple(array.shape) != (labels, labels):
        wanted = f"[{labels}, {labels}], the penalty of each label (row) next to each (column)"
        raise wording.shape_error("compatibility", array, wanted)
    if values:
        parameter("compatibility", array)


def untied(name: str, array: Any, iterations: int) -> None:
    """Check that the first axis of an untied parameter has one entry per iteration."""
    if not len(array.shape) or array.shape[0] != iterations:
        raise ValueError(
            f"{name} has shape {wording.shape(array)} but there are {iterations} iterations "
            f"that are not tied; give [{iterations}, ...], or tied=True"
        )


def coupling(matrices: Any, points: int, largest: float) -> None:
    """Check that messages weighted by couplings mu W [M, L, L] cannot exceed `largest`."""
    kernels, labels = matrices.shape[:2]
    found = float(abs(matrices).max())
    limit = float(largest) / (4 * kernels * labels * max(points, 1))
    if not found <= limit:
        raise ValueError(
            f"a kernel weight times the compatibility is {found:g}, so messages could exceed "
            f"the range of the logits' dtype; use weights whose products are below {limit:g}"
        )
