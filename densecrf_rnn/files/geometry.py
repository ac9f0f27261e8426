"""The place of a grid of pixels in the world, and the comparison of two of them.

`alignment` reads the geometries of two files and turns the array of one to the grid of the other.
"""

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from .._typing import Array
from ..checks.wording import size as shown

Upsample = Literal["corners", "centers"]
Standard = Literal["NIfTI", "GeoTIFF", "OME-Zarr"]
STANDARDS: tuple[Standard, ...] = get_args(Standard)

# Two grids are one if no corner of the first lies farther from its place in the second, in pixels
# of the second. Headers store float32, whose rounding moves the corners of large volumes by some
# hundredths of a voxel; a tenth cannot make a voxel cover another one.
# Maps to be enlarged may lie half a pixel of theirs off: not every header of a coarse level says
# whether centres or edges of the corner pixels coincide.
TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the pixels of a file are; S are its spatial axes: row, column, or depth before them.

    Attributes
    ----------
    size : tuple of int
        Number of pixels along each spatial axis.
    affine : ndarray [S + 1, S + 1] of float64
        From the index of a pixel, in the order of the array's axes, to coordinates of its centre.
    standard : str
        "NIfTI", "GeoTIFF" or "OME-Zarr"; coordinates of different standards are not comparable.
    system : object, optional
        Unit or coordinate reference system of the coordinates; None if the file states none.
    placed : bool
        False if the file states the size of its pixels but not where they are, such as a NIfTI
        file whose sform and qform codes are 0.
    rounded : ndarray [S + 1, S + 1] of float64, optional
        Another statement of `affine` in the same file, which differs by rounding. Programs that
        read this one write it into their files.

    Examples
    --------
    >>> one = Geometry((40, 50), np.diag([0.5, 0.5, 1.0]), "GeoTIFF")
    >>> one.spacing, len(one.statements)
    ((0.5, 0.5), 1)
    """

    size: tuple[int, ...]
    affine: Array
    standard: Standard
    system: Any = None
    placed: bool = True
    rounded: Array | None = None

    @property
    def statements(self) -> list["Geometry"]:
        """This geometry, and the same with the affine `rounded`."""
        return [self] if self.rounded is None else [self, replace(self, affine=self.rounded)]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a pixel along each spatial axis."""
        return tuple(map(float, np.linalg.norm(self.affine[:-1, :-1], axis=0)))


@dataclass(frozen=True)
class Turn:
    """A change of the order and direction of spatial axes.

    Attributes
    ----------
    order : tuple of int
        For each axis of the result, the axis of the input.
    flipped : tuple of bool
        For each axis of the result, whether it runs against the axis of the input.
    """

    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.order == tuple(range(len(self.order))) and not any(self.flipped)

    def __call__(self, array: Array, channels: int = 0) -> Array:
        """Turn an array whose spatial axes are the last but `channels` axes."""
        if self.is_identity:
            return array
        first = array.ndim - channels - len(self.order)
        axes = [*range(first), *(first + axis for axis in self.order)]
        turned = array.transpose(*axes, *range(array.ndim - channels, array.ndim))
        backward = [first + axis for axis, flipped in enumerate(self.flipped) if flipped]
        return np.ascontiguousarray(np.flip(turned, tuple(backward)))


def turn_onto(
    own: Geometry | None,
    other: Geometry | None,
    names: tuple[Any, Any],
    upsample: Upsample | None = None,
    covers: Sequence[int] | None = None,
) -> Turn | None:
    """Return the turn that brings an array from the grid `own` to the grid `other`.

    Parameters
    ----------
    own, other : Geometry or None
    names : tuple of two
        The files of `own` and `other`, for the message.
    upsample, covers
        As in `aligned`.

    Returns
    -------
    Turn or None
        None if there is nothing to compare: one of the files does not say where its pixels are, or
        they follow different standards.

    Raises
    ------
    ValueError
        The grids are different.
    """
    if own is None or other is None or not (own.placed and other.placed):
        return None
    if own.standard != other.standard:
        return None
    if len(own.size) != len(other.size):
        raise _different(names, own, f"{shown(own.size)} and {shown(other.size)} pixels")
    if own.system is not None and other.system is not None and own.system != other.system:
        systems = [textwrap.shorten(str(one.system), 60) for one in (own, other)]
        raise _different(names, own, f"coordinates in {' and in '.join(systems)}")
    first = None
    for mine, yours in itertools.product(own.statements, other.statements):
        try:
            return _turn(mine, yours, names, upsample, covers)
        except ValueError as error:
            first = first or error
    assert first is not None
    raise first


