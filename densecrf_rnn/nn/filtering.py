"""Differentiable Gaussian filtering of scattered points: the filter of the CRF by itself."""

from typing import Any

from torch import Tensor

from .. import checks
from ..params import NORMALIZATIONS, QUALITIES, CRFParams, Normalization, Quality
from . import arguments, build, transforms
from .arguments import Method, full_precision, in_float32, result_dtype
from .ops import device_build, dispatch
from .ops.check_values import check_summable
from .stepwise import filtered
from .subclasses import plain_inside


@plain_inside
def gaussian_filter(
    values: Tensor,
    features: Tensor,
    *,
    normalization: Normalization = "after",
    quality: Quality = "standard",
    method: Method = "lattice",
    backend: str = "auto",
) -> Tensor:
    """Filter values at scattered points with a Gaussian of the distances of their features.

    Each point gets sum_j K_ij values_j with K_ij = exp(-|f_i - f_j|^2 / 2), normalised as
    `normalization` says, in time that is linear in the number of points.

    Parameters
    ----------
    values : Tensor [B, N, C], floating point, finite
        C numbers at each of N points, for B sets of points. float16 and bfloat16 are computed in
        float32.
    features : Tensor [B, N, d], or [1, N, d] shared by all sets, 1 <= d <= 16
        Points, already divided by their bandwidths (the kernel has unit bandwidth along each axis),
        of the dtype and on the device of `values`.
    normalization : {"after", "before", "symmetric", "none"}
        How K is normalised by its row sums n = K 1: "after" gives the weighted mean of the values
        around each point, diag(1/n) K; the others are K diag(1/n), diag(n^-1/2) K diag(n^-1/2),
        and the weighted sum K itself. With "none" the lattice gives less than the exact sum, about
        half of it in five dimensions (docs/accuracy.md).
    quality : {"standard", "symmetric", "filled"}
        Accuracy of the permutohedral lattice, see `densecrf_rnn.PermutohedralLattice`.
    method : {"lattice", "exact"}
        Approximately in O(N), or exactly in O(N^2) time and O(N) memory, on any device.
    backend : str
        "auto", or a name from `available_backends()`; for the exact method leave "auto".

    Returns
    -------
    Tensor [B, N, C], dtype and class of `values` (float32 for 16 bits under autocast)
        Differentiable with respect to `values`, any number of times, and once with respect to
        `features`. The gradient is that of the lattice, which is piecewise linear in the features,
        and of the row sums.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape, dtype, device or range, or holds NaN or infinity.
    BackendUnavailableError
        No engine for the tensors' device can run here; the message says why.

    Notes
    -----
    [Adams10], with the scaling of [KK11]. A point is a neighbour of itself, so that a row sum is
    never 0: it is 1 or more for the exact filter and above 0.1 for a lattice.

    Examples
    --------
    >>> values = torch.randn(1, 50, 2, requires_grad=True)
    >>> features = torch.randn(1, 50, 3, requires_grad=True)
    >>> smooth = gaussian_filter(values, features)
    >>> smooth.square().sum().backward()
    >>> values.grad.shape, features.grad.shape
    (torch.Size([1, 50, 2]), torch.Size([1, 50, 3]))
    """
    options: dict[str, Any] = {
        "normalization": normalization, "quality": quality, "method": method, "backend": backend,
    }  # fmt: skip
    if transforms.active():
        found: Tensor = transforms.opaque(gaussian_filter, values, features, **options)
        return found
    checks.option("normalization", normalization, NORMALIZATIONS)
    checks.option("quality", quality, QUALITIES)
    for name, tensor in (("values", values), ("features", features)):
        checks.array_kind(name, tensor, batched=True)
    transforms.refuse_tangents(values, features)
    dtype = result_dtype(values)
    values, features = in_float32(values, features)
    checks.filtered(values, features)
    with full_precision(values):
        return filter_rows(values, features, None, **options).to(dtype)


def filter_rows(
    values: Tensor,
    features: Tensor,
    inside: Tensor | None,
    *,
    normalization: Normalization,
    quality: Quality,
    method: Method,
    backend: str,
    name: str = "features",
    guide: Tensor | None = None,
) -> Tensor:
    """Compute `gaussian_filter` of checked tensors in full precision.

    Points where `inside` [B, N, 1] is 0 are excluded: their rows of the result are 0. Errors about
    features call them `name`, and if they were computed from a `guide`, check its values first.
    """
    params = CRFParams(normalization=normalization, quality=quality)
    arguments.check_method(method, backend)
    exact = method == "exact"  # elsewhere the operator that builds lattices checks the features
    values = check_summable(values, features.detach() if exact else None, name)
    if exact:
        found: Tensor = build.exact_kernel(features, inside, params)(values)
        return found
    if not dispatch.is_traced():
        device_build.refuse_capture(values)
    backend, _ = arguments.engine_of(backend, values.device)
    kernel = build.lattice_kernel(features, inside, params, backend, name, guide)
    return filtered(kernel, values, backend)
