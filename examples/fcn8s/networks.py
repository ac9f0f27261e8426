"""FCN-32s, FCN-16s and FCN-8s on VGG-16 as published, and the same decoder on MobileNetV2.

All take RGB images of 0..255 and return one logit per pixel and label. Layers are called what they
are called in the published Caffe nets, so weights go in by name (weights.py).
"""

import math

import torch
from torch import nn
from torch.nn.functional import max_pool2d, pad, relu, relu6

STRIDES = (32, 16, 8)
# (layer, convolutions, outputs) of VGG-16; 2 x 2 max pooling follows each row.
VGG_BLOCKS = (("conv1", 2, 64), ("conv2", 2, 128), ("conv3", 3, 256), ("conv4", 3, 512),
              ("conv5", 3, 512))
# Mean that the published Caffe nets subtract, in their channel order BGR.
CAFFE_MEAN = (104.00699, 116.66877, 122.67892)
# Factors of pool3 and pool4 when all three streams are trained at once: they bring the scores to
# the scale of those of fc7 (the "at once" nets of the FCN authors).
AT_ONCE_SCALES = {"pool3": 1e-4, "pool4": 1e-2}


def bilinear_kernel(size: int) -> torch.Tensor:
    """Return the [size, size] kernel of a deconvolution that interpolates bilinearly."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    row = 1 - (torch.arange(size) - centre).abs() / factor
    return row[:, None] * row


def bilinear_deconvolution(labels: int, size: int, stride: int, groups=1) -> nn.ConvTranspose2d:
    """Return a fixed deconvolution that upsamples each label by `stride`."""
    layer = nn.ConvTranspose2d(labels, labels, size, stride, bias=False, groups=groups)
    with torch.no_grad():
        layer.weight.zero_()
        diagonal = range(labels) if groups == 1 else 0
        layer.weight[range(labels), diagonal] = bilinear_kernel(size)
    return layer.requires_grad_(False)


def score_layer(channels: int, labels: int) -> nn.Conv2d:
    """Return a 1 x 1 convolution initialised to 0, as in the published nets."""
    layer = nn.Conv2d(channels, labels, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def crop(maps: torch.Tensor, offset: int, size: torch.Size) -> torch.Tensor:
    """Crop `size` rows and columns, beginning at `offset`."""
    return maps[..., offset : offset + size[0], offset : offset + size[1]]


def cut(maps: torch.Tensor, windows) -> torch.Tensor:
    """Cut a window (first row, first column, rows, columns) out of each image of [B, C, H, W]."""
    return torch.stack([x[:, r : r + h, c : c + w]
                        for x, (r, c, h, w) in zip(maps, windows, strict=True)])


def start_at_random(layers, gain: float = 2.0) -> None:
    """Weights by which a random network keeps the size of its signal (He et al.); for no `--init`.

    `gain` is 2 for layers behind which half of the signal is rectified away, and 1 for others.
    """
    for layer in layers:
        nn.init.normal_(layer.weight, std=(gain / layer.weight[0].numel()) ** 0.5)
        nn.init.zeros_(layer.bias)


class FCN(nn.Module):
    """The scores of a network's last layer, enlarged in steps; those of finer layers are added.

    A network derives from it and gives its `fuse`, which enlarges scores and adds those of a finer
    layer, and its `enlarge` to the size of the image.

    Parameters
    ----------
    labels : int
    channels : (int, int, int)
        Of the features at stride 8, 16 and 32: in VGG-16 pool3, pool4 and fc7.
    stride : {8, 16, 32}
        FCN-8s uses all three, FCN-16s two, FCN-32s the last.
    scales : dict, optional
        What the features at stride 8 ("pool3") and 16 ("pool4") are multiplied with.
    odd : bool
        Whether feature i of a layer of stride s is centred on pixel s * i, which asks for kernels
        of 2 s - 1 pixels; else they have 2 s, as published.
    """

    def __init__(self, labels, channels, stride=8, scales=None, odd=False):
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"stride is {stride}; there are FCN-32s, FCN-16s and FCN-8s")
        self.labels, self.stride, self.odd = labels, stride, odd
        self.scales = {"pool3": 1.0, "pool4": 1.0, **(scales or {})}

        def deconvolution(s):
            # The published layers mix labels by weights that are 0; half the time is theirs.
            return bilinear_deconvolution(labels, 2 * s - odd, s, groups=labels if odd else 1)

        self.score_fr = score_layer(channels[2], labels)
        if stride <= 16:
            self.upscore2 = deconvolution(2)
            self.score_pool4 = score_layer(channels[1], labels)
        if stride == 8:
            self.upscore_pool4 = deconvolution(2)
            self.score_pool3 = score_layer(channels[0], labels)
        # Called upscore (FCN-32s), upscore16 and upscore8 in the published nets.
        setattr(self, self.last_name, deconvolution(stride))

    @property
    def padding(self) -> torch.Tensor:
        """Return the RGB colour [3] that images are padded with: what is subtracted from them."""
        mean = getattr(self, "mean", torch.tensor(CAFFE_MEAN))
        return mean.detach().cpu().flatten().flip(0)

    @property
    def last_name(self) -> str:
        """Name of the last deconvolution."""
        return "upscore" if self.stride == 32 else f"upscore{self.stride}"

    def decode(self, pool3, pool4, fc7, size, windows=None):
        """Return logits [B, L, *size] for features at strides 8, 16 and 32, or windows of them."""
        score = self.score_fr(fc7)
        if self.stride <= 16:
            skip = self.score_pool4(pool4 * self.scales["pool4"])
            score = self.fuse(self.upscore2, score, skip, "pool4")
        if self.stride == 8:
            skip = self.score_pool3(pool3 * self.scales["pool3"])
            score = self.fuse(self.upscore_pool4, score, skip, "pool3")
        last = getattr(self, self.last_name)
        if windows is None:
            return self.enlarge(last, score, size)
        return self.enlarge_windows(last, score, size, windows)

    def enlarge_windows(self, layer, score, size, windows):
        """Return windows of the output of `enlarge`."""
        return cut(self.enlarge(layer, score, size), windows)


class VGG16FCN(FCN):
    """FCN-32s, FCN-16s or FCN-8s on VGG-16: voc-fcn8s and its kin, layer by layer.

    Parameters
    ----------
    labels : int
    stride : {8, 16, 32}
    at_once : bool
        Train all streams together from the start: `AT_ONCE_SCALES`.
    width : int
        What the numbers of channels are divided by; 1 is the published net.
    """

    OFFSETS = {"pool4": 5, "pool3": 9, 32: 19, 16: 27, 8: 31}

    def __init__(self, labels=21, stride=8, at_once=False, width=1):
        scales = AT_ONCE_SCALES if at_once else None
        fc = 4096 // width
        super().__init__(labels, (256 // width, 512 // width, fc), stride, scales)
        before = 3
        for block, count, outputs in VGG_BLOCKS:
            for i in range(count):
                # The 100 pixels make fc6, which reads 7 x 7 of stride 32, cover small images too.
                padding = 100 if (block, i) == ("conv1", 0) else 1
                layer = nn.Conv2d(before, outputs // width, 3, padding=padding)
                setattr(self, f"{block}_{i + 1}", layer)
                before = outputs // width
        self.fc6 = nn.Conv2d(before, fc, 7)
        self.fc7 = nn.Conv2d(fc, fc, 1)
        start_at_random(m for n, m in self.named_children() if n.startswith(("conv", "fc")))
        with torch.no_grad():
            self.conv1_1.weight /= 60  # about the standard deviation of pixels
        self.dropout = nn.Dropout(0.5)
        # Constants, which are not saved with the state.
        self.register_buffer("mean", torch.tensor(CAFFE_MEAN).view(3, 1, 1), persistent=False)

    def forward(self, image, windows=None):
        x = image.flip(1) - self.mean  # RGB to BGR
        pools = {}
        for block, count, _ in VGG_BLOCKS:
            for i in range(count):
                x = relu(getattr(self, f"{block}_{i + 1}")(x))
            x = max_pool2d(x, 2, ceil_mode=True)
            pools[block] = x
        x = self.dropout(relu(self.fc6(x)))
        x = self.dropout(relu(self.fc7(x)))
        return self.decode(pools["conv3"], pools["conv4"], x, image.shape[2:], windows)

    def fuse(self, layer, score, skip, name):
        up = layer(score)
        return up + crop(skip, self.OFFSETS[name], up.shape[2:])

    def enlarge(self, layer, score, size):
        return crop(layer(score), self.OFFSETS[self.stride], size)


# MobileNetV2: (factor of expansion, outputs, blocks, stride of the first).
MOBILENET_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                    (6, 160, 3, 2), (6, 320, 1, 1))
LAST_FROZEN = 12  # the last block that `lower` computes; it has stride 16


class Residual(nn.Module):
    """An inverted residual block of MobileNetV2, its batch norms folded into the convolutions."""

    def __init__(self, before, factor, after, stride):
        super().__init__()
        inside = before * factor
        self.expand = nn.Conv2d(before, inside, 1) if factor > 1 else None
        self.dw = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside)
        self.project = nn.Conv2d(inside, after, 1)
        self.add = stride == 1 and before == after

    def forward(self, x):
        y = x if self.expand is None else relu6(self.expand(x))
        y = self.project(relu6(self.dw(y)))
        return x + y if self.add else y


class MobileNetV2FCN(FCN):
    """The decoder of FCN-8s on MobileNetV2, for machines on which VGG-16 cannot be trained.

    The three score layers read what VGG-16 gives them: rectified features of stride 8, 16 and 32.
    Here these are the expansions of blocks 6 and 13 and the last convolution. Blocks 0 to 12 stay
    as ImageNet left them, so that what they compute can be stored (`lower`); the rest, about fc6
    and fc7 of VGG-16, learns.

    Parameters
    ----------
    labels : int
    stride : {8, 16, 32}
    """

    def __init__(self, labels=21, stride=8):
        super().__init__(labels, (192, 576, 1280), stride, odd=True)
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        blocks, before = [], 32
        for factor, outputs, count, first in MOBILENET_BLOCKS:
            for i in range(count):
                blocks.append(Residual(before, factor, outputs, first if i == 0 else 1))
                before = outputs
        self.blocks = nn.ModuleList(blocks)
        self.conv_last = nn.Conv2d(320, 1280, 1)
        # Block 6 itself is frozen, so the features for pool3 are a copy of its expansion.
        self.skip3 = nn.Conv2d(32, 192, 1)
        self.dropout = nn.Dropout(0.1)
        projections = [block.project for block in self.blocks]
        start_at_random(projections, gain=1.0)
        start_at_random(m for n, m in self.named_modules() if isinstance(m, nn.Conv2d)
                        and not n.startswith("score") and m not in projections)
        # The score layers of VGG-16 start at 0, behind features that are trained along; these
        # features are 1/6 as many, and small.
        for name in ("score_fr", "score_pool4", "score_pool3"):
            if hasattr(self, name):
                nn.init.normal_(getattr(self, name).weight, std=0.01)
        for module in self.lowest():
            module.requires_grad_(False)

    def lowest(self):
        """Return the frozen layers."""
        return [self.stem, *self.blocks[: LAST_FROZEN + 1]]

    def lower(self, image):
        """Return the frozen layers' features of images: the outputs of blocks 5 and 12."""
        with torch.no_grad():
            x = relu6(self.stem((image - 128) / 128))
            for i, block in enumerate(self.blocks[: LAST_FROZEN + 1]):
                x = block(x)
                if i == 5:
                    fifth = x
        return fifth, x

    def forward(self, image, lower=None, windows=None):
        fifth, x = self.lower(image) if lower is None else lower
        pool3 = relu6(self.skip3(fifth))
        first = self.blocks[LAST_FROZEN + 1]
        pool4 = relu6(first.expand(x))
        x = first.project(relu6(first.dw(pool4)))
        for block in self.blocks[LAST_FROZEN + 2 :]:
            x = block(x)
        fc7 = self.dropout(relu6(self.conv_last(x)))
        return self.decode(pool3, pool4, fc7, image.shape[2:], windows)

    def fuse(self, layer, score, skip, name):
        return self.enlarge(layer, score, skip.shape[2:]) + skip

    def enlarge(self, layer, score, size):
        # The last row and column are repeated, for an image may reach beyond the last centre.
        up = layer(pad(score, (0, 1, 0, 1), mode="replicate"))
        return crop(up, layer.stride[0] - 1, size)

    def enlarge_windows(self, layer, score, size, windows):
        # Pixel y lies between features y // s and y // s + 1, so a window asks for few of them; a
        # whole enlarged picture, and zeros for what it gets no gradient for, would cost more than
        # the rest of the network.
        s = layer.stride[0]
        score = pad(score, (0, 1, 0, 1), mode="replicate")
        found = []
        for one, (row, column, rows, columns) in zip(score, windows, strict=True):
            up = layer(one[None, :, row // s : (row + rows - 1) // s + 2,
                           column // s : (column + columns - 1) // s + 2])
            top, left = s - 1 + row % s, s - 1 + column % s
            found.append(up[..., top : top + rows, left : left + columns])
        return torch.cat(found)


class FCNCRF(nn.Module):
    """A network, followed by the head if there is one.

    Parameters
    ----------
    fcn : FCN
    crf : CRFRNN or None
    as_published : bool
        Whether the head sees the image as the released CRF-RNN gives it: BGR minus a mean. Only
        its lattice depends on that: the Gaussians themselves do not.
    """

    def __init__(self, fcn, crf=None, as_published=False):
        super().__init__()
        self.fcn, self.crf, self.as_published = fcn, crf, as_published

    def forward(self, image, lower=None, windows=None):
        """Return logits [B, L, H, W], or those of a window of each image.

        Parameters
        ----------
        image : Tensor [B, 3, H, W], RGB, 0..255
        lower : features of `MobileNetV2FCN.lower`, optional
        windows : list of (first row, first column, rows, columns), optional
            The part of each image that the head works on, all of one size.
        """
        stored = () if lower is None else (lower,)
        logits = self.fcn(image, *stored, windows=windows)
        if self.crf is None:
            return logits
        return self.refine(logits, image if windows is None else cut(image, windows))

    def refine(self, logits, image):
        """Return what the head makes of logits."""
        if self.as_published:
            image = image.flip(1) - self.fcn.mean
        return self.crf(logits, image)


def make_fcn(backbone: str, labels: int, stride: int = 8, at_once: bool = False, width: int = 1):
    """Return the network that a configuration names: "vgg16" or "mobilenetv2"."""
    if backbone == "vgg16":
        return VGG16FCN(labels, stride, at_once, width)
    if backbone == "mobilenetv2":
        return MobileNetV2FCN(labels, stride)
    raise ValueError(f"backbone is {backbone!r}; there are 'vgg16' and 'mobilenetv2'")


def parameter_count(module: nn.Module) -> int:
    """Count the numbers that a module holds, including buffers."""
    return sum(math.prod(p.shape) for p in module.parameters())
