"""The argument errors that the public functions share, and nothing else.

Each message says what came, what is wanted and the way out. NumPy arrays and torch tensors are
both looked at here through what they share, so torch is not imported.
"""

import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from .._typing import Array


MAX_DIMS = 16
# The largest lattice coordinate that leaves its dtype enough digits to find the simplex (float32:
# steps of 1/16 below 2^20) and whose quotient fits 32 bits (float64).
_MAX_ELEVATED = {"float32": 2.0**20, "float64": 2.0**31}
_FLOATS = ("float32", "float64")


# --- numbers and options -------------------------------------------------------------------------


def number(name: str, value: Any) -> float:
    """A finite real number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {_kind(value)}; it must be a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not -math.inf < value < math.inf:  # what torch.compile can trace
        raise ValueError(f"{name} is {value}; it must be finite")
    return value


def positive_number(name: str, value: Any) -> float:
    """A finite number above 0: a bandwidth, a distance or a scale."""
    value = number(name, value)
    if value <= 0:
        what, way_out = "it", ""
        if name.startswith("theta"):
            what, way_out = "a bandwidth", " (to switch a kernel off, set its weight to 0)"
        raise ValueError(f"{name} is {value:g}; {what} must be above 0{way_out}")
    low, high = 1e-6, 1e9  # so that no feature under- or overflows float32
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:g}; it must lie in {low:g}..{high:g}")
    return value


def weight(name: str, value: Any) -> float | tuple[float, ...]:
    """A finite number, or a sequence of them as a tuple."""
    if hasattr(value, "tolist"):  # an array, or a tensor
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if len(value) == 0:
            raise ValueError(f"{name} is empty; give one weight, or one for each label")
        return tuple(number(f"{name}[{i}]", v) for i, v in enumerate(value))
    return number(name, value)


def option(name: str, value: Any, allowed: Sequence[str]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(map(repr, allowed))}")


def alone(name: str, value: bool, where: str) -> None:
    """An option that must be off where something else is at work."""
    if value:
        raise ValueError(f"{name} is True but {where}, at work here, takes one tensor; leave it")


def method(value: Any, backend: Any) -> None:
    """How kernels are filtered: a word, and a backend that has a say in it."""
    option("method", value, ("lattice", "exact"))
    if value == "exact" and backend != "auto":
        raise ValueError(
            f"backend is {backend!r} but method is 'exact', which runs on torch alone; leave "
            "backend at 'auto', or use method='lattice'"
        )


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {_kind(value)}; it must be True or False")


def count(name: str, value: Any, at_least: int, below_power: int = 31) -> int:
    """A whole number, below 2^below_power."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {_kind(value)}; it must be a whole number")
    if value < at_least:
        raise ValueError(f"{name} is {value}; it must be at least {at_least}")
    if value >= 2**below_power:
        raise ValueError(f"{name} is {value}; it must be below 2^{below_power}")
    return int(value)


