"""Read and write logits, images, label maps and marginals; `formats` is the table of formats.

Volumes are [D, H, W]: depth, row, column; NIfTI files, which store x, y, z, are transposed when
they are read and written. Every error names the file. Packages other than NumPy are imported when
a file needs them.
"""

from .._atomic import remove_leftovers, replaced
from .formats import PACKAGES
from .pairs import Match, Pairs, pair
from .paths import extension, stem
from .rasters import refine_raster
from .reading import (
    read_array, read_image, read_labels, read_logits, read_mask, read_palette, read_spacing
)  # fmt: skip
from .settings import Settings, read_settings, write_settings
from .writing import write_labels, write_marginals

__all__ = [
    "PACKAGES", "Match", "Pairs", "Settings", "extension", "pair", "read_array", "read_image",
    "read_labels", "read_logits", "read_mask", "read_palette", "read_settings", "read_spacing",
    "refine_raster", "remove_leftovers", "replaced", "stem", "write_labels", "write_marginals",
    "write_settings",
]  # fmt: skip
