"""Read and write logits, images, label maps and marginals; `formats` is the table of formats.

Volumes are [D, H, W]: depth, row, column; NIfTI files, which store x, y, z, are transposed when
they are read and written. Every error names the file. Packages other than NumPy are imported when
a file needs them.
"""

from .._atomic import remove_leftovers, replaced
from .alignment import aligned, axes_of, read_geometry
from .formats import PACKAGES
from .geometry import Geometry
from .intensities import NORMALIZE, normalized
from .label_maps import read_labels, read_mask, read_palette
from .label_values import LabelValues, read_label_colours
from .modalities import read_modalities
from .notes import FileNote
from .pairs import Match, Pairs, pair
from .paths import extension, stem
from .rasters import is_geotiff, refine_raster, write_raster
from .reading import read_array, read_image, read_logits, read_maps, read_spacing, read_valid
from .settings import Settings, read_settings, write_settings
from .sizes import allowing
from .writing import write_labels, write_marginals, write_saliency

__all__ = [
    "FileNote", "Geometry", "LabelValues", "Match", "NORMALIZE", "PACKAGES", "Pairs", "Settings",
    "aligned", "allowing", "axes_of", "extension", "is_geotiff", "normalized", "pair", "read_array",
    "read_geometry", "read_image", "read_label_colours", "read_labels", "read_logits", "read_maps",
    "read_mask", "read_modalities", "read_palette", "read_settings", "read_spacing", "read_valid",
    "refine_raster", "remove_leftovers", "replaced", "stem", "write_labels", "write_marginals",
    "write_raster", "write_saliency", "write_settings",
]  # fmt: skip
