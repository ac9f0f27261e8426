"""Batches of images of several sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import checks


def collate_padded(
    samples: Sequence[Any], *, ignore_index: int = 255, fill: float = 0.0, multiple: int = 1
) -> Any:
    """Join images of several sizes into one batch, padded at the ends of their axes.

    For ``DataLoader(collate_fn=collate_padded)``. ``model(images, mask=mask)`` then gives each
    image the result that it has alone, as far as the backbone does: to the head, pixels outside of
    the mask do not exist. (With the default ``spatial="grid"`` up to the accuracy of the grid,
    which is aligned with the padded image; with "lattice" to 1e-6.)
    ``cross_entropy(refined, targets, ignore_index=255)`` excludes the padding.

    Parameters
    ----------
    samples : sequence of pairs (image [C, *S], target [*S]), or of mappings with these names
        Tensors. Targets are labels. An entry "mask" [*S] of bool of a mapping excludes pixels of
        its image too; other entries become lists.
    ignore_index : int
        Label of the padding in the targets, whose dtype can hold it.
    fill : float
        Value of the padding in the images: 0 is the mean colour of normalised images.
    multiple : int, at least 1
        The padded sizes are multiples of this, such as the stride of the backbone.

    Returns
    -------
    tuple (images [B, C, *S], targets [B, *S], mask [B, *S] of bool)
        The mask is True where there is an image. Mappings give a dict with "image", "target" and
        "mask".

    Raises
    ------
    TypeError, ValueError
        A sample is of another kind, an image and its target differ in size, images differ in
        their numbers of channels or axes, samples in their entries, or a dtype cannot hold the
        value of the padding.

    Examples
    --------
    >>> sizes = ((4, 6), (5, 3))
    >>> samples = [(torch.rand(3, *size), torch.ones(size).long()) for size in sizes]
    >>> images, targets, mask = collate_padded(samples)
    >>> images.shape, targets[0, 4, 0], mask.sum((1, 2))
    (torch.Size([2, 3, 5, 6]), tensor(255), tensor([24, 15]))
    """
    checks.count("multiple", multiple, 1)
    pairs = [_pair(sample) for sample in samples]
    if not pairs:
        raise ValueError("samples is empty; give at least one pair (image, target)")
    _check_entries(samples)
    first = pairs[0][0]
    for image, target in pairs:
        if image.dim() < 2 or image.shape[1:] != target.shape:
            raise ValueError(
                f"an image has shape {tuple(image.shape)} and its target {tuple(target.shape)}; "
                "they must be [C, *S] and [*S]"
            )
        if image.dim() != first.dim() or image.shape[0] != first.shape[0]:
            raise ValueError(
                f"images have shapes {tuple(first.shape)} and {tuple(image.shape)}; all images of "
                "a batch need as many channels and axes"
            )
        _check_padding("an image", image, "fill", fill)
        _check_padding("a target", target, "ignore_index", ignore_index)
    sizes = [max(lengths) for lengths in zip(*(t.shape for _, t in pairs), strict=True)]
    sizes = [-(-n // multiple) * multiple for n in sizes]
    images = torch.stack([_padded(image, sizes, fill) for image, _ in pairs])
    targets = torch.stack([_padded(target, sizes, ignore_index) for _, target in pairs])
    inside = [_inside(sample, target) for sample, (_, target) in zip(samples, pairs, strict=True)]
    mask = torch.stack([_padded(one, sizes, False) for one in inside])
    if not isinstance(samples[0], Mapping):
        return images, targets, mask
    others = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {**others, "image": images, "target": targets, "mask": mask}


def _inside(sample: Any, target: Tensor) -> Tensor:
    """Return the mask of a sample [*S]: its own, or True everywhere."""
    if not isinstance(sample, Mapping) or "mask" not in sample:
        return torch.ones_like(target, dtype=torch.bool)
    mask = sample["mask"]
    checks.array_kind("a mask", mask, batched=True)
    if mask.dtype != torch.bool or mask.shape != target.shape:
        raise ValueError(
            f"a mask has dtype {mask.dtype} and shape {tuple(mask.shape)}, and its target shape "
            f"{tuple(target.shape)}; a mask must be bool (such as mask > 0), in the target's shape"
        )
    return mask


def _check_entries(samples: Sequence[Any]) -> None:
    """Check that all samples are pairs, or all mappings of the same entries."""
    first = samples[0]
    names = set(first) if isinstance(first, Mapping) else None
    for sample in samples:
        found = set(sample) if isinstance(sample, Mapping) else None
        if found != names:
            raise ValueError(
                f"samples differ in their entries: {_entries(names)} and {_entries(found)}; all "
                "samples of a batch need the same"
            )


def _entries(names: set[Any] | None) -> str:
    return "a pair" if names is None else ", ".join(sorted(map(repr, names)))


def _check_padding(name: str, tensor: Tensor, option: str, value: Any) -> None:
    """Check that a dtype can hold the value of the padding."""
    dtype = tensor.dtype
    if dtype.is_floating_point or dtype.is_complex:
        return
    held = dtype != torch.bool and float(value).is_integer()
    if not held or not torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max:
        way_out = "target.long()" if option == "ignore_index" else "image.float()"
        raise ValueError(
            f"{name} has dtype {dtype}, which cannot hold {option} {value}; convert it ({way_out})"
        )


def _pair(sample: Any) -> tuple[Tensor, Tensor]:
    """Return the image and the target of a sample."""
    if isinstance(sample, Mapping) and {"image", "target"} <= set(sample):
        found = sample["image"], sample["target"]
    elif isinstance(sample, (tuple, list)) and len(sample) == 2:
        found = sample[0], sample[1]
    else:
        what = type(sample).__name__
        if isinstance(sample, Mapping):
            what += f" with {', '.join(map(repr, sample)) or 'no entries'}"
        raise TypeError(
            f"a sample is {what}; it must be a pair (image, target), or a mapping with \"image\" "
            "and \"target\""
        )
    for name, tensor in zip(("an image", "a target"), found, strict=True):
        checks.array_kind(name, tensor, batched=True)
    return found


def _padded(tensor: Tensor, sizes: Sequence[int], value: Any) -> Tensor:
    """Pad the last axes of a tensor at their ends to the given sizes."""
    missing = [n - have for n, have in zip(sizes, tensor.shape[-len(sizes):], strict=True)]
    return pad(tensor, [n for m in reversed(missing) for n in (0, m)], value=value)
