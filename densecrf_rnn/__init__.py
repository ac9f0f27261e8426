"""A trainable CRF-RNN head for any segmentation network, and an offline dense-CRF refiner.

Importing the package imports NumPy alone; torch is loaded when `CRFRNN` is first asked for.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ._backends import BackendUnavailableError, available_backends
from .lattice import PermutohedralLattice
from .mean_field import mean_field
from .params import CRFParams
from .refine import refine

if TYPE_CHECKING:
    from .nn import CRFRNN

try:
    __version__ = version("densecrf-rnn")
except PackageNotFoundError:  # a source folder on sys.path that was never installed
    __version__ = "0+uninstalled"

__all__ = [
    "BackendUnavailableError",
    "CRFParams",
    "CRFRNN",
    "PermutohedralLattice",
    "available_backends",
    "mean_field",
    "refine",
]


def __getattr__(name: str) -> Any:
    if name == "CRFRNN":
        try:
            from .nn import CRFRNN
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(
                "CRFRNN needs torch, which is not installed; pip install 'densecrf-rnn[torch]' "
                "(refine and PermutohedralLattice work without it)"
            ) from error
        return CRFRNN
    raise AttributeError(f"module 'densecrf_rnn' has no attribute {name!r}")
