"""A grid CRF with two tables per offset: for edges within a surface, and across a step in depth.

`GibbsCRF` has one table per offset, whatever the image. Here an edge uses the second table if the
depths of its two pixels differ by more than `STEP`, or one of them has no reading. It is written
for the study alone: a plain sweep in Numba, pixel after pixel, on one thread.
"""

from typing import Any

import numpy as np
import torch
from frames import FAR
from numba import njit
from torch import Tensor, nn

STEP = 0.1  # metres


@njit(cache=True)
def seed_draws(seed: int) -> None:
    """Set the seed of the random numbers of `sweep`."""
    np.random.seed(seed)


@njit(cache=True, fastmath=True)
def sweep(logits, labels, steps, rows, offsets, sums):
    """Draw each pixel once, changing `labels` in place; return how many labels changed.

    Takes logits [H, W, L], labels [H, W], steps [C, H, W] (0 or 1, of the edge that starts at a
    pixel) and rows [2, C, 2, L, L]: scores of all labels (last axis) given the label at the end of
    an edge (rows[0]) or at its start (rows[1]). Conditionals are added to `sums` [H, W, L] unless
    it is empty.
    """
    height, width, count = logits.shape
    scores = np.empty(count, np.float32)
    changed = 0
    for row in range(height):
        for column in range(width):
            for label in range(count):
                scores[label] = logits[row, column, label]
            for c in range(len(offsets)):
                y, x = row + offsets[c, 0], column + offsets[c, 1]
                if 0 <= y < height and 0 <= x < width:
                    step, other = steps[c, row, column], labels[y, x]
                    for label in range(count):
                        scores[label] += rows[0, c, step, other, label]
                y, x = row - offsets[c, 0], column - offsets[c, 1]
                if 0 <= y < height and 0 <= x < width:
                    step, other = steps[c, y, x], labels[y, x]
                    for label in range(count):
                        scores[label] += rows[1, c, step, other, label]
            largest = scores.max()
            total = np.float32(0)
            for label in range(count):
                scores[label] = np.exp(scores[label] - largest)
                total += scores[label]
            if sums.size:
                for label in range(count):
                    sums[row, column, label] += scores[label] / total
            left = np.random.random() * total
            drawn = 0
            while drawn < count - 1 and scores[drawn] <= left:
                left -= scores[drawn]
                drawn += 1
            changed += drawn != labels[row, column]
            labels[row, column] = drawn
    return changed


@njit(cache=True)
def add_pairs(labels, steps, offsets, counts):
    """Add the label pairs of all edges of labels [H, W] to counts [C, 2, L, L]."""
    height, width = labels.shape
    for c in range(len(offsets)):
        down, right = offsets[c]
        for row in range(max(0, -down), min(height, height - down)):
            for column in range(max(0, -right), min(width, width - right)):
                pair = labels[row, column], labels[row + down, column + right]
                counts[c, steps[c, row, column], pair[0], pair[1]] += 1


