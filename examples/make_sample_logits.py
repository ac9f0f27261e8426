"""Make the coarse class scores that accompany the sample images of ``densecrf_rnn``.

The script runs DeepLabv3 with a MobileNetV2 backbone (21 Pascal VOC classes, output stride 16;
``densecrf_rnn.nn.sample_network``) over photographs and writes, for each of them, the scores the
network gives on its 33 x 33 grid. The files ``densecrf_rnn/samples/*.logits.npz`` were made with
it, by ``--net`` with the weights in float32.

Each output file ``NAME.logits.npz`` holds ``q`` (uint8, class x row x column), ``scale`` and
``zero_point`` (float32 scalars); the scores are ``(q - zero_point) * scale``. They cover the
whole 513 x 513 input of the network, in whose top left corner the image lies, so that bilinear
interpolation to 513 x 513 with aligned corners, cut to the size of the image, gives the scores
of every pixel.

Usage::

    python examples/make_sample_logits.py --images IMAGE_OR_FOLDER [...] --out FOLDER

It needs PyTorch and scikit-image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from skimage import io

from densecrf_rnn.nn.sample_network import INPUT_SIZE, WEIGHTS, SampleNetwork

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def network_input(image: np.ndarray) -> torch.Tensor:
    """Scale an RGB image to [-1, 1] and pad it with zeros at the bottom and the right."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an 8-bit RGB image, got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    if max(height, width) > INPUT_SIZE:
        raise ValueError(f"the image is {height} x {width}; at most {INPUT_SIZE} pixels a side fit")
    x = torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE)
    x[0, :, :height, :width] = (torch.from_numpy(image.copy()).permute(2, 0, 1) - 128.0) / 128.0
    return x


def quantise(logits: np.ndarray) -> dict[str, np.ndarray | np.float32]:
    """Store scores in 8 bits, spread over the range between their minimum and maximum."""
    low, high = float(logits.min()), float(logits.max())
    scale = (high - low) / 255 or 1.0
    return {
        "q": np.round((logits - low) / scale).astype(np.uint8),
        "scale": np.float32(scale),
        "zero_point": np.float32(-low / scale),
    }


def image_files(arguments: list[Path]) -> list[Path]:
    """List the given files and the images in the given folders, without label maps."""
    found: list[Path] = []
    for path in arguments:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [
            p
            for p in inside
            if p == path
            or (p.suffix.lower() in IMAGE_SUFFIXES and not p.stem.endswith("labels"))
        ]
    return found


def sample_name(path: Path) -> str:
    """Return the file name without its extension and without ``.image`` or ``_img``."""
    return path.stem.removesuffix(".image").removesuffix("_img")


@torch.inference_mode()
def main() -> None:
    """Read the command line and write one file of scores for each image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", type=Path, default=WEIGHTS, help="weights of the network (.npz)")
    parser.add_argument(
        "--images", type=Path, required=True, nargs="+", help="images, or folders of images"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the scores")
    options = parser.parse_args()

    net = SampleNetwork(options.net)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in image_files(options.images):
        logits = net.grid(network_input(io.imread(path)))[0].numpy()
        target = options.out / f"{sample_name(path)}.logits.npz"
        np.savez_compressed(target, **quantise(logits))  # type: ignore[arg-type]
        print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
