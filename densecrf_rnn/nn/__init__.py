"""The torch layers."""

from . import functional, losses
from .batches import collate_padded
from .bilateral import BilateralFilter
from .gibbs.chains import Chains, ChainStore
from .crfrnn import CRFRNN
from .export import export_onnx
from .gibbs.crf import GibbsCRF
from .segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from .settings import read_settings

__all__ = [
    "BilateralFilter", "CRFRNN", "ChainStore", "Chains", "GibbsCRF", "IMAGENET_MEAN",
    "IMAGENET_STD", "Segmenter", "collate_padded", "export_onnx", "functional", "losses",
    "read_settings",
]  # fmt: skip
