"""Losses that torch lacks. The softmax loss of the papers is torch's cross_entropy."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import checks


def robust_log_likelihood(
    logits: Tensor,
    target: Tensor,
    *,
    epsilon: float = 0.05,
    ignore_index: int = 255,
    reduction: str = "mean",
) -> Tensor:
    """Compute the robust log-likelihood loss, which is bounded, so that outliers count less.

    Parameters
    ----------
    logits : Tensor [B, L, *S], floating point
    target : Tensor [B, *S], integer
        Labels 0..L-1, or `ignore_index`.
    epsilon : float, positive
        A pixel's loss is -log((q + epsilon) / (1 + epsilon)), where q is the marginal of its label:
        0 where q = 1, at most log(1 + 1 / epsilon). It tends to the softmax loss as epsilon tends
        to 0.
    ignore_index : int
        Label of pixels to exclude.
    reduction : {"mean", "sum", "none"}
        Mean or sum over the pixels that are not excluded; "none" returns the loss of each pixel
        [B, *S], which is 0 at excluded pixels.

    Returns
    -------
    Tensor

    Raises
    ------
    TypeError, ValueError
        `epsilon` is not a positive number, or `reduction` is unknown. Torch checks the shapes.

    Notes
    -----
    The robust log-likelihood of [KK13]. [CRF-RNN] section 6 tried it and kept the softmax loss.

    Examples
    --------
    >>> loss = robust_log_likelihood(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long())
    >>> round(loss.item(), 4)  # -log(0.55 / 1.05)
    0.6466
    """
    epsilon = checks.positive_number("epsilon", epsilon)
    checks.option("reduction", reduction, ("mean", "sum", "none"))
    log_q = -cross_entropy(logits, target.long(), ignore_index=ignore_index, reduction="none")
    counts = target != ignore_index
    # The gradient flows through exp(log q) <= 1, so nothing is divided by a small marginal.
    loss = torch.where(counts, -torch.log((log_q.exp() + epsilon) / (1 + epsilon)), 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counts.sum()