def ignored(value: Any, labels: int) -> None:
    """The number of no label."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"ignore_index is {_kind(value)}; it must be a whole number that is no label, such as "
            "-1"
        )
    if 0 <= value < labels:
        raise ValueError(
            f"ignore_index is {value}, which is one of the {labels} labels; give another, such as "
            "-1"
        )


def threads(value: int | None, default: int) -> int:
    """A number of threads, or None for the default."""
    return default if value is None else count("threads", value, 1)


# --- arrays and tensors --------------------------------------------------------------------------


def logits(array: Any, *, batched: bool) -> None:
    """[L, *S], or with a batch axis [B, L, *S]; float32 or float64; -inf rules a label out."""
    layout = "[B, L, H, W] or [B, L, D, H, W]" if batched else "[L, H, W] or [L, D, H, W]"
    array_kind("logits", array, batched=batched)
    if len(array.shape) - batched not in (3, 4):
        way_out = ""
        if len(array.shape) - batched == 2:
            way_out = "; a binary map is " + ("logits[:, None]" if batched else "logits[None]")
        raise ValueError(f"logits has shape {_shape(array)}; it must be {layout}{way_out}")
    float_dtype("logits", array, batched=batched)
    if 0 in array.shape[batched:]:
        raise ValueError(
            f"logits has shape {_shape(array)}, without labels or without pixels; leave empty "
            "images out" + (" (an empty batch is allowed)" if batched else "")
        )


def refined(array: Any, logits: Any, *, batched: bool) -> None:
    """What an iteration made of logits that were looked at before: like them in all but values."""
    array_kind("refined", array, batched=batched)
    if tuple(array.shape) != tuple(logits.shape):
        raise ValueError(
            f"refined has shape {_shape(array)} but logits {_shape(logits)}; give what mean_field "
            "made of these logits"
        )
    if array.dtype != logits.dtype:
        raise TypeError(
            f"refined has dtype {_dtype(array)} but logits {_dtype(logits)}; give both the same"
        )


def logits_values(
    array: Any, *, batched: bool, name: str = "logits", advise: bool = True
) -> None:
    """No NaN, no +inf, and no pixel whose labels are all -inf; warn of probabilities."""
    if 0 in array.shape:
        return
    peak = getattr(array, "amax", array.max)(int(batched))  # over the labels; NaN wins
    if _finite(peak):
        if advise and name == "logits":
            probabilities(array, batched=batched)
        return
    if bool((peak != peak).any()):
        raise ValueError(_nan(name, int((array != array).sum())))
    if bool((peak == math.inf).any()):
        raise ValueError(
            f"{name} contains +infinity; to fix a label, set the others to -infinity instead"
        )
    if array.shape[int(batched)] == 1:
        return  # one logit x stands for the labels (0, x), of which 0 remains
    dead = int((peak == -math.inf).sum())
    raise ValueError(
        f"{name} is -infinity for every label at {dead} pixels; leave at least one label possible "
        "(0 everywhere means: no opinion)"
    )


def probabilities(array: Any, *, batched: bool) -> None:
    """Warn of logits within 0..1 that sum to 1 over the labels; most need a look at a corner."""
    axis = int(batched)
    if 0 in array.shape or array.shape[axis] == 1:
        return
    part = _corner(array, axis + 1)
    if not (float(part.min()) >= 0 and float(abs(part.sum(axis) - 1).max()) < 1e-3):
        return
    low, high = _range(getattr(array, "amax", array.max)(axis))  # of the likeliest label
    if 0 < low <= high <= 1:
        warnings.warn(
            "logits lie in 0..1 and sum to 1 over the labels, as probabilities do; pass their "
            "logarithm (np.log(p), with p a little above 0)",
            UserWarning,
            stacklevel=_callers_level(),
        )


def _corner(array: Any, first_axis: int) -> Any:
    """A corner of the axes from `first_axis` on, as a view."""
    axes = len(array.shape) - first_axis
    return array[(slice(None),) * first_axis + (slice(30),) * axes]


def image(array: Any, logits: Any, *, batched: bool, name: str = "image") -> None:
    """[*S, C], or [B, C, *S] with a batch axis; finite; the size of `logits`."""
    array_kind(name, array, batched=batched)
    size = tuple(logits.shape[1 + batched :])
    axes = "D, H, W" if len(size) == 3 else "H, W"
    layout = f"[B, C, {axes}]" if batched else f"[{axes}, C]"
    if len(array.shape) != len(size) + 1 + batched:
        way_out = ""
        if not batched and len(size) == 3 and tuple(array.shape[:2]) == size[1:]:
            way_out = "; a batch goes in one image at a time: logits[b]"
        elif len(array.shape) == len(size) + batched:
            one = "[:, None]" if batched else "[..., None]"
            way_out = f"; a one-channel image is {name}{one}"
        raise ValueError(f"{name} has shape {_shape(array)}; it must be {layout}{way_out}")
    found = tuple(array.shape[2:] if batched else array.shape[:-1])
    if found != size:
        raise ValueError(
            f"{name} is {_by(found)} but logits is {_by(size)} ({axes}); "
            + _size_hint(array, logits, batched)
        )
    if batched and array.shape[0] != logits.shape[0]:
        raise ValueError(
            f"{name} holds {array.shape[0]} images but logits {logits.shape[0]}; give one each"
        )
    channels = array.shape[1 if batched else -1]
    if not 1 <= channels <= MAX_DIMS - len(size):
        raise ValueError(
            f"{name} has {channels} channels; a kernel takes 1 to {MAX_DIMS - len(size)} beside "
            f"{len(size)} positions, so pick or combine channels"
        )
    dtype = _dtype(array)
    if not batched and not array.dtype.isnative:
        raise TypeError(
            f"{name} has dtype {dtype}, which is not this machine's byte order; "
            "image.astype(image.dtype.newbyteorder('='))"
        )
    if not (dtype.startswith(("int", "uint")) or dtype in (*_FLOATS, "float16", "bfloat16")):
        raise TypeError(f"{name} has dtype {dtype}; it must be integer or floating point")


def image_values(
    array: Any, theta_beta: float, name: str = "image", *, advise: bool = True
) -> None:
    """Finite; and warn when its range does not go with `theta_beta`."""
    if 0 in array.shape or not _is_float(array):
        return
    low, high = _range(array)
    if not (math.isfinite(low) and math.isfinite(high)):
        _refuse_non_finite(name, array)
    if max(-low, high) > 1e30:
        raise ValueError(
            f"{name} reaches {max(-low, high):g}; intensities must lie within 1e30, so rescale it"
        )
    if advise and name == "image":
        image_range(array, theta_beta)


def image_range(array: Any, theta_beta: float) -> None:
    """Warn of an image within 0..1 where `theta_beta` is not; a look at a corner if it is not."""
    if 0 in array.shape or not _is_float(array) or theta_beta <= 1:
        return
    for part in (_corner(array, 0), array):
        low, high = _range(part)
        if not (0 <= low and high <= 1):
            return
    if low < high:
        warnings.warn(
            f"image lies in 0..1 but theta_beta is {theta_beta:g}, so the appearance kernel sees "
            "no edges; pass image * 255, or divide theta_beta by 255",
            UserWarning,
            stacklevel=_callers_level(),
        )


def _is_float(array: Any) -> bool:
    return _dtype(array).startswith(("float", "bfloat"))


def _callers_level() -> int:
    """stacklevel of the first frame outside this package and torch, for our caller's warning."""
    inside = {__name__.partition(".")[0], "torch"}
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    return level


