"""The demo's training: a CRF-RNN head behind saved logits, fitted to the sample photographs."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import metrics, samples
from ..params import CRFParams
from .crfrnn import CRFRNN

STRIDE = 3  # every 3rd pixel of every 3rd row: a ninth of the cost
# Adam moves each weight by about this much a step; weights start at 5 and 3, compatibilities at 1.
_LEARNING_RATE = 0.05
_LABELS = len(samples.CLASS_NAMES)

Pair = tuple[Tensor, Tensor, Tensor]  # logits [1, L, H, W], image [1, 3, H, W], truth [1, H, W]


@dataclass(frozen=True)
class Fit:
    """Cross-entropy per pixel and mean IU over all pairs."""

    loss: float
    mean_iu: float


def train(
    pairs: Sequence[samples.Sample],
    params: CRFParams,
    iterations: int,
    steps: int,
    threads: int | None,
    on_step: Callable[[float], None],
) -> tuple[Fit, Fit, Fit]:
    """Fit a head to samples with ground truth: the fit of the logits, of the head, and after.

    Parameters
    ----------
    params : CRFParams
        Bandwidths in pixels of the full photograph, and initial weights.
    steps : int
        One photograph each, in a fixed pseudo-random order.
    on_step : callable
        Called after each step with the mean loss of the last pass over the pairs.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # Pixels lie STRIDE times closer together, and with them the reach of both kernels.
    params = replace(
        params,
        theta_alpha=params.theta_alpha / STRIDE,
        theta_gamma=params.theta_gamma / STRIDE,
    )
    data = [_reduced(sample) for sample in pairs]
    head = CRFRNN(_LABELS, params=params, iterations=iterations, eval_iterations=iterations)
    fits = [_fit(lambda logits, image: logits, data), _fit(head.eval(), data)]

    optimizer = torch.optim.Adam(head.parameters(), lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    recent: deque[float] = deque(maxlen=len(data))
    order: list[int] = []
    head.train()
    for _ in range(steps):
        order = order or torch.randperm(len(data), generator=generator).tolist()
        logits, image, truth = data[order.pop()]
        loss = cross_entropy(head(logits, image), truth, ignore_index=samples.IGNORE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        recent.append(float(loss.detach()))
        on_step(sum(recent) / len(recent))
    return fits[0], fits[1], _fit(head.eval(), data)


def _reduced(sample: samples.Sample) -> Pair:
    assert sample.truth is not None
    rows = slice(None, None, STRIDE)
    logits = torch.from_numpy(np.ascontiguousarray(sample.logits[:, rows, rows]))
    image = torch.from_numpy(np.ascontiguousarray(sample.image[rows, rows]))
    truth = torch.from_numpy(sample.truth[rows, rows].astype(np.int64))
    return logits[None], image.permute(2, 0, 1)[None], truth[None]


@torch.no_grad()
def _fit(refine: Callable[[Tensor, Tensor], Tensor], data: Sequence[Pair]) -> Fit:
    confusion = np.zeros((_LABELS, _LABELS), np.int64)
    loss = 0.0
    for logits, image, truth in data:
        refined = refine(logits, image)
        loss += float(
            cross_entropy(refined, truth, ignore_index=samples.IGNORE, reduction="sum")
        )
        prediction = refined.argmax(1).numpy()
        confusion += metrics.confusion_matrix(
            truth.numpy(), prediction, _LABELS, samples.IGNORE
        )
    return Fit(loss / float(confusion.sum()), metrics.mean_iu(confusion))
