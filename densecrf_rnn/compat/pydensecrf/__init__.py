"""The interface of pydensecrf on this package's engine; scripts change one import line.

    import densecrf_rnn.compat.pydensecrf as dcrf                            # or .densecrf
    from densecrf_rnn.compat.pydensecrf.utils import unary_from_labels

docs/pydensecrf.md lists the differences.
"""

from . import densecrf, utils
from .densecrf import (
    CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL, NO_NORMALIZATION, NORMALIZE_AFTER, NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC, ConstUnary, DenseCRF, DenseCRF2D, KernelType, LogisticUnary,
    NormalizationType, Unary,
)  # fmt: skip

__all__ = [
    "CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL", "NORMALIZE_AFTER", "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC", "NO_NORMALIZATION", "ConstUnary", "DenseCRF", "DenseCRF2D",
    "KernelType", "LogisticUnary", "NormalizationType", "Unary", "densecrf", "utils",
]  # fmt: skip
