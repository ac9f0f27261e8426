"""BilateralFilter: the appearance kernel of the CRF as a layer with learned bandwidths."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import Kernel
from ..params import NORMALIZATIONS, QUALITIES, Normalization, Quality
from . import transforms
from .arguments import Method, check_engine, full_precision, in_float32, result_dtype
from .build import Gaussian, Pixels
from .filtering import filter_rows
from .precision import WideBuffers, wide
from .subclasses import plain_inside

# A learned bandwidth stays within this factor of its initial value.
BANDWIDTH_RANGE = 16.0


def within_range(initial: Tensor, learned: Tensor) -> Tensor:
    """Return the bandwidths ``initial * 16 ** tanh(learned)``, which stay within a factor of 16."""
    exponent = learned.to(torch.promote_types(learned.dtype, initial.dtype)).tanh()
    return initial * BANDWIDTH_RANGE**exponent


class BilateralFilter(WideBuffers):
    """A bilateral filter for maps and volumes whose bandwidths are trained.

    Each pixel becomes the mean of all pixels, weighted by a Gaussian of the distance in position
    and in the channels of a guide, so that edges of the guide stay sharp.

    Parameters
    ----------
    theta_position : float or sequence of floats, optional
        Initial bandwidth in position, positive: in pixels, or units of `spacing`; one for all axes,
        or one per axis in the order of `spacing`. None: positions do not matter.
    theta_guide : float or sequence of floats, optional
        Initial bandwidth in the guide's own units, positive; one for all channels, or one per
        channel. None: no guide is used, and the filter is a Gaussian blur.
    trainable : bool
        Whether the bandwidths are learned. Each stays within a factor of 16 of its initial value.
    normalization, quality, method, backend
        As in `functional.gaussian_filter`.

    Attributes
    ----------
    log_position, log_guide : nn.Parameter [1], [S] or [G], or None
        What `theta_position` and `theta_guide` are computed from; 0 stands for the initial value.
    initial_position, initial_guide : buffer, or None
        The initial bandwidths, which the state_dict contains.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or range, or both bandwidths are None.
    BackendUnavailableError
        `backend` cannot run here; the message says why.

    Notes
    -----
    [Adams10]; see `functional.gaussian_filter`. Values that are known at some pixels only are
    spread by filtering them, 0 elsewhere, together with a channel that is 1 where they are known,
    and dividing by it (normalized convolution): examples/joint_bilateral_upsampling.py.

    Examples
    --------
    >>> smooth = BilateralFilter(theta_position=4.0, theta_guide=0.1)
    >>> image = torch.rand(2, 3, 8, 9)
    >>> smooth(image).shape
    torch.Size([2, 3, 8, 9])
    >>> smooth(torch.rand(2, 1, 8, 9), guide=image).mean().backward()
    >>> smooth.log_guide.grad.shape
    torch.Size([1])
    >>> round(smooth.theta_position.item(), 4), round(smooth.theta_guide.item(), 4)
    (4.0, 0.1)
    """

    initial_position: Tensor | None
    initial_guide: Tensor | None
    log_position: nn.Parameter | None
    log_guide: nn.Parameter | None

    def __init__(
        self,
        theta_position: float | Sequence[float] | None = None,
        theta_guide: float | Sequence[float] | None = None,
        *,
        trainable: bool = True,
        normalization: Normalization = "after",
        quality: Quality = "standard",
        method: Method = "lattice",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.kernel = Kernel(theta_position, theta_guide, "guide")
        checks.flag("trainable", trainable)
        checks.option("normalization", normalization, NORMALIZATIONS)
        checks.option("quality", quality, QUALITIES)
        check_engine(method, backend)
        self.normalization, self.quality = normalization, quality
        self.method, self.backend = method, backend
        own = {"position": self.kernel.theta_position, "guide": self.kernel.theta_guide}
        for name, theta in own.items():
            found = None if theta is None else wide(theta).reshape(-1)
            self.register_buffer(f"initial_{name}", found)
            learned = None
            if found is not None and trainable:
                learned = nn.Parameter(torch.zeros(len(found)))
            self.register_parameter(f"log_{name}", learned)

    def _wide(self) -> dict[str, Any]:
        """Return the initial bandwidths that are not None."""
        found = {
            "initial_position": self.kernel.theta_position, "initial_guide": self.kernel.theta_guide
        }  # fmt: skip
        return {name: theta for name, theta in found.items() if theta is not None}

    @property
    def theta_position(self) -> Tensor | None:
        """The present bandwidth in position, [1] or [S]; None if positions do not matter."""
        return self._theta(self.initial_position, self.log_position)

    @property
    def theta_guide(self) -> Tensor | None:
        """The present bandwidth in the guide, [1] or [G]; None if no guide is used."""
        return self._theta(self.initial_guide, self.log_guide)

    @staticmethod
    def _theta(initial: Tensor | None, learned: Tensor | None) -> Tensor | None:
        return initial if initial is None or learned is None else within_range(initial, learned)

    @plain_inside
    def forward(
        self,
        values: Tensor,
        guide: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Tensor:
        """Filter values, guided by themselves or by another tensor.

        Parameters
        ----------
        values : Tensor [B, C, H, W] or [B, C, D, H, W], floating point
            float16 and bfloat16 are computed in float32.
        guide : Tensor [B, G, *S], integer or floating point, optional
            Default: the values. S and G together are at most 16.
        mask : Tensor [B, *S] of bool, optional
            Pixels where the mask is False are excluded and keep their values.
        spacing : one float per spatial axis, optional
            Pixel size along each axis, in the unit of `theta_position`.

        Returns
        -------
        Tensor, shape, dtype and class of `values` (float32 for 16 bits under autocast)
            Differentiable with respect to `values`, and once with respect to the bandwidths and
            `guide`; so only once with respect to values that are their own guide.

        Raises
        ------
        TypeError, ValueError
            An argument has the wrong type, shape, dtype, device or range, or holds NaN or infinity.
        """
        checks.array_kind("values", values, batched=True)
        dtype = result_dtype(values)
        values, *thetas = in_float32(values, self.theta_position, self.theta_guide)
        if self.kernel.theta_guide is None:
            if guide is not None:
                raise ValueError(
                    "a guide is given but theta_guide is None, so it would not be used; build "
                    "BilateralFilter with a theta_guide, or leave the guide out"
                )
        elif guide is None:
            guide = values
        checks.maps(values, guide, mask)
        axes = values.dim() - 2
        spacing = checks.spacing(spacing, axes)
        if (own := self.kernel.theta_position) is not None:
            checks.bandwidths_fit("theta_position", own, axes, f"there are {axes} spatial axes")
        if guide is not None and (own := self.kernel.theta_guide) is not None:
            channels = guide.shape[1]
            several = f"the guide has {channels} channel{'s' * (channels != 1)}"
            checks.bandwidths_fit("theta_guide", own, channels, several)
        for theta in thetas:
            if theta is not None and (theta.dtype, theta.device) != (values.dtype, values.device):
                raise TypeError(
                    f"values is {values.dtype} on {values.device} but this BilateralFilter "
                    f"{theta.dtype} on {theta.device}; move it: bilateral.to(values)"
                )
        if transforms.active():
            found: Tensor = transforms.opaque(self._filter, values, guide, mask, spacing, *thetas)
            return found.to(dtype)
        transforms.refuse_tangents(values, guide, *thetas)
        return self._filter(values, guide, mask, spacing, *thetas).to(dtype)

    def _filter(
        self,
        values: Tensor,
        guide: Tensor | None,
        mask: Tensor | None,
        spacing: tuple[float, ...],
        theta_position: Tensor | None,
        theta_guide: Tensor | None,
    ) -> Tensor:
        """Return the filtered values, for checked arguments and bandwidths."""
        with full_precision(values):
            pixels = Pixels.of(
                {} if guide is None else {"guide": guide}, mask, "xy", spacing, values
            )
            gaussian = Gaussian(self.kernel, _parts(theta_position), _parts(theta_guide))
            inside = values if mask is None else values.where(mask[:, None], 0)
            rows = filter_rows(
                inside.flatten(2).mT, gaussian.features(pixels), pixels.inside,
                normalization=self.normalization, quality=self.quality, method=self.method,
                backend=self.backend, name="features" if guide is None else "guide",
                guide=pixels.given.get("guide", values).detach() if guide is not None else None,
            )  # fmt: skip
        found = rows.mT.reshape(values.shape)
        return found if mask is None else found.where(mask[:, None], values)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        thetas = (self.theta_position, self.theta_guide)
        position, guide = (None if t is None else t.tolist() for t in thetas)
        return (
            f"theta_position={position}, theta_guide={guide}, trainable="
            f"{self.log_position is not None or self.log_guide is not None}, normalization="
            f"{self.normalization!r}, quality={self.quality!r}, method={self.method!r}"
        )


def _parts(theta: Tensor | None) -> Any:
    """Return one bandwidth as a tensor [], several as a tuple of them."""
    if theta is None:
        return None
    return theta[0] if len(theta) == 1 else tuple(theta.unbind())
