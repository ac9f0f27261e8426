"""Label maps and marginals into files, each whole or not at all."""

from pathlib import Path
from typing import Literal

import numpy as np

from .._typing import Array
from .. import samples
from . import halves, nifti, pictures
from .._atomic import replaced
from .pairs import VOLUMES, extension


def write_labels(
    path: Path | str,
    labels: Array,
    *,
    palette: Array | None = None,
    like: Path | str | None = None,
) -> None:
    """Write a label map as its file name says.

    Parameters
    ----------
    path : path
        .png: palette indices, or 16-bit grey values where a label exceeds 255; .nii or .nii.gz;
        .npz (array "labels") or .npy.
    labels : ndarray [H, W] or [D, H, W] of integers
        At least 0; PNG holds 0..65535 and two axes.
    palette : uint8 ndarray [256, 3], optional
        Colours of a PNG; default Pascal VOC's.
    like : path, optional
        NIfTI file from which a volume takes affine, units and orientation; needed for NIfTI.

    Raises
    ------
    OSError
        The file cannot be written; whatever was there before is unchanged.
    ValueError
        The kind of file cannot hold these labels.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_labels(f"{folder}/a.png", np.array([[0, 300]]))
    ...     read_labels(f"{folder}/a.png").tolist()
    [[0, 300]]
    """
    path, kind = Path(path), extension(path)
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: labels must be whole numbers of at least 0")
    if kind == ".png":
        if labels.ndim != 2 or labels.max(initial=0) > 65535:
            raise ValueError(
                f"{path}: PNG holds labels 0..65535 in two axes, not {labels.max(initial=0)} in "
                f"{labels.ndim}; write .npz or .nii.gz"
            )
        with replaced(path) as partial:
            colours = samples.palette() if palette is None else palette
            pictures.write_label_png(partial, labels, colours)
    elif kind in VOLUMES:
        if labels.ndim != 3 or like is None:
            raise ValueError(f"{path}: NIfTI needs a volume and a NIfTI image to be like")
        with replaced(path) as partial:
            nifti.write_label_volume(partial, labels, Path(like))
    else:
        _write_array(path, "labels", labels)


def write_marginals(
    path: Path | str,
    q: Array,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    classes: Array | None = None,
) -> None:
    """Write marginals, not compressed: they hardly shrink, and it would take most of the time.

    Parameters
    ----------
    path : path
        .npz (array "marginals") or .npy.
    q : ndarray [L, H, W] or [L, D, H, W] of float32
    dtype : {"float16", "float32"}
        float16 is off by 0.05 % at most, and holds nothing below 6e-8.
    classes : ndarray [L] of integers, optional
        The label of each map where they are not 0..L-1; array "classes" of an .npz.

    Raises
    ------
    OSError
        The file cannot be written; whatever was there before is unchanged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_marginals(f"{folder}/a.npz", np.full((2, 4, 5), 0.5, np.float32))
    ...     np.load(f"{folder}/a.npz")["marginals"].dtype.name
    'float16'
    """
    more = {} if classes is None else {"classes": classes}
    q = q.astype(np.float32, copy=False)
    array = halves.narrowed(q) if dtype == "float16" else q
    _write_array(Path(path), "marginals", array, **more)


def _write_array(path: Path, name: str, array: Array, **more: Array) -> None:
    if extension(path) not in (".npz", ".npy") or (more and extension(path) == ".npy"):
        raise ValueError(f"{path}: {name} are written as .npz" + (" or .npy" if not more else ""))
    with replaced(path) as partial:
        if extension(path) == ".npz":
            np.savez(partial, allow_pickle=False, **{name: array, **more})
        else:
            _save(partial, np.ascontiguousarray(array))


def _save(path: Path, array: Array) -> None:
    """np.save, which does not say why it could not write."""
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)
