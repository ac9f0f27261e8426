"""Points without a grid, such as a point cloud: computed as an image of one row."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from .. import checks
from ..kernels import Custom, Kernel

# The guide that the features of points are, by the name that kernels give it.
GUIDE = "features"


def as_image(
    logits: Tensor,
    image: Tensor | None,
    features: Tensor,
    kernels: Sequence[Kernel] | None,
    guides: Mapping[str, Tensor] | None,
    mask: Tensor | None,
    spacing: Sequence[float] | None,
) -> tuple[Tensor, Sequence[Kernel], dict[str, Tensor], Tensor | None]:
    """Check points; return logits [B, L, 1, N], kernels, guides [B, C, 1, N], mask [B, 1, N].

    Default kernel: unit bandwidth in each of the features [B, N, d].
    """
    checks.points(logits, features, image, spacing, batched=True)
    found = {GUIDE: features.mT[:, :, None]}
    for name, guide in (guides or {}).items():
        checks.points_guide(name, guide, logits, GUIDE)
        found[name] = guide[:, :, None]
    if mask is not None:
        checks.mask(mask, (logits.shape[0], logits.shape[2]), batched=True)
        mask = mask[:, None]
    if kernels is None:
        kernels = (Custom(1.0, GUIDE),)
    checks.kernels_without_positions(kernels, GUIDE)
    return logits[:, :, None], kernels, found, mask
