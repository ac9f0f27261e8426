"""Argument checks that the public functions share.

Each error message says what was passed, what is required and how to fix it.
"""

from .arrays import (
    array_kind, exchange_error, exchanged, float_dtype, image, logits, maps, mask, refined,
    same_device, stored_logits, unmasked,
)  # fmt: skip
from .features import (
    DOUBLE, feature_rows, features, filtered, indexable, pixel_numbers, pixels, refuse_features,
    summable, values,
)  # fmt: skip
from .named_axes import named_axes
from .numbers import (
    bandwidth, count, flag, ignored, is_sequence, number, option, positive_number, spacing,
    threads, weight,
)  # fmt: skip
from .packages import name_for_pip, package
from .parameters import (
    bandwidths, bandwidths_fit, compatibility, coupling, coupling_fits, kernel_weights, kernels,
    no_compatibility, one_label, params, prune, untied, weights_fit,
)  # fmt: skip
from .points import kernels_without_positions, points, points_guide
from .scales import IntegerScale
from .units import image_units
from .values import (
    exchanged_values, image_values, in_unit_range, logits_values, parameter, probabilities,
    probability_dtype, probability_range, probability_sums, sums_to_one, warn,
)  # fmt: skip

__all__ = [
    "DOUBLE", "IntegerScale",
    "array_kind", "bandwidth", "bandwidths", "bandwidths_fit", "compatibility", "count", "coupling",
    "coupling_fits", "exchange_error", "exchanged", "exchanged_values", "feature_rows", "features",
    "filtered", "flag", "float_dtype", "ignored", "image", "image_units", "image_values",
    "in_unit_range", "indexable", "is_sequence", "kernel_weights", "kernels",
    "kernels_without_positions", "logits", "logits_values", "maps", "mask", "name_for_pip",
    "named_axes", "no_compatibility", "number", "one_label", "option", "package", "parameter",
    "params", "pixel_numbers", "pixels", "points", "points_guide", "positive_number",
    "probabilities", "probability_dtype", "probability_range", "probability_sums", "prune",
    "refined", "refuse_features", "same_device", "spacing", "stored_logits", "summable",
    "sums_to_one", "threads", "unmasked", "untied", "values", "warn", "weight", "weights_fit",
]  # fmt: skip
