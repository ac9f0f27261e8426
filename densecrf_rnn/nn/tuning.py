"""Parameters of a CRF learned by gradients from saved logits: weights, compatibility, bandwidths.

Begins where a search (`densecrf_rnn.tuning`) ended, and hands back what `refine` takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .._typing import Array
from .. import checks
from ..params import CRFParams
from ..tuning import Example, Task, optional
from .crfrnn import CRFRNN


LEARNING_RATE = 0.05
# Adam moves a parameter by about its learning rate a step. Weights are around 3, compatibilities
# around 1, and a bandwidth's parameter multiplies it by 16 from 0 to infinity.
_MULTIPLIERS = {"kernel_weights": 1.0, "compatibility": 0.4, "bandwidths": 0.2}


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes
    ----------
    params : CRFParams
        With a weight for each label, and new bandwidths.
    compatibility : ndarray [L, L] of float32
    losses : list of float
        Mean cross-entropy per pixel, in nats, of each pass over the examples, while it learned.
    """

    params: CRFParams
    compatibility: Array
    losses: list[float]


def learn(
    examples: Sequence[Example],
    params: CRFParams,
    task: Task = Task(),
    *,
    passes: int = 3,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    on_step: Callable[[float], None] | None = None,
) -> Learned:
    """Weights per label, compatibility and bandwidths that lower the cross-entropy.

    Parameters
    ----------
    examples : sequence of Example
        Each is asked for when its turn comes; one image a step.
    params : CRFParams
        Where learning begins. Bandwidths stay within a factor of 16 of it.
    task : Task
        Iterations, ignored label, backend and threads; its score plays no part.
    passes : int, at least 1
        Over the examples, each in a pseudo-random order.
    learning_rate : float
        Adam's.
    seed : int, at least 0
        Of the order. The same seed learns the same on the same machine and threads.
    on_step : callable, optional
        Called with the loss of each step.

    Returns
    -------
    Learned

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range, or an example the layer refuses; the message begins
        with its name.

    Notes
    -----
    [CRF-RNN] section 5 learns weights and compatibility so, with fixed bandwidths. Cross-entropy
    is not mean IU: score what was learned before it is used.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.arange(24).reshape(4, 6) // 12
    >>> logits = 2 * np.eye(2, dtype=np.float32)[:, truth]
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), logits, truth)
    >>> learned = learn([one], CRFParams(theta_alpha=3, theta_beta=5), passes=4)
    >>> learned.losses[-1] < learned.losses[0]
    True
    """
    passes = checks.count("passes", passes, 1)
    learning_rate = checks.positive_number("learning_rate", learning_rate)
    generator = torch.Generator().manual_seed(checks.count("seed", seed, 0))
    if len(examples) == 0:
        raise ValueError("examples is empty; give at least one image with logits and truth")
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    head = CRFRNN(
        len(examples[0].logits),
        params=params,
        iterations=task.iterations,
        eval_iterations=task.iterations,
        trainable_bandwidths=True,
        backend=task.backend,
    )
    optimizer = torch.optim.Adam(head.parameter_groups(learning_rate, **_MULTIPLIERS))
    losses = []
    for _ in range(passes):
        total = pixels = 0.0
        for index in torch.randperm(len(examples), generator=generator).tolist():
            example = examples[index]
            try:
                loss, count = _loss(head, example, task)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{example.name}: {error}") from error
            if count == 0:  # nothing but ignored pixels
                continue
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, pixels = total + float(loss.detach()) * count, pixels + count
            if on_step is not None:
                on_step(float(loss.detach()))
        losses.append(total / pixels if pixels else float("nan"))
    return Learned(_params(head, params), head.compatibility.detach().numpy().copy(), losses)


def _loss(head: CRFRNN, example: Example, task: Task) -> tuple[Tensor, int]:
    """Mean cross-entropy over the scored pixels, and how many these are."""
    if example.truth is None:
        raise ValueError("it has no true labels to learn from")
    logits = torch.from_numpy(np.ascontiguousarray(example.logits))[None]
    image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(example.image, -1, 0)))[None]
    truth = torch.from_numpy(example.truth.astype(np.int64))[None]
    options = optional(example)
    if options["mask"] is not None:
        options["mask"] = torch.from_numpy(options["mask"])[None]
    refined = head(logits, image, **options)
    if refined.shape[1] == 1:  # one logit x stands for the labels (0, x)
        refined = torch.cat([torch.zeros_like(refined), refined], dim=1)
    if tuple(truth.shape[1:]) != tuple(refined.shape[2:]):
        raise ValueError(
            f"truth has shape {tuple(truth.shape[1:])} but logits {tuple(refined.shape[2:])}"
        )
    scored = truth[truth != task.ignore]
    if scored.numel() and not 0 <= int(scored.min()) <= int(scored.max()) < refined.shape[1]:
        raise ValueError(
            f"truth holds labels {int(scored.min())}..{int(scored.max())}; they must lie in "
            f"0..{refined.shape[1] - 1} (ignore={task.ignore} marks pixels that do not count)"
        )
    return cross_entropy(refined, truth, ignore_index=task.ignore), scored.numel()


def _params(head: CRFRNN, params: CRFParams) -> CRFParams:
    (alpha, beta), (gamma, _) = head.bandwidths.detach().tolist()
    bilateral, spatial = head.kernel_weights.detach().tolist()
    return replace(
        params,
        theta_alpha=_rounded(alpha),
        theta_beta=_rounded(beta),
        theta_gamma=_rounded(gamma),
        w_bilateral=tuple(map(_rounded, bilateral)),
        w_spatial=tuple(map(_rounded, spatial)),
    )


def _rounded(value: float) -> float:
    """To four digits, which is more than they are known to."""
    return float(f"{value:.4g}")