def features(array: Any) -> None:
    """[N, D], 1 <= D <= 16, float32 or float64; their values the engine looks at."""
    array_kind("features", array, batched=False)
    if len(array.shape) != 2:
        raise ValueError(f"features has shape {_shape(array)}; it must be [N, D], a row per point")
    dims = array.shape[1]
    if not 1 <= dims <= MAX_DIMS:
        raise ValueError(f"features has {dims} columns; a lattice takes 1 to {MAX_DIMS}")
    float_dtype("features", array, batched=False)
    feature_rows(array)


def refuse_features(*arrays: Any, name: str = "features") -> NoReturn:
    """Say what is the matter when an engine could not index feature rows, each [N, D].

    `name` is where NaN and infinity come from.
    """
    for array in arrays:
        if not np.isfinite(_reach(array)).all():
            _refuse_non_finite(name, array)
    array = max(arrays, key=lambda a: _elevated(_reach(a)))
    excess = _elevated(_reach(array)) / _MAX_ELEVATED[_dtype(array)]
    way_out = "use larger bandwidths (theta)"
    if _dtype(array) == "float32":
        way_out += " or float64 input"
    raise ValueError(
        f"features reach {_reach(array).max():g} bandwidths from the origin, {excess:.3g} times "
        f"what {_dtype(array)} can index; {way_out}"
    )


def indexable(array: Any) -> bool:
    """Whether feature rows [N, D] are finite and small enough that a lattice can be indexed."""
    reach = _reach(array)
    return bool(np.isfinite(reach).all()) and _elevated(reach) <= _MAX_ELEVATED[_dtype(array)]


