"""How many spatial axes logits and image have, where their files leave it open.

An array [1, N, H, W] is a batch of one with N labels, or one logit per voxel of a volume; logits of
a picture may be [L, 1, H, W], a volume of depth one, as nnU-Net saves them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from .._typing import Array
from .. import files
from ..files import formats

COLOURS = 4  # most channels of an array [H, W, C] that is surely no volume


def read_together(
    args: argparse.Namespace, path: Path, maps_of: Callable[[int | None], Array],
    image_of: Callable[[int, Array], Array],
) -> tuple[Array, Array]:  # fmt: skip
    """Read logits [L, *S] and an image [*S, C] of the same number of spatial axes, if they fit.

    Parameters
    ----------
    args : argparse.Namespace
    path : Path
        File of the image.
    maps_of : function of a number of spatial axes, or None
        Read the logits.
    image_of : function of a number of spatial axes, and the logits
        Read the image.
    """
    maps = maps_of(_known(args, path))
    image = image_of(maps.ndim - 1, maps)
    if maps.ndim == 4 and maps.shape[1] == 1 and image.shape[0] != 1:  # of a picture
        picture = image if image.ndim == 3 else image_of(2, maps)
        return (maps[:, 0], picture) if picture.ndim == 3 else (maps, image)
    if maps.ndim == 4 or args.spacing is not None:
        return maps, image
    # maps were read as [L, H, W]: perhaps they are [1, D, H, W]
    array = image.ndim == 3 and formats.kind(path) == "array"
    coarse = array and args.upsample is not None and image.shape[-1] > COLOURS
    volume = image.ndim == 4 or coarse or (array and image.shape == maps.shape)
    voxels = maps_of(3) if volume else maps
    if voxels.ndim == 3:
        return maps, image
    if coarse or (array and image.shape[:-1] == maps.shape[1:]):
        raise ValueError(
            f"{path}: image of shape {image.shape} and logits of shape {voxels.shape} may be a "
            f"volume with one logit per voxel, or a picture with {image.shape[-1]} channels and "
            f"{len(maps)} labels; say by --spacing 1,1,1 that it is a volume, or by --spacing 1,1 "
            "a picture"
        )
    return voxels, image if image.ndim == 4 else image_of(3, voxels)


def _known(args: argparse.Namespace, path: Path) -> int | None:
    """Return the number of spatial axes if the format of the image or --spacing says it."""
    stated = files.axes_of(path, key=args.image_key)
    if stated is not None:
        return stated
    if formats.kind(path) == "picture" and not formats.can(path, "scores"):
        return 2  # other formats of pictures have pages
    return None if args.spacing is None else len(args.spacing)