def steps_of(depth: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return [C, H, W] uint8: 1 where the edge that starts at a pixel crosses a step in depth.

    `depth` is [2, H, W] as `frames.Frames` has it. Edges that leave the image are 0.
    """
    metres = np.where(depth[1] > 0, depth[0] * FAR, np.inf)
    height, width = metres.shape
    found = np.zeros((len(offsets), height, width), np.uint8)
    for c, (down, right) in enumerate(offsets):
        rows = slice(max(0, -down), min(height, height - down))
        columns = slice(max(0, -right), min(width, width - right))
        ends = metres[rows.start + down : rows.stop + down,
                      columns.start + right : columns.stop + right]  # fmt: skip
        with np.errstate(invalid="ignore"):  # infinity - infinity, where both have no reading
            same = np.abs(metres[rows, columns] - ends) <= STEP
        found[c, rows, columns] = ~same
    return found


class DepthStepCRF(nn.Module):
    """Grid CRF whose tables [C, 2, L, L] depend on depth steps; learned and decoded as GibbsCRF."""

    def __init__(
        self, labels: int, offsets: np.ndarray, *, sweeps: int, burn_in: int, chains: int = 1
    ) -> None:
        super().__init__()
        self.offsets, self.chains_to_average = offsets.astype(np.int64), chains
        self.sweeps, self.burn_in = sweeps, burn_in
        self.tables = nn.Parameter(torch.zeros(len(offsets), 2, labels, labels))
        self.chains: dict[int, np.ndarray] = {}  # a labelling of each training frame
        self.steps: dict[int, np.ndarray] = {}
        self.acceptance = float("nan")

    def rows(self) -> np.ndarray:
        """Return the tables in the two directions of an edge, as `sweep` takes them."""
        both = torch.stack([self.tables.detach().mT, self.tables.detach()])
        return both.contiguous().numpy()

    def draw(
        self, logits: Tensor, steps: np.ndarray, labels: np.ndarray | None, sweeps: int,
        sums: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:  # fmt: skip
        """Return labels [H, W] after some sweeps, and how many the last one changed.

        `logits` is [L, H, W]. Without labels, they start at a draw from the logits alone.
        """
        array = np.ascontiguousarray(np.moveaxis(logits.detach().numpy(), 0, -1))
        empty = np.zeros((0, 0, 0))
        rows, changed = self.rows(), 0
        if labels is None:
            labels = np.zeros(array.shape[:2], np.int64)
            sweep(array, labels, steps, np.zeros_like(rows), self.offsets, empty)
        for _ in range(sweeps):
            changed = sweep(array, labels, steps, rows, self.offsets,
                            empty if sums is None else sums)  # fmt: skip
        return labels, changed

    def pairs(self, labels: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the label pairs of labels [H, W], counted, [C, 2, L, L]."""
        counts = np.zeros(tuple(self.tables.shape), np.int64)
        add_pairs(labels, steps, self.offsets, counts)
        return counts

    def loss(
        self, logits: Tensor, depth: Tensor, target: Tensor, index: Tensor, sweeps: int
    ) -> Tensor:
        """Return the score of a sample minus that of the target, per pixel, as GibbsCRF.loss."""
        gap, samples, changed = np.zeros(tuple(self.tables.shape), np.int64), [], 0
        for b, number in enumerate(index.tolist()):
            if number not in self.steps:
                self.steps[number] = steps_of(depth[b].numpy(), self.offsets)
            steps = self.steps[number]
            labels, n = self.draw(logits[b], steps, self.chains.get(number), sweeps)
            self.chains[number] = labels
            changed += n
            gap += self.pairs(labels, steps) - self.pairs(target[b].numpy(), steps)
            samples.append(torch.from_numpy(labels))
        self.acceptance = changed / target.numel()
        sample = torch.stack(samples)
        scores = [logits.gather(1, y[:, None]).sum() for y in (sample, target)]
        pairs = (self.tables * torch.from_numpy(gap).to(logits)).sum()
        return (scores[0] - scores[1] + pairs) / target.numel()

    @torch.no_grad()
    def decode(self, logits: Tensor, depth: Tensor) -> Tensor:
        """Return the argmax of the marginals, [B, H, W]."""
        found = []
        for one, image in zip(logits, depth, strict=True):
            seed_draws(0)
            steps = steps_of(image.numpy(), self.offsets)
            sums = np.zeros((*one.shape[1:], len(one)))
            for _ in range(self.chains_to_average):
                labels, _ = self.draw(one, steps, None, self.burn_in)
                self.draw(one, steps, labels, self.sweeps, sums)
            found.append(torch.from_numpy(sums.argmax(-1)))
        return torch.stack(found)

    def gap(self, frames: Any, labels: dict[int, np.ndarray]) -> float:
        """Return the mean over offsets of the gap of label pairs, as GibbsCRF.statistics_gap."""
        pairs = np.zeros((2, *self.tables.shape), np.int64)
        for number, drawn in labels.items():
            for total, y in zip(pairs, (drawn, frames.labels[number].numpy()), strict=True):
                total += self.pairs(y, self.steps[number])
        total = pairs[1].sum((1, 2, 3))
        return float((np.abs(pairs[0] - pairs[1]).sum((1, 2, 3)) / (2 * total)).mean())