def feature_rows(array: Any) -> None:
    """So few feature rows [N, D] that int32 can count their corners."""
    points, dims = array.shape
    if points * (dims + 1) >= 2**31:
        raise ValueError(
            f"features has {points} rows of {dims}; a lattice takes fewer than "
            f"{2**31 // (dims + 1)} such rows, so cut the input into tiles"
        )


def _reach(array: Any) -> Array:
    """The largest magnitude in each column, NaN if it holds one. [D] float64"""
    points, dims = array.shape
    if points == 0:
        return np.zeros(dims)
    # Column by column: NumPy reduces a long axis beside a short one ten times more slowly.
    columns = [array[:, d] for d in range(dims)]
    return np.array([max(-float(c.min()), float(c.max())) for c in columns])


def _elevated(reach: Array) -> float:
    """A bound on the lattice coordinates of features that reach so far."""
    dims = len(reach)
    i = np.arange(1, dims + 1)
    return float((reach * i * math.sqrt(2 / 3) * (dims + 1) / np.sqrt(i * (i + 1))).sum())


def values(array: Any, points: int, dtype: Any) -> None:
    """[N, C], with the lattice's points and dtype."""
    array_kind("values", array, batched=False)
    if len(array.shape) != 2 or array.shape[0] != points:
        raise ValueError(
            f"values has shape {_shape(array)}; it must be [N, C] with N = {points}, a row for "
            "each point of the lattice"
        )
    if array.dtype != dtype:
        raise TypeError(
            f"values has dtype {_dtype(array)} but the lattice was built from {dtype} features; "
            f"pass values.astype('{dtype}')"
        )
    if array.size and not _finite(array):
        _refuse_non_finite("values", array)


def compatibility(array: Any, labels: int) -> None:
    """[L, L], finite."""
    if tuple(array.shape) != (labels, labels):
        raise ValueError(
            f"compatibility has shape {_shape(array)}; it must be [{labels}, {labels}], the "
            "penalty of a label (row) beside another (column)"
        )
    parameter("compatibility", array)


def kernel_weights(array: Any, kernels: int, labels: int) -> None:
    """[M], [M, L] or [M, L, L], finite."""
    allowed = ((kernels,), (kernels, labels), (kernels, labels, labels))
    if tuple(array.shape) not in allowed:
        raise ValueError(
            f"kernel_weights has shape {_shape(array)}; it must be {_by(allowed[0])}, "
            f"{_by(allowed[1])} or {_by(allowed[2])}: one per kernel, per kernel and label, or a "
            "matrix per kernel"
        )
    parameter("kernel_weights", array)


def untied(name: str, array: Any, iterations: int) -> None:
    """A first axis for the iterations."""
    if not len(array.shape) or array.shape[0] != iterations:
        raise ValueError(
            f"{name} has shape {_shape(array)} but there are {iterations} iterations that are not "
            f"tied; give [{iterations}, ...], or tied=True"
        )


def bandwidths(array: Any, kernels: int) -> None:
    """[M, 2], finite and above 0."""
    if tuple(array.shape) != (kernels, 2):
        raise ValueError(
            f"bandwidths has shape {_shape(array)}; it must be [{kernels}, 2], the deviations "
            "(position, guide) of each kernel"
        )
    parameter("bandwidths", array)
    if not float(array.min()) > 0:
        raise ValueError(f"bandwidths holds {float(array.min()):g}; deviations must be above 0")


def kernels(given: Sequence[Any], kind: type[Any], guides: Any) -> None:
    """1 to 6 kernels, whose guides are there; `guides` None: they are not known yet."""
    if not 1 <= len(given) <= 6:
        raise ValueError(f"kernels holds {len(given)}; give 1 to 6")
    for kernel in given:
        if not isinstance(kernel, kind):
            raise TypeError(
                f"kernels holds {_kind(kernel)}; give kernels.Bilateral(...), Spatial(...) or "
                "Kernel(...)"
            )
        guide = None if kernel.theta_guide is None else kernel.guide
        if None not in (guide, guides) and guide not in guides:
            raise ValueError(
                f"a kernel looks at the guide {guide!r}, which is not given; pass "
                f"guides={{{guide!r}: tensor}}"
            )


