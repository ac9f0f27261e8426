"""A trainable CRF-RNN head for any segmentation network, and an offline dense-CRF refiner.

Importing the package imports NumPy only; torch is imported when `CRFRNN` or `GibbsCRF` is first
accessed.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .checks import package
from .engines import BackendUnavailableError, available_backends
from .distributed import refine_dask
from .lattice import PermutohedralLattice
from .inference.mean_field import mean_field
from .params import CRFParams
from .inference.refine import refine
from .tiles import refine_tiled

if TYPE_CHECKING:
    # For type checkers; at run time __getattr__ imports them.
    from .nn import CRFRNN, GibbsCRF  # noqa: F401

try:
    __version__ = version("densecrf-rnn")
except PackageNotFoundError:  # a source folder on sys.path, not installed
    __version__ = "0+uninstalled"

__all__ = [
    "BackendUnavailableError", "CRFParams", "PermutohedralLattice", "available_backends",
    "mean_field", "refine", "refine_dask", "refine_tiled",
]  # fmt: skip

if find_spec("torch") is not None:  # `import *` must work without torch
    __all__ += ["CRFRNN", "GibbsCRF"]


def __getattr__(name: str) -> Any:
    if name not in ("CRFRNN", "GibbsCRF"):
        raise AttributeError(f"module 'densecrf_rnn' has no attribute {name!r}")
    note = " (refine and PermutohedralLattice work without it)"
    return getattr(package("densecrf_rnn.nn", name, "'densecrf-rnn[torch]'", note), name)
