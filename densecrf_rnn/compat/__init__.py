"""Compatibility with other packages: weights of published CRF-RNN models, and `pydensecrf`."""

from .weights import Conversion, load_crfasrnn_caffe, load_crfasrnn_keras, load_crfasrnn_pytorch

__all__ = ["Conversion", "load_crfasrnn_caffe", "load_crfasrnn_keras", "load_crfasrnn_pytorch"]