def parameter(name: str, array: Any) -> None:
    """Finite real numbers."""
    dtype = _dtype(array)
    kind = getattr(array.dtype, "kind", dtype[0])  # NumPy: "f", "i", "u"; torch has its name only
    if kind not in "fiu" and not dtype.startswith("bfloat"):
        raise TypeError(f"{name} has dtype {dtype}; it must be integer or floating point")
    if not _finite(array):
        _refuse_non_finite(name, array)


def coupling(matrices: Any, points: int, largest: float) -> None:
    """Products of weights and compatibility [M, L, L] whose sums stay below `largest`."""
    kernels, labels = matrices.shape[:2]
    found = float(abs(matrices).max())
    limit = float(largest) / (4 * kernels * labels * max(points, 1))
    if not found <= limit:
        raise ValueError(
            f"a kernel weight times the compatibility is {found:g}, so messages could pass the "
            f"range of the logits' dtype; use weights whose products are below {limit:g}"
        )


def params(value: Any, kind: type) -> None:
    """A CRFParams."""
    if not isinstance(value, kind):
        raise TypeError(f"params is {_kind(value)}; it must be a CRFParams(theta_alpha=..., ...)")


def weights_fit(name: str, value: float | tuple[float, ...], labels: int) -> None:
    """A tuple of weights has one for each label."""
    if isinstance(value, tuple) and len(value) != labels:
        raise ValueError(
            f"params.{name} has {len(value)} weights but there are {labels} labels; give one "
            "weight, or one for each label"
        )


def mask(array: Any, size: tuple[int, ...], *, batched: bool = False) -> None:
    """[*S] of bool, or [B, *S]: True where the CRF acts."""
    array_kind("mask", array, batched=batched)
    if tuple(array.shape) != size:
        way_out = "give [B, *S], without labels" if batched else "make them equal"
        raise ValueError(f"mask is {_by(array.shape)} but logits is {_by(size)}; {way_out}")
    if _dtype(array) != "bool":
        raise TypeError(
            f"mask has dtype {_dtype(array)}; it must be bool, True where the CRF acts (such as "
            "mask > 0)"
        )


