"""GibbsCRF: a grid CRF with arbitrary pairwise tables, learned by maximum likelihood."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ... import checks
from ..._limits import LABEL_BITS
from ..._typing import Array
from ...gibbs.checks import SEED_BITS, SWEEP_BITS, check_edges, check_labelling, check_offsets
from ...gibbs.neighbourhood import dense_neighbourhood
from ...gibbs.schedules import run_annealing, run_average, run_icm
from ...gibbs.sweeps import Sampler
from .chains import PAIR, Chains, check_kind, float32_logits
from .sampling import TensorEngine, check_backend

Method = Literal["marginals", "annealed", "icm"]
# Arguments of `decode` that a method does not take.
_NOT_OF: dict[str, tuple[str, ...]] = {
    "marginals": (), "annealed": ("burn_in", "chains"), "icm": ("sweeps", "burn_in", "chains"),
}
Reduction = Literal["mean", "sum"]


class GibbsCRF(nn.Module):
    """A CRF over the pixels' labels with a free table of scores for each translation vector.

    Unlike a CRF with Gaussian kernels it can express that one label lies to the left of another, or
    never next to itself. It is learned by stochastic gradient ascent on the likelihood, with
    samples drawn by Gibbs sampling from one persistent chain for each training image.

    Parameters
    ----------
    num_classes : int
        Number of labels L, at least 2. One logit x per pixel is the pair (0, x):
        ``torch.cat((torch.zeros_like(x), x), 1)``.
    offsets : array or sequence [C, 2] of int, optional
        Translation vectors (rows, columns), one for each table: each nonzero and not the opposite
        of another. Default: the 12 of `dense_neighbourhood(2)`; see also `sparse_neighbourhood`.
    sweeps, burn_in, chains : int
        Defaults in `marginals` and `decode`: sweeps to average over, after `burn_in` sweeps, in
        each of that many independent chains.
    backend : str
        "auto", "cpu", "numba" or "cuda"; `available_backends()` says which can run here. All draw
        the same labels.

    Attributes
    ----------
    tables : nn.Parameter [C, L, L]
        Score of label l (row) at a pixel and l' (column) at the pixel ``offsets[c]`` away from it:
        positive scores attract, negative ones repel. Initially 0: the CRF then samples from the
        softmax of the logits.
    offsets : buffer [C, 2] int32

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong kind or range.
    BackendUnavailableError
        `backend` cannot run here.

    Notes
    -----
    [Kirillov15] describes two ways of learning: *separate*, where the network is trained first and
    then frozen (``logits.detach()``), and *end to end*, where the loss also trains the network.
    Start both from a trained network. Logits and tables have the same unit, so one learning rate
    can serve both; see docs/gibbs.md.

    Examples
    --------
    >>> from densecrf_rnn.nn import ChainStore
    >>> crf, store = GibbsCRF(num_classes=3, offsets=[(0, 1), (1, 0)]), ChainStore()
    >>> network = nn.Conv2d(1, 3, 3, padding=1)
    >>> logits = network(torch.randn(2, 1, 8, 9))
    >>> chains = store.chains([0, 1], logits)  # the images' numbers in the data set
    >>> crf.loss(logits, torch.zeros(2, 8, 9).long(), chains).backward()
    >>> store.keep(chains)
    >>> crf.decode(logits).shape, crf.sample(logits, sweeps=5).shape
    (torch.Size([2, 8, 9]), torch.Size([2, 8, 9]))
    >>> crf.marginals(logits, sweeps=5, burn_in=5).shape
    torch.Size([2, 3, 8, 9])
    >>> crf.statistics_gap(torch.zeros(2, 8, 9).long(), chains).shape  # of each offset
    torch.Size([2])
    """

    offsets: Tensor
    chains: int = 1  # of modules that were pickled before it was an argument

    def __init__(
        self,
        num_classes: int,
        offsets: Array | Sequence[Sequence[int]] | None = None,
        *,
        sweeps: int = 100,
        burn_in: int = 20,
        chains: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_classes = checks.count("num_classes", num_classes, 1, below_power=LABEL_BITS)
        if self.num_classes == 1:
            raise ValueError(
                "num_classes is 1, so every pixel would get label 0; for one logit x per pixel, "
                f"build GibbsCRF(2) and give it the logits {PAIR.format('x')}"
            )
        given = dense_neighbourhood(2) if offsets is None else check_offsets(offsets)
        self.sweeps = checks.count("sweeps", sweeps, 1)
        self.burn_in = checks.count("burn_in", burn_in, 0)
        self.chains = checks.count("chains", chains, 1)
        check_backend(backend)
        self.backend = backend
        self.register_buffer("offsets", torch.from_numpy(given))
        self.tables = nn.Parameter(torch.zeros(len(given), self.num_classes, self.num_classes))

    def forward(
        self,
        logits: Tensor,
        target: Tensor | None = None,
        chains: Chains | int | None = None,
        **options: Any,
    ) -> Tensor:
        """Return `loss` if a target is given, else `marginals`.

        It exists for wrappers that call forward only, such as DistributedDataParallel.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        target : as for `loss`, or None
        chains : with a target as for `loss`, without one as for `marginals`
        **options
            Keyword arguments of `loss` or `marginals`.

        Returns
        -------
        Tensor
        """
        if target is None:
            return self.marginals(logits, chains=chains, **options)  # type: ignore[arg-type]
        if chains is None:
            raise ValueError(
                "target is given without chains; pass ChainStore().chains(index, logits)"
            )
        return self.loss(logits, target, chains, **options)  # type: ignore[arg-type]

    def loss(
        self,
        logits: Tensor,
        target: Tensor,
        chains: Chains,
        *,
        mask: Tensor | None = None,
        ignore_index: int = 255,
        sweeps: int = 1,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return the score of a sample minus that of the target.

        Its expected gradient is that of the negative log-likelihood: with respect to the logits,
        one-hot sample minus one-hot target; with respect to the tables, label-pair counts of the
        sample minus those of the target. Its value is not the likelihood: it is about 0 when model
        and data agree, and may be negative.

        Parameters
        ----------
        logits : Tensor [B, L, H, W], float32 (or lower precision under autocast), finite
        target : Tensor [B, H, W], integer
            Labels 0..L-1, or `ignore_index`.
        chains : Chains
            The chains of this batch's images, from `ChainStore.chains`; the sweeps update them.
        mask : Tensor [B, H, W] of bool, optional
            Pixels where the mask is False are excluded: they are not drawn, and their edges do not
            count.
        ignore_index : int
            Target value of further excluded pixels.
        sweeps : int, at least 1
            Number of sweeps of each chain before its sample is taken; 1 in the paper.
        reduction : {"mean", "sum"}
            "mean" divides the sum by the number of pixels that are not excluded.

        Returns
        -------
        Tensor, 0-dim

        Raises
        ------
        TypeError, ValueError
            An argument has the wrong kind, shape or range, or the chains another image size.

        Notes
        -----
        [Kirillov15] algorithm 1, as a loss to minimise.
        """
        logits = self._checked(logits, mask)
        checks.option("reduction", reduction, get_args(Reduction))
        sweeps = checks.count("sweeps", sweeps, 1)
        included = self._included((len(logits), *logits.shape[2:]), target, mask, ignore_index)
        self._check_chains(chains, logits)
        sampler = self._sampler(
            logits, chains.labels, included, chains.seed, chains.index, chains.sweeps
        )
        changes = sampler.draw(np.ones(sweeps, np.float32))
        sample = sampler.labels
        chains.labels = sample.to(chains.labels.dtype).where(included, chains.labels)
        chains.sweeps = list(sampler.sweeps)
        count = int(included.sum())
        chains.acceptance = float(changes[:, -1].sum()) / max(count, 1)

        wanted = target.to(torch.int32).where(included, -1)
        # [C, L, L], C offsets: pair counts of the sample minus those of the target.
        gap = (self._pairs(sample) - self._pairs(wanted)).to(logits)
        score = [logits.gather(1, y.clamp(min=0).long()[:, None])[:, 0] for y in (sample, wanted)]
        loss = (score[0] - score[1]).where(included, 0.0).sum() + (self.tables * gap).sum()
        return loss / max(count, 1) if reduction == "mean" else loss

    @torch.no_grad()
    def sample(
        self,
        logits: Tensor,
        *,
        sweeps: int,
        seed: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Draw a labelling of each image from its logits alone, then run `sweeps` Gibbs sweeps.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        sweeps : int, at least 0
        seed : int, 0 to 2^64 - 1
            Image b of the batch uses the random numbers of chain b.
        mask : Tensor [B, H, W] of bool, optional

        Returns
        -------
        Tensor [B, H, W] of int64; 0 outside the mask
        """
        sampler = self._sampler(self._checked(logits, mask), None, mask, seed, range(len(logits)))
        sampler.draw(np.ones(checks.count("sweeps", sweeps, 0), np.float32))
        return sampler.labels.clamp(min=0).long()

    @torch.no_grad()
    def marginals(
        self,
        logits: Tensor,
        sweeps: int | None = None,
        burn_in: int | None = None,
        *,
        chains: int | None = None,
        seed: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Estimate each pixel's marginal by averaging over chains; without gradients.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        sweeps, burn_in, chains : int, optional
            As for `gibbs.marginals`; by default those of the constructor.
        seed : int, 0 to 2^64 - 1
            All images of a batch use the same random numbers, so that the result of an image does
            not depend on its batch.
        mask : Tensor [B, H, W] of bool, optional

        Returns
        -------
        Tensor [B, L, H, W], float32
            At pixels outside the mask, the softmax of the logits.
        """
        logits = self._checked(logits, mask)
        sweeps = checks.count("sweeps", self.sweeps if sweeps is None else sweeps, 1)
        burn_in = checks.count("burn_in", self.burn_in if burn_in is None else burn_in, 0)
        chains = checks.count("chains", self.chains if chains is None else chains, 1)
        images, count, height, width = logits.shape
        sums = logits.new_zeros((images, height, width, count), dtype=torch.float64)
        for number in range(chains):
            state = self._sampler(logits, None, mask, seed, [number] * images)
            run_average(state, burn_in, sweeps, sums)
        # Divide by a tensor: CUDA would multiply by the rounded reciprocal of a Python number.
        q = (sums / sums.new_full((), sweeps * chains)).movedim(-1, 1).float()
        return q if mask is None else q.where(mask[:, None], logits.softmax(1))

    @torch.no_grad()
    def decode(
        self,
        logits: Tensor,
        *,
        method: Method = "marginals",
        sweeps: int | None = None,
        burn_in: int | None = None,
        chains: int | None = None,
        seed: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return a labelling of each image.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        method : {"marginals", "annealed", "icm"}
            "marginals": argmax of the marginals, which minimises the expected number of wrong
            pixels. The others approximate the most probable labelling: "annealed" as
            `gibbs.annealed` in `sweeps` sweeps, "icm" as `gibbs.icm` from the argmax of the logits.
        sweeps, burn_in, chains, seed, mask
            As for `marginals`; "annealed" takes no `burn_in` and `chains`, "icm" no `sweeps`
            either.

        Returns
        -------
        Tensor [B, H, W] of int64
            At pixels outside the mask, the argmax of the logits.
        """
        checks.option("method", method, get_args(Method))
        given = {"sweeps": sweeps, "burn_in": burn_in, "chains": chains}
        for name in _NOT_OF[method]:
            if given[name] is not None:
                raise ValueError(f"{name} is given, but method={method!r} has none; leave it out")
        if method == "marginals":
            q = self.marginals(logits, sweeps, burn_in, chains=chains, seed=seed, mask=mask)
            return q.argmax(1)
        logits = self._checked(logits, mask)
        numbers = [0] * len(logits)
        argmax = logits.argmax(1)
        if method == "annealed":
            sweeps = checks.count("sweeps", self.sweeps if sweeps is None else sweeps, 1)
            sampler = self._sampler(logits, None, mask, seed, numbers)
            run_annealing(sampler, sweeps)
        elif method == "icm":
            sampler = self._sampler(logits, argmax, mask, seed, numbers, numbers)
            run_icm(sampler)
        else:
            raise ValueError(f"method is {method!r}, which decode does not implement")
        return sampler.labels.long().where(sampler.labels >= 0, argmax)

    @torch.no_grad()
    def statistics_gap(
        self,
        target: Tensor,
        chains: Chains,
        *,
        mask: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Compare the distributions of label pairs in samples and targets, for each offset.

        The gap is near 0 at the maximum of the likelihood, except for sampling noise, and falls
        while learning proceeds.

        Parameters
        ----------
        target : Tensor [B, H, W], integer
        chains : Chains
            The chains of the same images.
        mask, ignore_index
            As for `loss`.

        Returns
        -------
        Tensor [C], float64
            Total variation distance of the two distributions of label pairs, in 0..1.

        Raises
        ------
        TypeError, ValueError
            The same errors as `loss`.
        """
        check_kind(chains)
        size = tuple(chains.labels.shape)
        check_labelling("chains.labels", chains.labels, size, self.num_classes, None)
        checks.array_kind("target", target, batched=True)
        if target.device != chains.labels.device:
            raise ValueError(
                f"target is on {target.device} but the chains on {chains.labels.device}; move one"
            )
        checks.mask(mask, size, batched=True)
        included = self._included(size, target, mask, ignore_index)
        check_offsets(self._vectors(), (size[1], size[2]))
        pairs = [
            self._pairs(y.to(torch.int32).where(included, -1)).double()
            for y in (chains.labels, target)
        ]
        return (pairs[0] - pairs[1]).abs().sum((1, 2)) / (2 * pairs[1].sum((1, 2)).clamp(min=1))

    def extra_repr(self) -> str:
        """Return the settings that are printed with the module."""
        return (
            f"num_classes={self.num_classes}, offsets={len(self.offsets)}, "
            f"sweeps={self.sweeps}, burn_in={self.burn_in}, chains={self.chains}"
        )

    # --- inside ---

    def _pairs(self, labels: Tensor) -> Tensor:
        """Count the label pairs of labels [B, H, W] int32 at the two ends of edges, [C, L, L]."""
        counts = torch.zeros(self.tables.shape, dtype=torch.int64, device=labels.device)
        engine = TensorEngine(self.backend, labels)
        engine.gibbs_statistics(labels, self._vectors(), counts, torch.get_num_threads())
        return counts

    def _vectors(self) -> Array:
        return np.asarray(self.offsets.cpu())

    def _sampler(
        self,
        logits: Tensor,
        labels: Tensor | None,
        mask: Tensor | None,
        seed: int,
        chains: Sequence[int],
        sweeps: Sequence[int] = (),
    ) -> Sampler:
        """Return a sampler whose chains are at `labels` after `sweeps` sweeps each.

        If `labels` is None, the chains start at a draw from the logits alone.
        """
        first = torch.zeros_like(logits[:, 0]) if labels is None else labels
        first = first.int() if mask is None else first.int().where(mask, -1)
        sampler = Sampler(
            logits.detach().contiguous(), first.contiguous(), self.tables.detach().contiguous(),
            self._vectors(), checks.count("seed", seed, 0, below_power=SEED_BITS), chains, sweeps,
            TensorEngine(self.backend, logits), torch.get_num_threads(),
        )  # fmt: skip
        if labels is None:
            sampler.start()
        return sampler

    def _checked(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Check logits and mask against this CRF; return the logits in float32."""
        logits = float32_logits(logits)
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits has {logits.shape[1]} labels but this GibbsCRF was made for "
                f"{self.num_classes}; make it with num_classes={logits.shape[1]}"
            )
        if self.tables.dtype != torch.float32 or self.tables.device != logits.device:
            raise TypeError(
                f"tables are {self.tables.dtype} on {self.tables.device} but logits "
                f"{logits.dtype} on {logits.device}; both must be float32 on one device "
                f"(crf.float().to({str(logits.device)!r}))"
            )
        tables = self.tables.detach()
        check_edges(logits.detach(), tables, self._vectors(), mask, batched=True)
        return logits

    def _included(
        self, size: tuple[int, ...], target: Tensor, mask: Tensor | None, ignore_index: int
    ) -> Tensor:
        """Check the target of a batch of `size` (B, H, W); return a mask of pixels that count."""
        checks.array_kind("target", target, batched=True)
        checks.ignored(ignore_index, self.num_classes)
        included = target != ignore_index
        if mask is not None and included.shape == mask.shape:
            included = included & mask
        fits = tuple(target.shape) == size
        check_labelling("target", target, size, self.num_classes, included if fits else None)
        return included

    def _check_chains(self, chains: Chains, logits: Tensor) -> None:
        check_kind(chains)
        size = (len(logits), *logits.shape[2:])
        check_labelling("chains.labels", chains.labels, size, self.num_classes, None)
        lengths = {len(chains.index), len(chains.sweeps)}
        if lengths != {len(logits)} or chains.labels.device != logits.device:
            raise ValueError(
                f"chains are {len(chains.index)} on {chains.labels.device} but logits hold "
                f"{len(logits)} images on {logits.device}; take the chains from ChainStore.chains"
            )
        if max(chains.sweeps, default=0) >= 2**SWEEP_BITS:
            raise ValueError(f"a chain has had 2^{SWEEP_BITS} sweeps; use a new ChainStore")
