"""GibbsCRF: a grid CRF with arbitrary pairwise tables, learned by maximum likelihood."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..._typing import Array
from ... import engines, checks
from ...gibbs.checks import check_labelling, check_logits, check_offsets, check_potentials
from ...gibbs.neighbourhood import dense_neighbourhood
from .chains import Chains, check_kind
from ..functional import autocast_to_float32
from .sampling import gibbs_sweep, pair_counts, start


class GibbsCRF(nn.Module):
    """A CRF over the pixels' labels with a free table of scores for each translation vector.

    What Gaussian kernels cannot express it can: that a label stands left of another, or never
    beside itself. It is learned by stochastic gradient ascent on the likelihood, with samples drawn
    by Gibbs sampling from one persistent chain for each training image.

    Parameters
    ----------
    num_classes : int
        Labels L, at least 1.
    offsets : array or sequence [C, 2] of int, optional
        Translation vectors (rows, columns), one for each table: none zero, none the opposite of
        another. Default: `dense_neighbourhood(2)`, 12 of them; see also `sparse_neighbourhood`.
    sweeps, burn_in : int
        Of `marginals` and `decode` where they are given none.
    backend : str
        "auto", or a name from `available_backends()`. All give the same labels.

    Attributes
    ----------
    tables : nn.Parameter [C, L, L]
        Score of label l (row) at a pixel and l' (column) at the pixel ``offsets[c]`` away from it;
        above 0 attracts, below 0 repels. They start at 0: a CRF that leaves the network as it is.
    offsets : buffer [C, 2] int32

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or range.
    BackendUnavailableError
        `backend` cannot run here.

    Notes
    -----
    [Kirillov15]. Its two ways of learning: *separate*, where the network is trained before and
    frozen (``logits.detach()``), and *end to end*, where the loss's gradient goes on into the
    network. Start either from a trained network. Networks and tables are of one unit, so one
    learning rate can serve both; docs/gibbs.md tells more.

    Examples
    --------
    >>> from densecrf_rnn.nn import ChainStore
    >>> crf, store = GibbsCRF(num_classes=3, offsets=[(0, 1), (1, 0)]), ChainStore()
    >>> network = nn.Conv2d(1, 3, 3, padding=1)
    >>> logits = network(torch.randn(2, 1, 8, 9))
    >>> chains = store.chains([0, 1], logits)  # the images' numbers in the data set
    >>> crf.loss(logits, torch.zeros(2, 8, 9).long(), chains).backward()
    >>> store.keep(chains)
    >>> crf.decode(logits).shape
    torch.Size([2, 8, 9])
    """

    offsets: Tensor

    def __init__(
        self,
        num_classes: int,
        offsets: Array | Sequence[Sequence[int]] | None = None,
        *,
        sweeps: int = 100,
        burn_in: int = 20,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_classes = checks.count("num_classes", num_classes, 1, below_power=16)
        given = dense_neighbourhood(2) if offsets is None else check_offsets(offsets)
        self.sweeps = checks.count("sweeps", sweeps, 1)
        self.burn_in = checks.count("burn_in", burn_in, 0)
        if backend != "cuda":  # which is asked when a tensor is there
            engines.resolve(backend)
        self.backend = backend
        self.register_buffer("offsets", torch.from_numpy(given))
        self.tables = nn.Parameter(torch.zeros(len(given), self.num_classes, self.num_classes))

    def forward(
        self,
        logits: Tensor,
        target: Tensor | None = None,
        chains: Chains | None = None,
        **options: Any,
    ) -> Tensor:
        """`loss` where a target is given, else `marginals`: what modules that wrap this one call.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        target, chains : as for `loss`, or neither
        **options
            Of `loss` or of `marginals`.

        Returns
        -------
        Tensor
        """
        if target is None:
            return self.marginals(logits, **options)
        if chains is None:
            raise ValueError("target is given without chains; ChainStore().chains(index, logits)")
        return self.loss(logits, target, chains, **options)

    def loss(
        self,
        logits: Tensor,
        target: Tensor,
        chains: Chains,
        *,
        mask: Tensor | None = None,
        ignore_index: int = 255,
        sweeps: int = 1,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> Tensor:
        """The score of a sample less that of the target, whose gradient is the likelihood's.

        Its mean over samples has exactly the gradient of the negative log-likelihood: for the
        logits, one-hot sample less one-hot target; for the tables, counts of label pairs in the
        sample less those in the target. Its value is not the likelihood: it is about 0 where model
        and data agree, and may be below.

        Parameters
        ----------
        logits : Tensor [B, L, H, W], float32 (lower under autocast), finite
        target : Tensor [B, H, W], integer
            Labels 0..L-1, or `ignore_index`.
        chains : Chains
            Of this batch's images, from `ChainStore.chains`; moved on by the sweeps.
        mask : Tensor [B, H, W] of bool, optional
            False pixels take no part: they are not drawn, and edges to them do not count.
        ignore_index : int
            Target of pixels that take no part.
        sweeps : int, at least 1
            Sweeps of each chain before its sample is taken; the paper's is 1.
        reduction : {"mean", "sum"}
            Over the pixels that take part.

        Returns
        -------
        Tensor, a number

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong kind, shape or range, or chains of images of another size.

        Notes
        -----
        [Kirillov15] algorithm 1, as a loss to be minimised.
        """
        logits = self._checked(logits, mask)
        checks.option("reduction", reduction, ("mean", "sum"))
        sweeps = checks.count("sweeps", sweeps, 1)
        taken = self._taken((len(logits), *logits.shape[2:]), target, mask, ignore_index)
        self._check_chains(chains, logits)
        sample = chains.labels.to(torch.int32).where(taken, -1)
        changes = self._sweep(
            logits, sample, np.ones(sweeps, np.float32), chains.seed, chains.index, chains.sweeps
        )
        chains.labels = sample.to(chains.labels.dtype).where(taken, chains.labels)
        chains.sweeps = [s + sweeps for s in chains.sweeps]
        count = int(taken.sum())
        chains.acceptance = float(changes[:, -1].sum()) / max(count, 1)

        wanted = target.to(torch.int32).where(taken, -1)
        gap = (self._pairs(sample) - self._pairs(wanted)).to(logits)  # [C, L, L]
        score = [logits.gather(1, y.clamp(min=0).long()[:, None])[:, 0] for y in (sample, wanted)]
        loss = (score[0] - score[1]).where(taken, 0.0).sum() + (self.tables * gap).sum()
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
        """A labelling of each image after some sweeps from a draw from its logits alone.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        sweeps : int, at least 0
        seed : int, 0 to 2^64 - 1
            Image b of the batch is chain b.
        mask : Tensor [B, H, W] of bool, optional

        Returns
        -------
        Tensor [B, H, W] of int64; 0 outside the mask
        """
        logits = self._checked(logits, mask)
        chains = list(range(len(logits)))
        labels = self._start(logits, mask, seed, chains)
        sweeps = checks.count("sweeps", sweeps, 0)
        self._sweep(logits, labels, np.ones(sweeps, np.float32), seed, chains, [1] * len(chains))
        return labels.clamp(min=0).long()

    @torch.no_grad()
    def marginals(
        self,
        logits: Tensor,
        sweeps: int | None = None,
        burn_in: int | None = None,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The marginals of each pixel's label, averaged over a chain; without gradients.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        sweeps, burn_in : int, optional
            As for `gibbs.marginals`; default those of the constructor.
        seed : int, 0 to 2^64 - 1
            All images of a batch use the same random numbers, so what an image gets does not
            depend on its batch.
        mask : Tensor [B, H, W] of bool, optional

        Returns
        -------
        Tensor [B, L, H, W], float32
            For pixels outside the mask, the softmax of their logits.
        """
        logits = self._checked(logits, mask)
        sweeps = checks.count("sweeps", self.sweeps if sweeps is None else sweeps, 1)
        burn_in = checks.count("burn_in", self.burn_in if burn_in is None else burn_in, 0)
        chains = [0] * len(logits)
        labels = self._start(logits, mask, seed, chains)
        images, count, height, width = logits.shape
        shape = (images, height, width, count)
        sums = torch.zeros(shape, dtype=torch.float64, device=logits.device)
        one = np.ones(burn_in + sweeps, np.float32)
        self._sweep(logits, labels, one[:burn_in], seed, chains, [1] * images)
        self._sweep(logits, labels, one[burn_in:], seed, chains, [1 + burn_in] * images, sums)
        # By a tensor: on CUDA, division by a Python number multiplies by its rounded reciprocal.
        q = (sums / sums.new_full((), sweeps)).movedim(-1, 1).float()
        return q if mask is None else q.where(mask[:, None], logits.softmax(1))

    @torch.no_grad()
    def decode(
        self,
        logits: Tensor,
        *,
        method: Literal["marginals", "annealed", "icm"] = "marginals",
        sweeps: int | None = None,
        burn_in: int | None = None,
        seed: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The labelling of each image.

        Parameters
        ----------
        logits : Tensor [B, L, H, W]
        method : {"marginals", "annealed", "icm"}
            The label of the greatest marginal, which errs at the fewest pixels; or an approximate
            MAP for comparison: by cooling a chain from temperature 1 to 0.05 in `sweeps`, or from
            the logits' own labels by single pixels (ICM), both until no pixel can raise the score.
        sweeps, burn_in, seed, mask
            As for `marginals`.

        Returns
        -------
        Tensor [B, H, W] of int64
            For pixels outside the mask, the label of the greatest logit.
        """
        checks.option("method", method, ("marginals", "annealed", "icm"))
        if method == "marginals":
            return self.marginals(logits, sweeps, burn_in, seed=seed, mask=mask).argmax(1)
        logits = self._checked(logits, mask)
        chains = [0] * len(logits)
        likeliest = logits.argmax(1)
        if method == "annealed":
            sweeps = checks.count("sweeps", self.sweeps if sweeps is None else sweeps, 1)
            labels = self._start(logits, mask, seed, chains)
            cooling = (1 / np.geomspace(1, 0.05, sweeps)).astype(np.float32)
            self._sweep(logits, labels, cooling, seed, chains, [1] * len(logits))
        else:
            labels = likeliest.int() if mask is None else likeliest.int().where(mask, -1)
        greedy = np.full(1, np.inf, np.float32)
        for _ in range(1000):
            if int(self._sweep(logits, labels, greedy, seed, chains, [0] * len(logits)).sum()) == 0:
                break
        return labels.long().where(labels >= 0, likeliest)

    @torch.no_grad()
    def statistics_gap(
        self,
        target: Tensor,
        chains: Chains,
        *,
        mask: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """How far the label pairs of samples are from those of their targets, by edge class.

        Near 0 at the maximum of the likelihood, but for the noise of sampling; what learning
        brings down.

        Parameters
        ----------
        target : Tensor [B, H, W], integer
        chains : Chains
            Of the same images.
        mask, ignore_index
            Those of the loss: which pixels count.

        Returns
        -------
        Tensor [C], float64
            Half the sum of the differences between the shares of all L x L pairs: 0..1.

        Raises
        ------
        TypeError, ValueError
            As `loss`.
        """
        check_kind(chains)
        size = tuple(chains.labels.shape)
        check_labelling("chains.labels", chains.labels, size, self.num_classes, None)
        checks.array_kind("target", target, batched=True)
        if target.device != chains.labels.device:
            raise ValueError(
                f"target is on {target.device} but the chains on {chains.labels.device}; move one"
            )
        if mask is not None:
            checks.mask(mask, size, batched=True)
        taken = self._taken(size, target, mask, ignore_index)
        check_offsets(self._vectors(), (size[1], size[2]))
        pairs = [
            self._pairs(y.to(torch.int32).where(taken, -1)).double()
            for y in (chains.labels, target)
        ]
        return (pairs[0] - pairs[1]).abs().sum((1, 2)) / (2 * pairs[1].sum((1, 2)).clamp(min=1))

    def extra_repr(self) -> str:
        """The settings that print with the module."""
        return (
            f"num_classes={self.num_classes}, offsets={len(self.offsets)}, "
            f"sweeps={self.sweeps}, burn_in={self.burn_in}"
        )

    # --- inside ---

    def _pairs(self, labels: Tensor) -> Tensor:
        return pair_counts(labels, self.num_classes, self._vectors(), self.backend)

    def _vectors(self) -> Array:
        vectors: Array = self.offsets.cpu().numpy()
        return vectors

    def _sweep(
        self,
        logits: Tensor,
        labels: Tensor,
        inverse_temperature: Array,
        seed: int,
        chains: Sequence[int],
        first_sweep: Sequence[int],
        sums: Tensor | None = None,
    ) -> Tensor:
        return gibbs_sweep(
            logits, labels, self.tables, self._vectors(), seed=seed, chains=chains,
            first_sweep=first_sweep, inverse_temperature=inverse_temperature, sums=sums,
            backend=self.backend,
        )  # fmt: skip

    def _start(
        self, logits: Tensor, mask: Tensor | None, seed: int, chains: Sequence[int]
    ) -> Tensor:
        """A draw from the logits alone, as sweep 0. [B, H, W] int32, below 0 outside the mask"""
        seed = checks.count("seed", seed, 0, below_power=64)
        labels = logits.new_zeros((len(logits), *logits.shape[2:]), dtype=torch.int32)
        if mask is not None:
            labels = labels.where(mask, -1)
        start(logits, labels, seed=seed, chains=chains, backend=self.backend)
        return labels

    def _checked(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Logits in float32, if they and the mask suit this CRF."""
        logits = autocast_to_float32(logits)
        seen = logits.detach() if isinstance(logits, Tensor) else logits
        check_logits(seen, batched=True)
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits has {logits.shape[1]} labels but this GibbsCRF was made for "
                f"{self.num_classes}; make it with num_classes={logits.shape[1]}"
            )
        check_offsets(self._vectors(), (logits.shape[2], logits.shape[3]))
        if self.tables.dtype != torch.float32 or self.tables.device != logits.device:
            raise TypeError(
                f"tables are {self.tables.dtype} on {self.tables.device} but logits "
                f"{logits.dtype} on {logits.device}; labels are drawn in float32 where both are "
                f"(crf.float().to({str(logits.device)!r}))"
            )
        checks.parameter("tables", self.tables.detach())
        if len(logits):
            check_potentials(logits.detach(), self.tables.detach())
        if mask is not None:
            checks.mask(mask, (len(logits), *logits.shape[2:]), batched=True)
        return logits

    def _taken(
        self, size: tuple[int, ...], target: Tensor, mask: Tensor | None, ignore_index: int
    ) -> Tensor:
        """Which pixels of `size` (B, H, W) take part, [B, H, W]."""
        checks.array_kind("target", target, batched=True)
        checks.ignored(ignore_index, self.num_classes)
        taken = target != ignore_index
        if mask is not None and taken.shape == mask.shape:
            taken = taken & mask
        fits = tuple(target.shape) == size
        check_labelling("target", target, size, self.num_classes, taken if fits else None)
        return taken

    def _check_chains(self, chains: Chains, logits: Tensor) -> None:
        check_kind(chains)
        size = (len(logits), *logits.shape[2:])
        check_labelling("chains.labels", chains.labels, size, self.num_classes, None)
        lengths = {len(chains.index), len(chains.sweeps)}
        if lengths != {len(logits)} or chains.labels.device != logits.device:
            raise ValueError(
                f"chains are {len(chains.index)} on {chains.labels.device} but logits "
                f"{len(logits)} images on {logits.device}; take them from ChainStore.chains"
            )
        if max(chains.sweeps, default=0) >= 2**31:
            raise ValueError("a chain has had 2^31 sweeps; begin with a new ChainStore")