def _turn(
    own: Geometry, other: Geometry, names: tuple[Any, Any], upsample: Upsample | None,
    covers: Sequence[int] | None,
) -> Turn:  # fmt: skip
    """Compare one affine of each file; see `turn_onto`."""
    axes = len(own.size)
    found = np.linalg.solve(other.affine, own.affine)  # from an index of `own` to one of `other`
    directions = found[:-1, :-1] * np.array(other.spacing)[:, None] / np.array(own.spacing)
    order = tuple(int(axis) for axis in np.abs(directions).argmax(1))
    if len(set(order)) < axes:  # at angles of about 45 degrees: no order fits
        order = tuple(range(axes))
    flipped = tuple(bool(found[i, order[i]] < 0) for i in range(axes))
    turned = tuple(own.size[axis] for axis in order)
    if upsample is None and turned != other.size:
        coarse = all(few <= many for few, many in zip(turned, other.size))
        raise _different(
            names, own, f"{shown(turned)} and {shown(other.size)} pixels",
            ", or enlarge coarse logits (upsample='centers' or upsample='corners')" * coarse,
        )  # fmt: skip
    if upsample is None or covers is None or len(covers) != axes:  # callers check `covers`
        covers = other.size
    wanted = np.zeros_like(found)
    wanted[-1, -1], slack = 1, np.empty(axes)
    for i, (few, many) in enumerate(zip(turned, covers, strict=True)):
        if upsample == "corners":
            step, start = ((many - 1) / (few - 1) if few > 1 else abs(found[i, order[i]])), 0.0
        else:
            step = many / few
            start = (step - 1) / 2
        slack[i] = TOLERANCE + (step / 2 if step > 1 else 0)
        wanted[i, order[i]] = -step if flipped[i] else step
        wanted[i, -1] = start + step * (few - 1) if flipped[i] else start
    away = corner_shift(found - wanted, own.size)
    if not (away <= slack).all():
        steps = np.abs(wanted[range(axes), list(order)])
        difference = _difference(own, other, found - wanted, directions, order, steps, upsample)
        raise _different(
            names, own,
            f"{difference}, which moves a corner by {away.max():.3g} pixels; up to "
            f"{slack.min():.3g} is taken for rounding",
        )  # fmt: skip
    return Turn(order, flipped)


def enlarged_spacing(
    spacing: Sequence[float], size: Sequence[int], covers: Sequence[int], upsample: Upsample
) -> tuple[float, ...]:
    """Return the size of pixels once those of this `spacing` are enlarged to a size `covers`.

    Examples
    --------
    >>> enlarged_spacing((8.0, 3.0), (2, 3), (4, 5), "centers")
    (4.0, 1.8)
    >>> enlarged_spacing((8.0, 3.0), (2, 3), (5, 5), "corners")
    (2.0, 1.5)
    """
    inner = int(upsample == "corners")  # the distance of the corners' centres is what stays
    return tuple(
        step * (few - inner) / (many - inner) if min(few, many) > 1 else step * few / many
        for step, few, many in zip(spacing, size, covers)
    )


def corner_shift(difference: Array, size: Sequence[int]) -> Array:
    """Return how far affines that differ by `difference` move a corner at most, along each axis."""
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in size), [1.0])))
    return np.abs(difference[:-1] @ corners.T).max(1)


def _difference(
    own: Geometry, other: Geometry, error: Array, directions: Array, order: tuple[int, ...],
    steps: Array, upsample: Upsample | None,
) -> str:  # fmt: skip
    """Describe how two grids of equal size differ: in pixel size, in direction or in origin."""
    longest = max(*own.size, *other.size)
    mine, yours = np.array(own.spacing)[list(order)], np.array(other.spacing)
    if (np.abs(mine / (yours * steps) - 1) * longest > TOLERANCE).any():
        listed = [" x ".join(f"{step:.6g}" for step in spacing) for spacing in (mine, yours)]
        coarse = "" if upsample is None else f", which upsample={upsample!r} does not explain"
        return f"pixels of {listed[0]} and of {listed[1]}{coarse}"
    cosines = np.abs(directions[range(len(order)), list(order)])
    angle = np.degrees(np.arccos(np.clip(cosines, 0, 1)))
    if (np.radians(angle) * longest > TOLERANCE).any():
        return f"axes at an angle of up to {angle.max():.3g} degrees"
    middle = np.append((np.array(own.size) - 1) / 2, 1)
    shift = [abs(step) if abs(step) > TOLERANCE else 0.0 for step in (error @ middle)[:-1]]
    if not any(shift):
        return "small differences in pixel size, direction and origin"
    return f"a shift of {' x '.join(map(_two_digits, shift))} pixels"


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):g}"


def _different(
    names: tuple[Any, Any], own: Geometry, difference: str, or_else: str = ""
) -> ValueError:
    what = "warp" if own.standard == "GeoTIFF" else "resample"
    return ValueError(
        f"{names[0]} and {names[1]} lie on different grids: {difference}; {what} one to the grid "
        f"of the other, or correct the header that is wrong{or_else}"
    )
