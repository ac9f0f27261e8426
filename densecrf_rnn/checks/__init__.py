"""Argument checks that the public functions share.

Each error message says what was passed, what is required and how to fix it.
"""

from .arrays import array_kind, float_dtype, image, logits, mask, refined, same_device
from .features import feature_rows, features, indexable, refuse_features, values
from .numbers import (
    count, flag, ignored, number, option, positive_number, spacing, threads, weight,
)  # fmt: skip
from .packages import package
from .parameters import (
    bandwidths, compatibility, coupling, kernel_weights, kernels, params, untied, weights_fit,
)  # fmt: skip
from .values import image_range, image_values, logits_values, parameter, probabilities

__all__ = [
    "array_kind", "bandwidths", "compatibility", "count", "coupling", "feature_rows", "features",
    "flag", "float_dtype", "ignored", "image", "image_range", "image_values", "indexable",
    "kernel_weights", "kernels", "logits", "logits_values", "mask", "number", "option", "package",
    "parameter", "params", "positive_number", "probabilities", "refined", "refuse_features",
    "same_device", "spacing", "threads", "untied", "values", "weight", "weights_fit",
]  # fmt: skip
