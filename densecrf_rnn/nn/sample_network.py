"""The network that the samples' scores come from, for images of one's own.

DeepLabv3 with a MobileNetV2 backbone, 2.1 million weights, 21 Pascal VOC classes: small enough to
ship and good enough to try a CRF on. It is for demonstrations, not a model to build on.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import samples
from .._typing import Array

__all__ = ["SampleNetwork"]

WEIGHTS = Path(samples.__file__).parent / "deeplabv3_mnv2_voc.npz"
INPUT_SIZE = 513  # side of the square that the network sees
_BLOCKS = 17


class SampleNetwork:
    """DeepLabv3-MobileNetV2 for 21 Pascal VOC classes, for inference alone.

    Parameters
    ----------
    weights : path, optional
        An .npz file of convolutions into which batch normalisation is folded: NAME.weight
        [out, in, rows, columns], NAME.bias, and a string `layers` with a line for each, "name kind
        c_in c_out kernel stride dilation activation". Default: the weights in the package.

    Examples
    --------
    >>> from densecrf_rnn.nn.sample_network import SampleNetwork
    >>> network = SampleNetwork()
    >>> scores = network.scores(np.zeros((40, 60, 3), np.uint8))
    >>> network.grid(torch.zeros(1, 3, 513, 513)).shape
    torch.Size([1, 21, 33, 33])
    >>> scores.shape, scores.dtype.name, int(scores.argmax(0).max())
    ((21, 40, 60), 'float32', 0)
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        with np.load(weights) as arrays:
            lines = str(arrays["layers"]).splitlines()
            self._layers = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
            self._tensors = {
                name: torch.from_numpy(arrays[name].astype(np.float32))
                for name in arrays.files
                if name != "layers"
            }

    @torch.no_grad()
    def scores(self, image: Array) -> Array:
        """Compute the class scores of the pixels of a photograph.

        Parameters
        ----------
        image : ndarray [H, W, 3] of uint8
            RGB. A side longer than 513 pixels is reduced for the network, and its scores are
            enlarged to the image.

        Returns
        -------
        ndarray [21, H, W] of float32
            Logits of `samples.CLASS_NAMES`.

        Raises
        ------
        ValueError
            The image is not 8-bit RGB.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(
                f"image is {image.dtype} of shape {image.shape}; the sample network takes RGB in "
                "uint8 [H, W, 3]"
            )
        height, width = image.shape[:2]
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        if max(height, width) > INPUT_SIZE:
            by = INPUT_SIZE / max(height, width)
            size = [max(1, round(height * by)), max(1, round(width * by))]
            x = functional.interpolate(x, size, mode="bilinear", antialias=True)
        rows, columns = x.shape[2:]
        padding = (0, INPUT_SIZE - columns, 0, INPUT_SIZE - rows)
        grid = self.grid(functional.pad((x - 128) / 128, padding))
        square = (INPUT_SIZE, INPUT_SIZE)
        fine = functional.interpolate(grid, square, mode="bilinear", align_corners=True)
        fine = fine[..., :rows, :columns]
        if (rows, columns) != (height, width):
            fine = functional.interpolate(fine, (height, width), mode="bilinear")
        return np.ascontiguousarray(fine[0].numpy())

    @torch.no_grad()
    def grid(self, x: Tensor) -> Tensor:
        """Compute scores [N, 21, 33, 33] of inputs [N, 3, 513, 513] in -1..1, padded with 0."""
        x = self._convolve("stem", x)
        for block in range(_BLOCKS):
            y = x
            for part in ("expand", "dw", "project"):
                if f"b{block}.{part}" in self._layers:  # the first block has no expansion
                    y = self._convolve(f"b{block}.{part}", y)
            x = x + y if x.shape == y.shape else y
        local = self._convolve("aspp0", x)
        pooled = self._convolve("pool", x.mean(dim=(2, 3), keepdim=True)).expand_as(local)
        return self._convolve("logits", self._convolve("proj", torch.cat((pooled, local), dim=1)))

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply the convolution of that name and its activation."""
        kind, c_in, _, kernel, stride, dilation, activation = self._layers[name]
        x = functional.conv2d(
            x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"], stride=int(stride),
            padding=int(dilation) * (int(kernel) // 2), dilation=int(dilation),
            groups=int(c_in) if kind == "dw" else 1,
        )  # fmt: skip
        if activation == "relu6":
            return x.clamp(0, 6)
        return x.relu() if activation == "relu" else x
