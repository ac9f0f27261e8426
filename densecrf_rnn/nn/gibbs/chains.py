"""Persistent Gibbs chains: one labelling for each training image, from one epoch to the next."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from ... import checks
from ...checks import wording
from ..._atomic import replaced
from ...gibbs.checks import SEED_BITS, check_logits
from ...gibbs.sweeps import start
from ..arguments import result_dtype
from ..ops.kernels import rows

IMAGE_BITS = 63  # an image's index fits torch.int64


@dataclass
class Chains:
    """State of the chains of a batch; `GibbsCRF.loss` updates it.

    Attributes
    ----------
    labels : Tensor [B, H, W], uint8, or int32 for more than 256 labels
    index : list of B int
        Number of each chain, such as its image's index in the data set.
    sweeps : list of B int
        Number of sweeps that each chain has had; its initial draw counts as one.
    seed : int
        Seed of the `ChainStore` that the chains come from.
    acceptance : float
        Fraction of the last sweep's draws that changed a label; NaN before the first sweep.

    Examples
    --------
    >>> chains = ChainStore(seed=3).chains([7], torch.zeros(1, 4, 5, 6))
    >>> tuple(chains.labels.shape), chains.index, chains.sweeps, chains.seed
    ((1, 5, 6), [7], [1], 3)
    """

    labels: Tensor
    index: list[int]
    sweeps: list[int]
    seed: int
    acceptance: float = float("nan")


# The two maps (0, x) that one logit per pixel stands for.
PAIR = "torch.cat((torch.zeros_like({0}), {0}), 1)"


def float32_logits(logits: Any) -> Tensor:
    """Check logits [B, L, H, W], L > 1, and return them, under autocast converted to float32."""
    checks.array_kind("logits", logits, batched=True)
    logits = logits.to(result_dtype(logits))
    check_logits(logits.detach(), batched=True)
    if logits.shape[1] == 1:
        raise ValueError(
            f"logits has shape {wording.shape(logits)}, one label, which every pixel would "
            f"get; for one logit per pixel, pass {PAIR.format('logits')} to a GibbsCRF(2)"
        )
    return logits


def check_kind(chains: Any) -> None:
    """Check that the argument `chains` is a `Chains`."""
    if not isinstance(chains, Chains):
        raise TypeError(
            f"chains is {type(chains).__name__}; it must be Chains, from "
            "ChainStore().chains(index, logits)"
        )


class ChainStore:
    """Chains of a training set: the state that Gibbs learning keeps between epochs.

    It takes one byte per pixel (four for more than 256 labels) of CPU memory. The random numbers of
    a chain depend on the seed, its number and its own sweeps only, so training gives the same
    results however images are distributed over processes and batches.

    Parameters
    ----------
    seed : int, 0 to 2^64 - 1

    Raises
    ------
    TypeError, ValueError
        `seed` is not an integer in this range.

    Notes
    -----
    [Kirillov15] section 3. A chain belongs to one image, and a random crop or flip is another
    image: augment the data set beforehand, with an index for each variant, or not at all.

    Examples
    --------
    >>> store = ChainStore()
    >>> chains = store.chains([7, 8], torch.zeros(2, 4, 5, 6))
    >>> chains.labels.shape, chains.sweeps
    (torch.Size([2, 5, 6]), [1, 1])
    >>> store.keep(chains)
    >>> len(store), 7 in store
    (2, True)
    >>> store.synchronize()  # does nothing in a single process
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store.save(f"{folder}/chains.pt")
    ...     len(ChainStore.load(f"{folder}/chains.pt"))
    2
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = checks.count("seed", seed, 0, below_power=SEED_BITS)
        self._labels: dict[int, Tensor] = {}
        self._sweeps: dict[int, int] = {}
        self._unshared: set[int] = set()  # stored since the last `synchronize`

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, index: object) -> bool:
        return index in self._labels

    def chains(self, index: Sequence[int] | Tensor, logits: Tensor) -> Chains:
        """Return the chains of a batch; a new chain starts with a draw from its logits alone.

        Parameters
        ----------
        index : B int, or Tensor [B]
            Indices of the images in the data set, each once.
        logits : Tensor [B, L, H, W], float32

        Returns
        -------
        Chains
            On the device of `logits`.

        Raises
        ------
        TypeError, ValueError
            Indices and logits do not match, or a stored chain has another size or a label that
            the logits do not have.
        """
        logits = float32_logits(logits).detach()
        numbers = _numbers(index, len(logits))
        images, count, height, width = logits.shape
        labels = torch.zeros((images, height, width), dtype=torch.int32)
        for b, number in enumerate(numbers):
            if number not in self:
                threads = torch.get_num_threads()
                drawn = start(rows(logits[b]), seed=self.seed, chain=number, threads=threads)
                labels[b] = torch.from_numpy(drawn.astype(np.int32))
                continue
            kept = self._labels[number]
            if tuple(kept.shape) != (height, width):
                raise ValueError(
                    f"the chain of image {number} is {kept.shape[0]} x {kept.shape[1]} but its "
                    f"logits are {height} x {width}; give each size of an image an index, or a "
                    "ChainStore, of its own"
                )
            if int(kept.max()) >= count:
                raise ValueError(
                    f"the chain of image {number} holds the label {int(kept.max())} but logits has "
                    f"{count} labels; use a new ChainStore"
                )
            labels[b] = kept
        sweeps = [self._sweeps.get(number, 1) for number in numbers]
        dtype = torch.uint8 if count <= 256 else torch.int32
        return Chains(labels.to(logits.device, dtype), numbers, sweeps, self.seed)

    def keep(self, chains: Chains) -> None:
        """Store the current state of chains.

        Parameters
        ----------
        chains : Chains

        Raises
        ------
        TypeError
            The argument is not a `Chains`.
        ValueError
            The chains come from a store with another seed.
        """
        check_kind(chains)
        if chains.seed != self.seed:
            raise ValueError(
                f"the chains have seed {chains.seed} but the store {self.seed}; keep chains in the "
                "store that made them"
            )
        for number, labels, sweeps in zip(
            chains.index, chains.labels.cpu(), chains.sweeps, strict=True
        ):
            self._labels[number] = labels.clone()
            self._sweeps[number] = sweeps
            self._unshared.add(number)

    def synchronize(self, group: Any = None) -> None:
        """Exchange the chains stored since the last call with the other processes of a group.

        Call it once an epoch in every process if the data loader's sampler may give an image to
        another process in the next epoch. Of two states of one chain, the one with more sweeps is
        kept.

        Parameters
        ----------
        group : torch.distributed process group, optional
            Default: all processes. Does nothing if torch.distributed is not initialised.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            own = {n: (self._sweeps[n], self._labels[n].numpy()) for n in sorted(self._unshared)}
            everyones: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(everyones, own, group)
            newest: dict[int, tuple[int, Any]] = {}
            for theirs in everyones:  # in order of rank: every process keeps the same states
                for number, state in theirs.items():
                    if number not in newest or state[0] > newest[number][0]:
                        newest[number] = state
            for number, (sweeps, labels) in newest.items():
                self._sweeps[number] = sweeps
                self._labels[number] = torch.from_numpy(np.array(labels))
        self._unshared.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all chains to a file, atomically.

        Parameters
        ----------
        path : path of a file; an existing file is replaced
        """
        state = {"seed": self.seed, "sweeps": dict(self._sweeps), "labels": dict(self._labels)}
        with replaced(os.fspath(path)) as partial, open(partial, "wb") as file:
            torch.save(state, file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ChainStore":
        """Read a store that `save` wrote.

        Parameters
        ----------
        path : path of a file

        Returns
        -------
        ChainStore

        Raises
        ------
        ValueError
            The file does not hold a store.
        """
        wrong = f"{os.fspath(path)} does not hold chains; ChainStore.save writes them"
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except OSError:
            raise
        except Exception as error:  # torch.load raises many types for a foreign file
            raise ValueError(wrong) from error
        if not _is_state(state):
            raise ValueError(wrong)
        store = cls(state["seed"])
        store._sweeps, store._labels = state["sweeps"], state["labels"]
        return store


def _is_state(state: Any) -> bool:
    """Return whether `state` has the structure that `ChainStore.save` writes."""
    if not isinstance(state, dict) or set(state) != {"seed", "sweeps", "labels"}:
        return False
    sweeps, labels = state["sweeps"], state["labels"]
    return (
        isinstance(state["seed"], int)
        and isinstance(sweeps, dict)
        and isinstance(labels, dict)
        and sweeps.keys() == labels.keys()
        and all(isinstance(n, int) for n in (*sweeps, *sweeps.values()))
        and all(isinstance(y, Tensor) and y.dim() == 2 for y in labels.values())
    )


def _numbers(index: Any, images: int) -> list[int]:
    """Check the indices of a batch's images and return them as Python integers."""
    given = index.tolist() if hasattr(index, "tolist") else index
    if not isinstance(given, (list, tuple, range)):
        raise TypeError(
            f"index is {type(index).__name__}; it must hold an index for each of {images} images"
        )
    if len(given) != images:
        raise ValueError(
            f"index holds {len(given)} numbers but logits {images} images; give the index of each "
            "image in the data set"
        )
    numbers = [
        checks.count(f"index[{i}]", n, 0, below_power=IMAGE_BITS) for i, n in enumerate(given)
    ]
    if len(set(numbers)) != len(numbers):
        raise ValueError("index holds an image twice; a batch may hold each image once")
    return numbers
