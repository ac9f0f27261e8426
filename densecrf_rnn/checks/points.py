"""Checks of points without a grid: logits [L, N] and features [N, d], in batches for tensors."""

from collections.abc import Sequence
from typing import Any

from .. import _limits
from . import arrays, wording
from .features import feature_rows


def points(logits: Any, features: Any, image: Any, spacing: Any, *, batched: bool) -> None:
    """Check shapes, dtypes and devices of points, and that nothing is given that needs a grid."""
    for name, value in (("image", image), ("spacing", spacing)):
        if value is not None:
            raise ValueError(
                f"{name} and features are both given, but points have features only; leave {name} "
                "out, or leave features out to refine an image"
            )
    batch = "B, " * batched
    arrays.array_kind("logits", logits, batched=batched)
    arrays.array_kind("features", features, batched=batched)
    if len(logits.shape) != 2 + batched:
        wanted = f"[{batch}L, N] where features are given; leave features out to refine an image"
        raise wording.shape_error("logits", logits, wanted)
    if len(features.shape) != 2 + batched:
        raise wording.shape_error("features", features, f"[{batch}N, d], one row per point")
    count, dims = features.shape[batched:]
    if count != logits.shape[-1]:
        way_out = "the rows of features are points, so transpose them" * (
            dims == logits.shape[-1]
        )
        raise ValueError(
            f"features holds {count} points but logits {logits.shape[-1]}; "
            + (way_out or "give one row per point")
        )
    if batched and features.shape[0] != logits.shape[0]:
        raise ValueError(
            f"features holds {features.shape[0]} sets of points but logits {logits.shape[0]}; give "
            "one each"
        )
    if not 1 <= dims <= _limits.MAX_DIMS:
        raise ValueError(f"features has {dims} columns; a lattice takes 1 to {_limits.MAX_DIMS}")
    arrays.real_dtype("features", features)
    feature_rows(count, dims)
    if batched:
        arrays.same_device(features, logits, "features")


def points_guide(name: str, guide: Any, logits: Any, reserved: str) -> None:
    """Check the name and the shape [B, C, N] of a guide of points with logits [B, L, N]."""
    if name == reserved:
        raise ValueError(
            f"guides has an entry {name!r}, the name of the argument features in kernels; give the "
            "guide another name"
        )
    arrays.array_kind(name, guide, batched=True)
    if len(guide.shape) != 3 or guide.shape[2] != logits.shape[2]:
        raise wording.shape_error(name, guide, f"[B, C, {logits.shape[2]}], as points have it")


def kernels_without_positions(kernels: Sequence[Any], guide: str) -> None:
    """Check that no kernel needs the positions that pixels have and points have not."""
    for kernel in kernels:
        if getattr(kernel, "theta_position", None) is not None:
            raise ValueError(
                "a kernel uses positions of pixels, which points do not have; put coordinates into "
                f"features and give kernels=[kernels.Custom(1.0, {guide!r})]"
            )
