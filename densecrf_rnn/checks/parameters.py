"""Checks of a CRF's parameters: kernels, their weights and bandwidths, and the compatibility."""

from collections.abc import Sequence
from typing import Any

from .. import _limits
from . import numbers, wording
from .values import parameter


def params(value: Any, kind: type) -> None:
    """Check that `value` is a CRFParams; the class is `kind`, as its module imports this one."""
    if not isinstance(value, kind):
        raise TypeError(
            f"params is {wording.kind(value)}; it must be a CRFParams(theta_alpha=..., ...)"
        )


def weights_fit(
    name: str, value: float | tuple[float, ...], labels: int, *, multilabel: bool = False
) -> None:
    """Check that a tuple of weights has one entry per label, or if `multilabel` per map."""
    if isinstance(value, tuple) and len(value) != labels:
        entry = "map" if multilabel else "label"
        raise ValueError(
            f"params.{name} has {len(value)} weights but there are {labels} {entry}s; give one "
            f"weight, or one for each {entry}"
        )


def no_compatibility(compatibility: Any) -> None:
    """Check that a multilabel CRF is given no compatibility."""
    if compatibility is not None:
        raise ValueError(
            "compatibility is given but multilabel is True, so each map is a binary CRF of its own "
            "with Potts; leave compatibility out, and scale a map's penalty by its weights"
        )


def bandwidths_fit(name: str, value: float | Sequence[float], wanted: int, where: str) -> None:
    """Check that a tuple of bandwidths has `wanted` entries; `where` says what has as many."""
    if isinstance(value, tuple) and len(value) != wanted:
        several = "s" * (len(value) > 1)
        raise ValueError(
            f"{name} has {len(value)} number{several} but {where}; give one number for all, or "
            f"{wanted}, one for each"
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
            own = {
                "image": "pass it, or kernels without it, such as kernels=[kernels.Spatial(3.0)]",
                "features": "pass features=[B, N, d], with logits [B, L, N]",
            }
            way_out = own.get(str(guide), f"pass guides={{{guide!r}: tensor}}")
            raise ValueError(f"a kernel uses the guide {guide!r}, which is not given; {way_out}")


def prune(value: Any, labels: int) -> float:
    """Check that `prune` lies in 0 <= prune < 1 / labels and return it as a float.

    `labels` is the number of labels of one mean field, at least 2.
    """
    value = numbers.number("prune", value)
    if not 0 <= value < 1 / labels:
        raise ValueError(
            f"prune is {value:g}; with {labels} labels it must lie in 0 <= prune < 1/{labels} "
            f"({1 / labels:.3g}); 0 is exact, and 1e-3 leaves out much and changes little"
        )
    return value


def one_label(labels: bool, multilabel: bool) -> None:
    """Check that a multilabel CRF is not asked for one label per pixel."""
    if labels and multilabel:
        raise ValueError(
            "labels is True but multilabel is True, so that a pixel may have several labels; leave "
            "labels at False and compare the marginals with a threshold: q > 0.5"
        )


def kernel_weights(
    array: Any, kernels: int, labels: int, *, values: bool = True, multilabel: bool = False
) -> None:
    """Check that kernel weights are [M], [M, L] or [M, L, L] and, if `values`, finite.

    If `multilabel`, L counts maps, and [M, L, L] is rejected.
    """
    allowed = [(kernels,), (kernels, labels), (kernels, labels, labels)]
    what = "one weight per kernel, one per kernel and label, or one matrix per kernel"
    if multilabel:
        allowed, what = allowed[:2], "one weight per kernel, or one per kernel and map"
    if tuple(array.shape) not in allowed:
        wanted = f"{' or '.join(map(wording.size, allowed))}: {what}"
        raise wording.shape_error("kernel_weights", array, wanted)
    if values:
        parameter("kernel_weights", array)


def bandwidths(array: Any, kernels: int, *, values: bool = True) -> None:
    """Check that bandwidths have shape [M, 2] and, if `values`, are finite and positive."""
    if tuple(array.shape) != (kernels, 2):
        wanted = f"[{kernels}, 2], the bandwidths (position, guide) of each kernel"
        raise wording.shape_error("bandwidths", array, wanted)
    if not values:
        return
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
    limit = coupling_limit(matrices, points, largest)
    found = float(abs(matrices).max())
    if not found <= limit:
        raise ValueError(
            f"a kernel weight times the compatibility is {found:g}, so messages could exceed "
            f"the range of the logits' dtype; use weights whose products are below {limit:g}"
        )


def coupling_fits(matrices: Any, points: int, largest: float) -> Any:
    """Return whether `coupling` accepts matrices, as a tensor that nobody has waited for."""
    return (abs(matrices) <= coupling_limit(matrices, points, largest)).all()


def coupling_limit(matrices: Any, points: int, largest: float) -> float:
    """Return the largest entry of couplings [M, L, L] whose messages cannot exceed `largest`."""
    kernels, labels = matrices.shape[:2]
    return float(largest) / (4 * kernels * labels * max(points, 1))