def spacing(value: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    """One positive number per spatial axis; None means 1 each."""
    if value is None:
        return (1.0,) * axes
    if hasattr(value, "tolist"):  # an array, or a tensor
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or len(value) != axes:
        raise ValueError(
            f"spacing is {value!r}; it must hold {axes} numbers, the pixel size along each axis "
            f"({'depth, ' if axes == 3 else ''}row, column)"
        )
    return tuple(positive_number(f"spacing[{i}]", v) for i, v in enumerate(value))


def array_kind(name: str, array: Any, *, batched: bool) -> None:
    """A NumPy array where NumPy is spoken, a tensor where torch is."""
    if batched and not hasattr(array, "requires_grad"):
        raise TypeError(f"{name} is {_kind(array)}; it must be a tensor (torch.as_tensor)")
    if not batched and not isinstance(array, np.ndarray):
        way_out = "x.detach().cpu().numpy()" if hasattr(array, "requires_grad") else "np.asarray"
        raise TypeError(f"{name} is {_kind(array)}; it must be a NumPy array ({way_out})")


def float_dtype(name: str, array: Any, *, batched: bool) -> None:
    """float32 or float64, in the machine's byte order."""
    native = batched or array.dtype.isnative
    if _dtype(array) not in _FLOATS or not native:
        cast = f"{name}.float()" if batched else f"{name}.astype(np.float32)"
        found = array.dtype if not native else _dtype(array)
        raise TypeError(f"{name} has dtype {found}; it must be float32 or float64 ({cast})")


def same_device(image: Any, logits: Any, name: str = "image") -> None:
    """Two tensors on one device."""
    if image.device != logits.device:
        raise ValueError(
            f"{name} is on {image.device} but logits on {logits.device}; move one "
            f"({name}.to({str(logits.device)!r}))"
        )


# --- grid CRFs -----------------------------------------------------------------------------------


def gibbs_logits(array: Any, *, batched: bool) -> None:
    """[L, H, W], or [B, L, H, W]; float32, in which labels are drawn; finite."""
    array_kind("logits", array, batched=batched)
    layout = "[B, L, H, W]" if batched else "[L, H, W]"
    if len(array.shape) != 3 + batched:
        raise ValueError(f"logits has shape {_shape(array)}; a grid CRF takes images, {layout}")
    if 0 in array.shape[batched:]:
        raise ValueError(f"logits has shape {_shape(array)}, without labels or without pixels")
    _float32("logits", array, batched)
    labels, pixels = array.shape[int(batched)], math.prod(array.shape[1 + batched :])
    if labels >= 2**16 or pixels >= 2**31:
        raise ValueError(
            f"logits has {labels} labels and {pixels} pixels; a grid CRF takes fewer than 2^16 and "
            "2^31, so cut the image into tiles"
        )
    if array.shape[0] and not _finite(array):
        _refuse_non_finite("logits", array)


def offsets(value: Any, size: tuple[int, int] | None = None) -> Array:
    """Translation vectors [C, 2], each once and not its opposite; within an image of `size`."""
    array = _even("offsets", value)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        raise ValueError(
            f"offsets has shape {_shape(array)}; it must be [C, 2], at least one translation "
            "vector (rows, columns)"
        )
    if array.dtype.kind not in "iu":
        raise TypeError(f"offsets has dtype {array.dtype}; it must be whole numbers of pixels")
    seen: dict[tuple[int, int], int] = {}
    for i, (down, right) in enumerate(array.tolist()):
        name = f"offsets[{i}] is ({down}, {right})"
        if (down, right) == (0, 0):
            raise ValueError(f"{name}, which joins a pixel to itself; leave it out")
        if max(abs(down), abs(right)) >= 2**15:
            raise ValueError(f"{name}; an offset must be below 2^15 pixels")
        if size is not None and (abs(down) >= size[0] or abs(right) >= size[1]):
            raise ValueError(
                f"{name} but the image is {_by(size)} (H, W), where it joins no two pixels; use "
                "shorter offsets or larger images"
            )
        if (down, right) in seen:
            raise ValueError(f"{name}, as offsets[{seen[down, right]}]; give each once")
        if (-down, -right) in seen:
            raise ValueError(
                f"{name}, the opposite of offsets[{seen[-down, -right]}]: the same edges, whose "
                "one table holds both directions; keep one of them"
            )
        seen[down, right] = i
    return array.astype(np.int32)


def tables(array: Any, classes: int, labels: int) -> None:
    """[C, L, L] float32, finite."""
    array_kind("tables", array, batched=False)
    if tuple(array.shape) != (classes, labels, labels):
        raise ValueError(
            f"tables has shape {_shape(array)}; it must be [{classes}, {labels}, {labels}], for "
            "each offset the score of a label (row) at a pixel and another (column) at the offset "
            "from it"
        )
    _float32("tables", array, False)
    if not _finite(array):
        _refuse_non_finite("tables", array)


def potentials(logits: Any, tables: Any) -> None:
    """Finite logits and tables whose sums stay finite too."""
    ends = [max(-low, high) for low, high in map(_range, (logits, tables))]
    if not ends[0] + 2 * tables.shape[0] * ends[1] < 1e30:
        raise ValueError(
            f"logits reach {ends[0]:g} and tables {ends[1]:g}; scores of a pixel must stay below "
            "1e30, so rescale them (to rule a label out, -1e4 will do)"
        )


def labelling(name: str, array: Any, size: tuple[int, ...], labels: int, taken: Any) -> None:
    """Integer labels 0..L-1 of the size of the logits, at least where the mask `taken` is True."""
    layout = "[B, H, W]" if len(size) == 3 else "[H, W]"
    array_kind(name, array, batched=len(size) == 3)
    if tuple(array.shape) != size:
        raise ValueError(
            f"{name} is {_by(array.shape)} but logits is {_by(size)} ({layout}); they must belong "
            "to one image"
        )
    dtype = _dtype(array)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"{name} has dtype {dtype}; labels must be integers")
    seen = array if taken is None else array[taken]
    if not math.prod(seen.shape):
        return
    low, high = int(seen.min()), int(seen.max())
    if low < 0 or high >= labels:
        bad = low if low < 0 else high
        raise ValueError(
            f"{name} holds the label {bad} but there are {labels}: 0 to {labels - 1}; to leave "
            "pixels out, use mask"
        )


