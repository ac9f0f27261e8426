"""Write label maps and marginals to files, each file completely or not at all."""

from pathlib import Path
from typing import Literal

import numpy as np

from .._typing import Array
from . import halves
from .formats import function


def write_labels(
    path: Path | str, labels: Array, *, palette: Array | None = None, like: Path | str | None = None
) -> None:
    """Write a label map in the format of the file name.

    Parameters
    ----------
    path : path
        .png: palette indices, or 16-bit grey values if a label exceeds 255; .nii or .nii.gz;
        .npz (array "labels") or .npy.
    labels : ndarray [H, W] or [D, H, W] of integers
        Labels from 0; a PNG holds two axes and labels up to 65535.
    palette : uint8 ndarray [256, 3], optional
        Colours of a PNG; default Pascal VOC's.
    like : path, optional
        NIfTI file whose affine, units and orientation are copied; required for NIfTI.

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    ValueError
        The format cannot hold these labels.

    Examples
    --------
    >>> import tempfile
    >>> from densecrf_rnn.files import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_labels(f"{folder}/a.png", np.array([[0, 300]]))
    ...     read_labels(f"{folder}/a.png").tolist()
    [[0, 300]]
    """
    path = Path(path)
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: labels must be integers of at least 0")
    function(path, "write_labels")(path, labels, palette, None if like is None else Path(like))


def write_marginals(
    path: Path | str,
    q: Array,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    classes: Array | None = None,
) -> None:
    """Write marginals, uncompressed: compression would take most of the time and save little.

    Parameters
    ----------
    path : path
        .npz (array "marginals") or .npy.
    q : ndarray [L, H, W] or [L, D, H, W] of float32
    dtype : {"float16", "float32"}
        float16 rounds by at most 0.05 % (numbers above 6e-5), and numbers below 3e-8 to 0.
    classes : ndarray [L] of integers, optional
        The label of each map if they are not 0..L-1; array "classes" of an .npz.

    Raises
    ------
    OSError
        The file cannot be written; an existing file is unchanged.
    ValueError
        The format holds no marginals, or no `classes`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_marginals(f"{folder}/a.npz", np.full((2, 4, 5), 0.5, np.float32))
    ...     np.load(f"{folder}/a.npz")["marginals"].dtype.name
    'float16'
    """
    path, more = Path(path), {} if classes is None else {"classes": classes}
    q = q.astype(np.float32, copy=False)
    write = function(path, "write_marginals")
    write(path, marginals=halves.narrowed(q) if dtype == "float16" else q, **more)
