"""Files in and out: logits, images, label maps and marginals, one module per job.

Volumes are [D, H, W], depth, row, column; NIfTI, which stores x, y, z, is turned round on the way
in and out. Every error names the file. Packages beyond NumPy are imported when a file needs them.
"""

from .._atomic import remove_leftovers, replaced
from .arrays import read_array
from .pairs import Match, Pairs, extension, pair, stem
from .rasters import refine_raster
from .reading import read_image, read_labels, read_logits, read_mask, read_palette, read_spacing
from .settings import Settings, read_settings, write_settings
from .writing import write_labels, write_marginals

# Packages, beyond NumPy, that read or write files.
PACKAGES = ("pillow", "tifffile", "nibabel", "h5py", "zarr", "safetensors", "rasterio", "torch")

__all__ = [
    "PACKAGES",
    "Match",
    "Pairs",
    "Settings",
    "extension",
    "pair",
    "read_array",
    "read_image",
    "read_labels",
    "read_logits",
    "read_mask",
    "read_palette",
    "read_settings",
    "read_spacing",
    "refine_raster",
    "remove_leftovers",
    "replaced",
    "stem",
    "write_labels",
    "write_marginals",
    "write_settings",
]