def temperatures(value: Any, sweeps: int) -> Array:
    """One for all sweeps or one for each, at least 0, as inverse temperatures [S] float32."""
    given = _even("temperature", value)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"temperature is {_kind(value)}; it must be a number, or one for a sweep")
    if given.shape not in ((), (sweeps,)):
        raise ValueError(
            f"temperature has shape {_shape(given)}; it must be one number, or [{sweeps}], one for "
            "each sweep"
        )
    given = np.broadcast_to(given.astype(np.float64), sweeps)
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(
            "temperature holds a number below 0, NaN or infinity; it must be finite, 1 to sample "
            "and 0 to take the likeliest label"
        )
    with np.errstate(divide="ignore"):
        return np.where(given > 1e-30, 1 / given, np.inf).astype(np.float32)


def _even(name: str, value: Any) -> Array:
    """An array of nested sequences whose rows are of one length."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} holds rows of several lengths; make them one") from None


def _float32(name: str, array: Any, batched: bool) -> None:
    if _dtype(array) != "float32" or not (batched or array.dtype.isnative):
        cast = f"{name}.float()" if batched else f"{name}.astype(np.float32)"
        found = _dtype(array) if batched or array.dtype.isnative else array.dtype
        raise TypeError(f"{name} has dtype {found}; labels are drawn in float32 ({cast})")


# --- wording -------------------------------------------------------------------------------------


def _range(array: Any) -> tuple[float, float]:
    return float(array.min()), float(array.max())


def _finite(array: Any) -> bool:
    return all(map(math.isfinite, _range(array)))


def _refuse_non_finite(name: str, array: Any) -> NoReturn:
    bad = int((array != array).sum())
    if bad:
        raise ValueError(_nan(name, bad))
    raise ValueError(f"{name} contains infinity; every entry must be finite")


def _nan(name: str, bad: int) -> str:
    return (
        f"{name} contains NaN ({bad} entr{'y' if bad == 1 else 'ies'}); every entry must be a "
        "number, so look at what made it"
    )


def _size_hint(image: Any, logits: Any, batched: bool) -> str:
    """What may be the matter when image and logits differ in size."""
    shape, scores = tuple(image.shape), tuple(logits.shape)
    size = scores[1 + batched :]
    if batched:
        if shape[1:-1] == size:
            return "the channels come before the rows: image.movedim(-1, 1)"
        return "resize one to the other (torch.nn.functional.interpolate)"
    if shape[1:] == size:
        return "the channels come last: np.moveaxis(image, 0, -1)"
    if shape[:-1] == scores[:-1]:
        return "the labels come first: np.moveaxis(logits, -1, 0)"
    if shape[:-1] == size[::-1]:
        return "rows come before columns: swap the axes of one"
    if len(size) == 3 and shape[1:-1] == size[1:]:
        return "a batch goes in one image at a time: logits[b], image[b]"
    return "resize one to the other"


def _shape(array: Any) -> str:
    return "(" + ", ".join(map(str, array.shape)) + ("," if len(array.shape) == 1 else "") + ")"


def _by(size: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, size)) + "]" if len(size) == 1 else " x ".join(map(str, size))


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def _kind(value: Any) -> str:
    return f"{value!r}" if isinstance(value, (str, bool, type(None))) else type(value).__name__
