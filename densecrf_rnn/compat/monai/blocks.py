"""A layer with the arguments of `monai.networks.blocks.CRF`."""

import torch
from torch import Tensor, nn

from ... import checks
from ...nn.functional import mean_field
from ...params import CRFParams


class CRF(nn.Module):
    """Refine class scores as `monai.networks.blocks.CRF`, with gradients and without a compiler.

    Parameters
    ----------
    iterations : int
        Number of mean-field updates.
    bilateral_weight, gaussian_weight : float
        Weights of the appearance and the smoothness kernel.
    bilateral_spatial_sigma : float
        Bandwidth of the appearance kernel in position, in pixels.
    bilateral_color_sigma : float
        Bandwidth of the appearance kernel in the values of the reference.
    gaussian_spatial_sigma : float
        Bandwidth of the smoothness kernel, in pixels.
    update_factor : float
        Factor of both weights.
    compatibility_matrix : Tensor [L, L], optional
        Row l' and column l: how much label l' in the neighbourhood supports label l; default I.
        `CRFRNN` has the negative of its transpose as penalty.

    Raises
    ------
    TypeError
        `compatibility_matrix` is no tensor.

    Notes
    -----
    The same mean field as MONAI's: both kernels on permutohedral lattices of the same blur and
    order of features, normalised by their row sums, with the diagonal. MONAI's class with this
    package's lattice in place of its C++ extension, which no wheel of MONAI holds, gives the same
    marginals to 1e-5. What differs: MONAI's filter has no gradient, this layer has one for the
    scores, the reference and the matrix; MONAI takes one spatial axis too, this layer two or three;
    the scores need two labels or more, because the softmax of one is 1 everywhere; values that
    suggest another unit cause a warning.

    Examples
    --------
    >>> crf = CRF(bilateral_color_sigma=0.1)
    >>> crf(torch.randn(1, 2, 8, 9), torch.rand(1, 1, 8, 9)).sum(1).allclose(torch.ones(1, 8, 9))
    True
    """

    def __init__(
        self,
        iterations: int = 5,
        bilateral_weight: float = 1.0,
        gaussian_weight: float = 1.0,
        bilateral_spatial_sigma: float = 5.0,
        bilateral_color_sigma: float = 0.5,
        gaussian_spatial_sigma: float = 5.0,
        update_factor: float = 3.0,
        compatibility_matrix: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.bilateral_weight = bilateral_weight
        self.gaussian_weight = gaussian_weight
        self.bilateral_spatial_sigma = bilateral_spatial_sigma
        self.bilateral_color_sigma = bilateral_color_sigma
        self.gaussian_spatial_sigma = gaussian_spatial_sigma
        self.update_factor = update_factor
        if compatibility_matrix is not None:
            checks.array_kind("compatibility_matrix", compatibility_matrix, batched=True)
        self.compatibility_matrix = compatibility_matrix

    def forward(self, input_tensor: Tensor, reference_tensor: Tensor) -> Tensor:
        """Return the marginals of the refined scores.

        Parameters
        ----------
        input_tensor : Tensor [B, L, H, W] or [B, L, D, H, W]
            Class logits.
        reference_tensor : Tensor [B, C, H, W] or [B, C, D, H, W]

        Returns
        -------
        Tensor, shape of `input_tensor`
            They sum to 1 over the labels.

        Raises
        ------
        TypeError, ValueError
            There is one label only, the matrix is of another number of labels, or
            `functional.mean_field` rejects its arguments.
        """
        checks.array_kind("input_tensor", input_tensor, batched=True)
        labels = input_tensor.shape[1] if input_tensor.dim() > 1 else 0
        if labels < 2:
            raise ValueError(
                f"input_tensor has shape {tuple(input_tensor.shape)}; it must be [B, L, *S] with "
                "two labels or more (of one logit x: torch.cat([torch.zeros_like(x), x], 1))"
            )
        params = CRFParams(
            theta_alpha=self.bilateral_spatial_sigma, theta_beta=self.bilateral_color_sigma,
            theta_gamma=self.gaussian_spatial_sigma, normalization="after", self_term=True,
            feature_order="yx", spatial="lattice", quality="standard",
        )  # fmt: skip
        halves = input_tensor.dtype.itemsize == 2  # computed in float32
        dtype = torch.float32 if halves else input_tensor.dtype
        weights = torch.tensor([self.bilateral_weight, self.gaussian_weight], dtype=dtype)
        matrix = self.compatibility_matrix
        if matrix is not None and matrix.shape != (labels, labels):
            raise ValueError(
                f"compatibility_matrix has shape {tuple(matrix.shape)} but input_tensor {labels} "
                f"labels; give [{labels}, {labels}]"
            )
        support = torch.eye(labels) if matrix is None else matrix
        weights, support = (x.to(input_tensor.device, dtype) for x in (weights, support))
        refined: Tensor = mean_field(
            input_tensor, reference_tensor, params, iterations=self.iterations,
            kernel_weights=self.update_factor * weights, compatibility=-support.T,
        )  # fmt: skip
        return refined.softmax(1)
