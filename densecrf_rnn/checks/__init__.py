"""Argument checks that the public functions share.

Each error message says what was passed, what is required and how to fix it.
"""

from .arrays import array_kind, float_dtype, image, logits, mask, refined, same_device
from .features import feature_rows, features, indexable, refuse_features, values
from .gibbs import gibbs_logits, labelling, offsets, potentials, tables, temperatures
from .numbers import (
    alone, count, flag, ignored, method, number, option, positive_number, spacing, threads,
    weight,
)  # fmt: skip
from .parameters import (
    bandwidths, compatibility, coupling, kernel_weights, kernels, params, untied, weights_fit,
)  # fmt: skip
from .values import image_range, image_values, logits_values, parameter, probabilities

__all__ = [
    "alone", "array_kind", "bandwidths", "compatibility", "count", "coupling", "feature_rows",
    "features", "flag", "float_dtype", "gibbs_logits", "ignored", "image", "image_range",
    "image_values", "indexable", "kernel_weights", "kernels", "labelling", "logits",
    "logits_values", "mask", "method", "number", "offsets", "option", "parameter", "params",
    "positive_number", "potentials", "probabilities", "refined", "refuse_features",
    "same_device", "spacing", "tables", "temperatures", "threads", "untied", "values",
    "weight", "weights_fit",
]  # fmt: skip
