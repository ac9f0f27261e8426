"""The torch layers; the only folder that imports torch."""

from . import functional
from .gibbs.chains import Chains, ChainStore
from .crfrnn import CRFRNN
from .export import export_onnx
from .gibbs.crf import GibbsCRF
from .segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter

__all__ = [
    "CRFRNN", "IMAGENET_MEAN", "IMAGENET_STD", "ChainStore", "Chains", "GibbsCRF", "Segmenter",
    "export_onnx", "functional",
]  # fmt: skip
