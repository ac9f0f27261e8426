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
from ..._atomic import replaced
from ...gibbs.checks import check_logits
from . import sampling
from ..functional import autocast_to_float32


@dataclass
class Chains:
    """Where the chains of a batch stand; `GibbsCRF.loss` moves them on.

    Attributes
    ----------
    labels : Tensor [B, H, W], uint8, or int32 for more than 256 labels
    index : list of B int
        Number of each chain, such as its image's in the data set.
    sweeps : list of B int
        How many sweeps each has had.
    seed : int
    acceptance : float
        Share of the last sweep's draws that changed a label; NaN before there was one.
    """

    labels: Tensor
    index: list[int]
    sweeps: list[int]
    seed: int
    acceptance: float = float("nan")


def check_kind(chains: Any) -> None:
    """Chains, and nothing else."""
    if not isinstance(chains, Chains):
        raise TypeError(
            f"chains is {type(chains).__name__}; it must be Chains, from "
            "ChainStore().chains(index, logits)"
        )


class ChainStore:
    """The chains of a training set: all that Gibbs learning keeps between epochs.

    One byte for each pixel (four for more than 256 labels), in the memory of the CPU. Where a chain
    goes next depends on the seed, its number and its own sweeps alone, so training gives the same
    numbers whatever process an image is in and whatever else is in its batch.

    Parameters
    ----------
    seed : int, 0 to 2^64 - 1

    Raises
    ------
    TypeError, ValueError

    Notes
    -----
    [Kirillov15] section 3. A chain belongs to one picture: random crops or flips of it are other
    pictures. Augment before, with an index for each variant, or do without.

    Examples
    --------
    >>> store = ChainStore()
    >>> chains = store.chains([7, 8], torch.zeros(2, 4, 5, 6))
    >>> chains.labels.shape, chains.sweeps
    (torch.Size([2, 5, 6]), [1, 1])
    >>> store.keep(chains)
    >>> len(store), 7 in store
    (2, True)
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = checks.count("seed", seed, 0, below_power=64)
        self._labels: dict[int, Tensor] = {}
        self._sweeps: dict[int, int] = {}
        self._unshared: set[int] = set()  # kept since the last `synchronize`

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, index: object) -> bool:
        return index in self._labels

    def chains(self, index: Sequence[int] | Tensor, logits: Tensor) -> Chains:
        """The chains of a batch; those not yet here begin with a draw from their logits alone.

        Parameters
        ----------
        index : B int, or Tensor [B]
            Numbers of the images in the data set, each once.
        logits : Tensor [B, L, H, W], float32

        Returns
        -------
        Chains
            On the device of `logits`.

        Raises
        ------
        TypeError, ValueError
            Numbers and logits that do not go together, or a stored chain of another size or with
            labels that the logits do not have.
        """
        checks.array_kind("logits", logits, batched=True)
        logits = autocast_to_float32(logits.detach())
        check_logits(logits, batched=True)
        numbers = _numbers(index, len(logits))
        images, count, height, width = logits.shape
        labels = torch.zeros((images, height, width), dtype=torch.int32)
        fresh = [b for b, number in enumerate(numbers) if number not in self]
        if fresh:
            start = torch.zeros((len(fresh), height, width), dtype=torch.int32)
            chains = [numbers[b] for b in fresh]
            sampling.start(
                logits[fresh].cpu(), start, seed=self.seed, chains=chains, backend="auto"
            )
            labels[fresh] = start
        for b, number in enumerate(numbers):
            if number not in self:
                continue
            kept = self._labels[number]
            if tuple(kept.shape) != (height, width):
                raise ValueError(
                    f"the chain of image {number} is {kept.shape[0]} x {kept.shape[1]} but its "
                    f"logits are {height} x {width}; an image must keep its size, or have a store "
                    "or a number of its own for each"
                )
            if int(kept.max()) >= count:
                raise ValueError(
                    f"the chain of image {number} holds the label {int(kept.max())} but logits has "
                    f"{count} labels; begin with a new ChainStore"
                )
            labels[b] = kept
        sweeps = [self._sweeps.get(number, 1) for number in numbers]
        dtype = torch.uint8 if count <= 256 else torch.int32
        return Chains(labels.to(logits.device, dtype), numbers, sweeps, self.seed)

    def keep(self, chains: Chains) -> None:
        """Store where chains stand now.

        Parameters
        ----------
        chains : Chains

        Raises
        ------
        TypeError
            What is given are no chains.
        ValueError
            They are another store's: their seed is not this one's.
        """
        check_kind(chains)
        if chains.seed != self.seed:
            raise ValueError(
                f"the chains have seed {chains.seed} but the store {self.seed}; keep chains in the "
                "store that they came from"
            )
        for number, labels, sweeps in zip(
            chains.index, chains.labels.cpu(), chains.sweeps, strict=True
        ):
            self._labels[number] = labels.clone()
            self._sweeps[number] = sweeps
            self._unshared.add(number)

    def synchronize(self, group: Any = None) -> None:
        """Exchange what was kept since the last time with the other processes of a group.

        For distributed training whose sampler shuffles images between processes: once an epoch, in
        every process. Of two states of one chain the one with more sweeps stays.

        Parameters
        ----------
        group : torch.distributed process group, optional
            Default: all processes. Without torch.distributed at work there is nothing to do.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            own = {n: (self._sweeps[n], self._labels[n].numpy()) for n in sorted(self._unshared)}
            everyones: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(everyones, own, group)
            newest: dict[int, tuple[int, Any]] = {}
            for theirs in everyones:  # in the order of ranks, the same in every process
                for number, state in theirs.items():
                    if number not in newest or state[0] > newest[number][0]:
                        newest[number] = state
            for number, (sweeps, labels) in newest.items():
                self._sweeps[number] = sweeps
                self._labels[number] = torch.from_numpy(np.array(labels))
        self._unshared.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all chains to a file, which is whole or is not there.

        Parameters
        ----------
        path : path of a file; a file that is there is replaced
        """
        state = {"seed": self.seed, "sweeps": dict(self._sweeps), "labels": dict(self._labels)}
        with replaced(os.fspath(path)) as partial, open(partial, "wb") as file:
            torch.save(state, file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ChainStore":
        """The store that `save` wrote.

        Parameters
        ----------
        path : path of a file

        Returns
        -------
        ChainStore

        Raises
        ------
        ValueError
            The file holds something else.
        """
        wrong = f"{os.fspath(path)} does not hold chains; ChainStore.save writes them"
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except OSError:
            raise
        except Exception as error:  # torch has many for what it did not write
            raise ValueError(wrong) from error
        if not _is_state(state):
            raise ValueError(wrong)
        store = cls(state["seed"])
        store._sweeps, store._labels = state["sweeps"], state["labels"]
        return store


def _is_state(state: Any) -> bool:
    """Whether `ChainStore.save` may have written it."""
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
    """Numbers of the images of a batch, as Python's."""
    given = index.tolist() if hasattr(index, "tolist") else index
    if not isinstance(given, (list, tuple, range)):
        raise TypeError(
            f"index is {type(index).__name__}; it must hold a number for each of {images} images"
        )
    if len(given) != images:
        raise ValueError(
            f"index holds {len(given)} numbers but logits {images} images; give the number of each "
            "in the data set"
        )
    numbers = [checks.count(f"index[{i}]", n, 0, below_power=63) for i, n in enumerate(given)]
    if len(set(numbers)) != len(numbers):
        raise ValueError("index names an image twice; a batch holds an image once")
    return numbers
