"""Training of a CRF-RNN head on saved logits: weights, compatibility and bandwidths.

It starts from the result of a search (`densecrf_rnn.tuning`) and returns parameters for `refine`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .._typing import Array
from .. import checks, metrics
from ..kernels import with_leading
from ..params import CRFParams
from ..postprocess import most_probable
from ..tuning import Example, Task, optional
from .crfrnn import CRFRNN

__all__ = ["Learned", "learn"]


LEARNING_RATE = 0.05
# Factors on the learning rate. Adam moves a parameter by about its learning rate in each step;
# weights are around 3, compatibilities around 1, and a bandwidth's parameter covers factors of 1/16
# to 16.
_MULTIPLIERS = {"kernel_weights": 1.0, "compatibility": 0.4, "bandwidths": 0.2}


@dataclass(frozen=True)
class Learned:
    """Result of `learn`.

    Attributes
    ----------
    params : CRFParams
        With one weight per label and kernel, and new bandwidths.
    compatibility : ndarray [L, L] of float32
    losses : list of float
        For each pass over the examples, the mean cross-entropy per pixel, in nats, of its steps.

    Examples
    --------
    >>> from densecrf_rnn.samples import Sample
    >>> truth = np.arange(24).reshape(4, 6) // 12
    >>> logits = 2 * np.eye(2, dtype=np.float32)[:, truth]
    >>> one = Sample("one", np.zeros((4, 6, 3), np.uint8), logits, truth)
    >>> learned = learn([one], CRFParams(theta_alpha=3, theta_beta=5), passes=2)
    >>> len(learned.params.w_bilateral), learned.compatibility.shape, len(learned.losses)
    (2, (2, 2), 2)
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
    """Learn weights per label, compatibility and bandwidths that lower the cross-entropy.

    Parameters
    ----------
    examples : sequence of Example
        Indexed one at a time, one image per step.
    params : CRFParams
        Initial values. Bandwidths stay within a factor of 16 of them.
    task : Task
        Iterations, ignored label, backend and threads; its score is not used.
    passes : int, at least 1
        Passes over the examples, each in a new random order.
    learning_rate : positive float
        Learning rate of Adam.
    seed : int, at least 0
        Random seed of the order. Results are reproducible on the same machine and number of
        threads.
    on_step : callable, optional
        Called with the loss of each step.

    Returns
    -------
    Learned

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong kind or range, or the layer rejects an example; in that case the
        message begins with the example's name.

    Notes
    -----
    [CRF-RNN] section 5 learns weights and compatibility this way, with fixed bandwidths.
    Cross-entropy is not mean IU: score the result before using it.

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
    losses = []
    with torch_threads(task.threads):
        head = make_head(examples, params, task, trainable_bandwidths=True)
        training = train(head, examples, task, learning_rate=learning_rate, seed=seed)
        for _ in range(passes):
            total = pixels = 0.0
            for loss, count in itertools.islice(training, len(examples)):
                if count == 0:
                    continue
                total, pixels = total + loss * count, pixels + count
                if on_step is not None:
                    on_step(loss)
            losses.append(total / pixels if pixels else float("nan"))
    return Learned(_params(head, params), head.compatibility.detach().numpy().copy(), losses)


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads for a while; None: as many as it uses now."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_head(
    examples: Sequence[Example], params: CRFParams, task: Task, *, trainable_bandwidths: bool
) -> CRFRNN:
    """Create the CRFRNN that `train` trains, with `params` as initial values."""
    if len(examples) == 0:
        raise ValueError("examples is empty; give at least one image with logits and truth")
    return CRFRNN(
        len(examples[0].logits), params=params, iterations=task.iterations,
        eval_iterations=task.iterations, trainable_bandwidths=trainable_bandwidths,
        backend=task.backend,
    )  # fmt: skip


def train(
    head: CRFRNN, examples: Sequence[Example], task: Task, *,
    learning_rate: float = LEARNING_RATE, seed: int = 0,
) -> Iterator[tuple[float, int]]:  # fmt: skip
    """Train a head with Adam, by one step on one example whenever the iterator advances.

    Parameters
    ----------
    head : CRFRNN
        Trained in place.
    examples, task, learning_rate, seed
        As in `learn`.

    Returns
    -------
    iterator of (float, int)
        For each step, mean cross-entropy of the scored pixels and their number. An example without
        scored pixels changes nothing. The iterator never ends.
    """
    learning_rate = checks.positive_number("learning_rate", learning_rate)
    groups = head.parameter_groups(0.0)
    for group in groups:
        group["lr"] = learning_rate * _MULTIPLIERS[group["name"]]
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(checks.count("seed", seed, 0))
    while True:
        for index in torch.randperm(len(examples), generator=generator).tolist():
            refined, truth, count = _refined(head.train(), examples[index], task)
            loss = cross_entropy(refined, truth, ignore_index=task.ignore)
            if count:
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            yield float(loss.detach()), count


@torch.no_grad()
def evaluate(
    head: CRFRNN | None, examples: Sequence[Example], task: Task
) -> tuple[float, float]:
    """Return the mean cross-entropy per pixel and the score of refined logits.

    If `head` is None, evaluate the logits as they are.
    """
    loss, confusion = 0.0, np.zeros((), np.int64)
    for example in examples:
        refined, truth, _ = _refined(head and head.eval(), example, task)
        loss += float(cross_entropy(refined, truth, ignore_index=task.ignore, reduction="sum"))
        labels = most_probable(refined[0].numpy())
        confusion = confusion + metrics.confusion_matrix(
            truth[0].numpy(), labels, refined.shape[1], task.ignore
        )
    return loss / float(confusion.sum()), task.score(confusion)


def _refined(
    head: CRFRNN | None, example: Example, task: Task
) -> tuple[Tensor, Tensor, int]:
    """Return the refined logits [1, L, *S], the truth [1, *S] and the number of scored pixels."""
    try:
        if example.truth is None:
            raise ValueError("it has no true labels to learn from")
        checks.stored_logits(example.logits, None)
        # Copies, in the dtype of the head: torch takes no read-only arrays, and not all strides.
        refined = torch.from_numpy(np.array(example.logits, np.float32, order="C"))[None]
        truth = torch.from_numpy(example.truth.astype(np.int64))[None]
        if head is not None:
            checks.image(example.image, example.logits, batched=False)
            image = np.array(np.moveaxis(example.image, -1, 0), order="C")
            options = optional(example)
            if options["mask"] is not None:
                checks.mask(options["mask"], example.logits.shape[1:])
                options["mask"] = torch.from_numpy(np.array(options["mask"], order="C"))[None]
            refined = head(refined, torch.from_numpy(image)[None], **options)
        if refined.shape[1] == 1:  # one logit x stands for the labels (0, x)
            refined = torch.cat([torch.zeros_like(refined), refined], dim=1)
        if truth.shape[1:] != refined.shape[2:]:
            raise ValueError(
                f"truth has shape {tuple(truth.shape[1:])} but logits {tuple(refined.shape[2:])}"
            )
        scored = truth[truth != task.ignore]
        metrics.check_labels("truth", scored.numpy(), refined.shape[1], task.ignore)
        return refined, truth, len(scored)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{example.name}: {error}") from error


def _params(head: CRFRNN, params: CRFParams) -> CRFParams:
    """Return `params` with the trained bandwidths and kernel weights of `head`.

    They are rounded to four significant digits.
    """
    (alpha, beta), (gamma, _) = head.bandwidths.detach().tolist()
    bilateral, spatial = head.kernel_weights.detach().tolist()
    return replace(
        params, theta_alpha=_rounded(with_leading(params.theta_alpha, alpha)),
        theta_beta=_rounded(with_leading(params.theta_beta, beta)),
        theta_gamma=_rounded(with_leading(params.theta_gamma, gamma)),
        w_bilateral=_rounded(tuple(bilateral)), w_spatial=_rounded(tuple(spatial)),
    )  # fmt: skip


def _rounded(value: Any) -> Any:
    return tuple(map(_rounded, value)) if isinstance(value, tuple) else float(f"{value:.4g}")
