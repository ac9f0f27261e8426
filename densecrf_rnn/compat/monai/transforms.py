"""MONAI transforms that refine the prediction for an image, for `monai.transforms.Compose`."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ... import checks
from ..._typing import Array
from ...inference.refine import refine
from ...params import CRFParams
from ...unaries import Kind, holds_probabilities

_transforms = checks.package("monai.transforms", "densecrf_rnn.compat.monai", "monai")
_utils = checks.package("monai.utils", "densecrf_rnn.compat.monai", "monai")
_Transform: Any = _transforms.Transform
_MapTransform: Any = _transforms.MapTransform


class CRF(_Transform):
    """Refine the scores of one image by a dense CRF.

    Parameters
    ----------
    params : CRFParams
        theta_beta is in the units of the image after the transforms before this one, such as 0..1
        after ScaleIntensity. theta_alpha and theta_gamma are in the units of `spacing`:
        millimetres for NIfTI and DICOM.
    kind : {"logits", "probabilities"}
        What the scores are; see `refine`.
    spacing : "affine", sequence of one float per spatial axis, or None
        Pixel size. "affine" computes it from the affine of the image or, if that is no MetaTensor,
        of the scores; 1 if neither is. None: 1, so that bandwidths are in pixels.
    **options
        Other arguments of `refine`: iterations, multilabel, compatibility, prune, backend, threads.

    Raises
    ------
    TypeError, ValueError
        An argument is not one of `refine`, or has the wrong type or range.

    Notes
    -----
    The marginals have the kind of the scores (ndarray, Tensor, MetaTensor with its metadata and
    applied operations), their device and dtype float32. Tensors on another device are copied to
    the CPU and back, as by MONAI's own post-processing; `CRFRNN` runs on the device. The transform
    is not recorded, so that the inverse of a chain skips it.

    Examples
    --------
    >>> from monai.transforms import AsDiscrete
    >>> scores, image = np.zeros((2, 8, 9), np.float32), np.zeros((1, 8, 9), np.float32)
    >>> marginals = CRF(CRFParams(theta_alpha=30, theta_beta=0.1))(scores, image)
    >>> AsDiscrete(argmax=True)(marginals).shape
    torch.Size([1, 8, 9])
    """

    def __init__(
        self,
        params: CRFParams = CRFParams(),
        *,
        kind: Kind = "logits",
        spacing: Literal["affine"] | Sequence[float] | None = "affine",
        **options: Any,
    ) -> None:
        checks.params(params, CRFParams)
        holds_probabilities(kind)
        if isinstance(spacing, str) and spacing != "affine":
            raise ValueError(
                f"spacing is {spacing!r}; give 'affine', one number per spatial axis, or None"
            )
        known = ("iterations", "multilabel", "compatibility", "prune", "backend", "threads")
        for name in options:
            checks.option("an option of CRF", name, known)
        self.params = params
        self.kind: Kind = kind
        self.spacing = spacing
        self.options = options

    def __call__(self, scores: Any, image: Any, mask: Any = None) -> Any:
        """Return the marginals of the refined scores.

        Parameters
        ----------
        scores : ndarray or Tensor [L, *S], S = (H, W) or (D, H, W)
        image : ndarray or Tensor [C, *S]
        mask : ndarray or Tensor [1, *S], optional
            Pixels where it is 0 are excluded.

        Returns
        -------
        Same kind as `scores`, [L, *S], float32

        Raises
        ------
        TypeError, ValueError
            `refine` rejects its arguments, or scores and image are on different grids.
        """
        logits, guide = _array(scores), _array(image)
        if logits.ndim not in (3, 4) or guide.ndim != logits.ndim:
            raise ValueError(
                f"scores has shape {logits.shape} and image {guide.shape}; they must be [L, *S] "
                "and [C, *S], channels first, as EnsureChannelFirst makes them, and no batches "
                "(Decollated)"
            )
        inside = None if mask is None else _array(mask)
        if inside is not None and inside.shape != (1, *logits.shape[1:]):
            raise ValueError(
                f"mask has shape {inside.shape} but scores {logits.shape}; give [1, *S] (of "
                "several channels the one that says where there are data: mask[:1])"
            )
        guide, inside = np.moveaxis(guide, 0, -1), None if inside is None else inside[0] > 0
        marginals = refine(
            logits, guide, self.params, kind=self.kind, mask=inside,
            spacing=self._spacing(scores, image, logits.ndim - 1), **self.options,
        )  # fmt: skip
        return _utils.convert_to_dst_type(marginals, scores, dtype=marginals.dtype)[0]

    def _spacing(self, scores: Any, image: Any, axes: int) -> Sequence[float] | None:
        """Return the pixel size of an image of some spatial axes."""
        if not isinstance(self.spacing, str):
            return self.spacing
        affines = [np.asarray(x.affine, float) for x in (image, scores) if hasattr(x, "affine")]
        if not affines:
            return None
        if not np.allclose(affines[0], affines[-1], rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"image and scores are on different grids: their affines are "
                f"{affines[0].tolist()} and {affines[-1].tolist()}; refine before Invertd, or "
                "give the image as it was before its transforms"
            )
        columns = np.linalg.norm(affines[0][:-1, :axes], axis=0)
        return tuple(float(x) if x > 0 else 1.0 for x in columns)


class CRFd(_MapTransform):
    """Refine the scores of an image in a dictionary; the dictionary version of `CRF`.

    Parameters
    ----------
    keys : hashable, or sequence of them
        Entries that hold scores [L, *S]; the marginals replace them.
    image_key : hashable
        Entry that holds the image [C, *S], on the grid of the scores.
    params : CRFParams
        As in `CRF`.
    mask_key : hashable, optional
        Entry that holds a mask [1, *S]; pixels where it is 0 are excluded.
    allow_missing_keys : bool
        Skip keys that the dictionary lacks.
    **options
        Other arguments of `CRF`.

    Raises
    ------
    TypeError, ValueError
        As `CRF`.

    Examples
    --------
    >>> from monai.transforms import AsDiscreted, Compose
    >>> post = Compose([
    ...     CRFd("pred", "image", CRFParams(theta_alpha=30, theta_beta=0.1)),
    ...     AsDiscreted("pred", argmax=True),
    ... ])
    >>> data = {"pred": np.zeros((2, 8, 9), np.float32), "image": np.zeros((1, 8, 9), np.float32)}
    >>> post(data)["pred"].shape
    torch.Size([1, 8, 9])
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        image_key: Hashable,
        params: CRFParams = CRFParams(),
        *,
        mask_key: Hashable | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.mask_key = mask_key
        self.refine = CRF(params, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the dictionary in which marginals replace the scores."""
        found = dict(data)
        for name, key in (("image_key", self.image_key), ("mask_key", self.mask_key)):
            if key is not None and key not in found:
                raise KeyError(
                    f"{name} is {key!r}, which the data lack; they have "
                    f"{', '.join(map(repr, found))}"
                )
        mask = None if self.mask_key is None else found[self.mask_key]
        for key in self.key_iterator(found):
            found[key] = self.refine(found[key], found[self.image_key], mask)
        return found


CRFD = CRFDict = CRFd  # the names that MONAI gives dictionary transforms


def _array(value: Any) -> Array:
    """Return an array or tensor as a NumPy array, in float32 if it has 16 bits."""
    if not hasattr(value, "requires_grad"):
        return np.asarray(value)
    halves = value.is_floating_point() and value.element_size() == 2
    wide = value.float() if halves else value
    return np.asarray(wide.detach().cpu().numpy())
