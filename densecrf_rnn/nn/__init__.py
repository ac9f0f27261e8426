"""The torch layer: the only folder that imports torch."""

from . import functional
from .crfrnn import CRFRNN
from .export import export_onnx
from .segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter

__all__ = ["CRFRNN", "IMAGENET_MEAN", "IMAGENET_STD", "Segmenter", "export_onnx", "functional"]
