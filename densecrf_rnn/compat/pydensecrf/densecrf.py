"""The classes of pydensecrf.densecrf, with its argument orders, signs and defaults."""

from enum import IntEnum
from typing import Any

import numpy as np

from ..._typing import Array
from ... import engines, checks
from ...kernels import normalizer
from ...inference.running import Filter, Run, run, softmax
from . import _arguments, utils


# pydensecrf processes points in groups of four and pads the last group with points at the origin,
# whose vertices stay in the lattice. One such point is enough to get the same lattice.
_GROUP = 4


class KernelType(IntEnum):
    """Learnable parameters of a kernel in pydensecrf; without effect here.

    Examples
    --------
    >>> crf = DenseCRF2D(4, 3, 2)
    >>> crf.addPairwiseGaussian(sxy=3, compat=3, kernel=DIAG_KERNEL)
    """

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Normalisation of a kernel matrix K with row sums n = K 1.

    In the order of the members: K, K diag(1/n), diag(1/n) K, diag(n^-1/2) K diag(n^-1/2).

    Examples
    --------
    >>> crf = DenseCRF2D(4, 3, 2)
    >>> crf.addPairwiseGaussian(sxy=3, compat=3, normalization=NORMALIZE_AFTER)
    """

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType

_NORMALIZATIONS: dict[IntEnum, str] = dict(
    zip(NormalizationType, ("none", "before", "after", "symmetric"), strict=True)
)


class Unary:
    """Base class of the unary energies that `DenseCRF.setUnary` takes.

    Parameters
    ----------
    energy : ndarray [L, N] float32

    Examples
    --------
    >>> isinstance(ConstUnary(np.zeros((2, 4), np.float32)), Unary)
    True
    """

    def __init__(self, energy: Array) -> None:
        self._energy = energy


class ConstUnary(Unary):
    """Unary energies given as an array.

    Parameters
    ----------
    u : ndarray [L, N] float32

    Raises
    ------
    TypeError, ValueError
        Another kind, dtype or shape, or invalid energies (NaN, -infinity).

    Examples
    --------
    >>> crf = DenseCRF(4, 2)
    >>> crf.setUnary(ConstUnary(np.zeros((2, 4), np.float32)))
    """

    def __init__(self, u: Array) -> None:
        given = _arguments.labelled("u", _arguments.matrix("u", u, (None, None)))
        super().__init__(_arguments.energies("u", given).copy())


class LogisticUnary(Unary):
    """Unary energies `L` @ `f` of a logistic regression.

    Parameters
    ----------
    L : ndarray [labels, F] float32
        Weights.
    f : ndarray [F, N] float32
        Features.

    Raises
    ------
    TypeError, ValueError
        Another kind, dtype or shape, or entries that are not finite.

    Examples
    --------
    >>> weights, features = np.eye(2, dtype=np.float32), np.zeros((2, 4), np.float32)
    >>> DenseCRF(4, 2).setUnary(LogisticUnary(weights, features))
    """

    def __init__(self, L: Array, f: Array) -> None:  # noqa: N803
        weights = _arguments.labelled("L", _arguments.matrix("L", L, (None, None)))
        _arguments.finite("L", weights)
        features = _arguments.matrix("f", f, (weights.shape[1], None))
        super().__init__(weights @ _arguments.finite("f", features))


class DenseCRF:
    """A dense CRF over any N variables, with the interface of pydensecrf's DenseCRF.

    Parameters
    ----------
    nvar : int
        Number N of variables: pixels, voxels, points.
    nlabels : int
        Number L of labels.

    Raises
    ------
    TypeError, ValueError
        An argument that is not a positive integer.

    Notes
    -----
    [KK11] algorithm 1. Energies are minus logits. Arguments are copied, never modified; results
    are NumPy arrays where pydensecrf returns wrapped matrices.

    Examples
    --------
    >>> from densecrf_rnn.compat.pydensecrf import utils
    >>> image = np.zeros((6, 8, 3), np.uint8)
    >>> labels = np.arange(48).reshape(6, 8) % 3  # 0 means unknown
    >>> crf = DenseCRF(48, 2)
    >>> energies = utils.unary_from_labels(labels, 2, gt_prob=0.7)
    >>> crf.setUnaryEnergy(energies)  # or crf.setUnary(ConstUnary(energies))
    >>> features = utils.create_pairwise_bilateral((80, 80), (13, 13, 13), image, chdim=2)
    >>> crf.addPairwiseEnergy(features, compat=10)
    >>> crf.inference(5).shape
    (2, 48)
    >>> q, tmp1, tmp2 = crf.startInference()
    >>> before = crf.klDivergence(q)
    >>> crf.stepInference(q, tmp1, tmp2)
    >>> crf.klDivergence(q) < before
    True
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._nvar = _arguments.whole("nvar", nvar, 1)
        self._nlabels = _arguments.whole("nlabels", nlabels, 1)
        self._points = self._nvar + (self._nvar % _GROUP > 0)  # with the padding point
        self._logits: Array | None = None  # [L, N]
        self._kernels: list[engines.LatticeKernel] = []
        self._couplings: list[Array] = []  # [L, L] each

    def setUnary(self, u: Unary) -> None:
        """Set the unary energies from a `ConstUnary` or a `LogisticUnary`.

        Raises
        ------
        TypeError, ValueError
            Another kind, or energies of another size.
        """
        if not isinstance(u, Unary):
            raise TypeError(f"u is {type(u).__name__}; give a ConstUnary, or use setUnaryEnergy")
        energy = _arguments.matrix("u", u._energy, (self._nlabels, self._nvar))
        self._logits = -energy

    def setUnaryEnergy(self, u: Array, f: Array | None = None) -> None:
        """Set the unary energies, such as minus the logarithm of probabilities.

        Parameters
        ----------
        u : ndarray [L, N] float32
            +infinity rules a label out.
        f : ndarray [F, N] float32, optional
            Features; the energies are then `u` @ `f`, and `u` is [L, F].

        Raises
        ------
        TypeError, ValueError
            Another kind, dtype or shape, or invalid energies (NaN, -infinity).
        """
        if f is not None:
            self.setUnary(LogisticUnary(u, f))
            return
        given = _arguments.matrix("u", u, (self._nlabels, self._nvar))
        self._logits = -_arguments.energies("u", given)

    def addPairwiseEnergy(
        self, features: Array, compat: Any, kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:  # fmt: skip
        """Add a Gaussian kernel over features that are already divided by their bandwidths.

        Parameters
        ----------
        features : ndarray [D, N] float32, 1 <= D <= 16
        compat : float, or ndarray [L] or [L, L] float32
            A number is the weight of a Potts model: positive values make similar variables agree.
            A vector holds the penalty of equal labels, a matrix the penalty of each pair of labels
            (its symmetric part is used). Penalties and weights have opposite signs.
        kernel : KernelType
            Checked, but without effect: nothing is learned here.
        normalization : NormalizationType

        Raises
        ------
        TypeError, ValueError
            An argument of another kind, dtype, shape or range, or features that are not finite or
            too far from 0 for a lattice.
        """
        given = _arguments.matrix("features", features, (None, self._nvar))
        _arguments.finite("features", given)
        _choice("kernel", kernel, KernelType)
        how = _choice("normalization", normalization, NormalizationType)
        coupling = _arguments.compatibility(compat, self._nlabels)
        checks.coupling(coupling[None], self._nvar, float(np.finfo(np.float32).max))
        rows = np.zeros((self._points, len(given)), np.float32)
        rows[: self._nvar] = given.T
        self._kernels.append(self._kernel(rows, how))
        self._couplings.append(coupling)

    def _kernel(self, rows: Array, how: IntEnum) -> engines.LatticeKernel:
        """Build the normalised lattice of features [points, D]; padding points send no message."""
        checks.features(rows)
        engine, threads = engines.engine("auto"), engines.default_threads()
        plan = engines.Plan.empty(len(rows), rows.shape[1], rows.dtype, "standard")
        if not engine.build([rows], [plan], "standard", threads):
            checks.refuse_features(rows, float64="")
        sends = np.ones(self._points, np.float32)
        sends[self._nvar :] = 0
        before = after = None
        normalize = normalizer(_NORMALIZATIONS.get(how, how.name))
        if normalize.needs_mass:
            mass = np.empty((self._points, 1), np.float32)
            engine.filter(plan, sends[:, None], mass, False, threads)
            before, after = normalize.scales(mass[:, 0])
        if self._points > self._nvar:
            before = sends if before is None else before * sends
        return engines.LatticeKernel(plan, before, after)

    def inference(self, niter: int) -> Array:
        """Compute the marginals after `niter` mean-field iterations.

        Parameters
        ----------
        niter : int, at least 0

        Returns
        -------
        ndarray [L, N] float32
            Marginals, which sum to 1 over the labels; ``np.argmax(Q, axis=0)`` is the labelling.

        Raises
        ------
        TypeError, ValueError
            `niter` is not an integer of at least 0.
        BackendUnavailableError
            No engine can run here; the message says why.
        """
        niter = _arguments.whole("niter", niter, 0)
        u = np.zeros((self._nlabels, self._points), np.float32)
        if self._logits is not None:
            u[:, : self._nvar] = self._logits
        if niter == 0 or not self._kernels:
            return softmax(u[:, : self._nvar], axis=0)
        engine = engines.engine("auto")
        how = Run(engine, self._kernels, niter, True, engines.default_threads())
        q = run(u, np.stack(self._couplings), how)
        if q is None:
            raise ValueError("the energies exceed the range of float32; rescale them")
        return np.ascontiguousarray(q[:, : self._nvar])

    def startInference(self) -> tuple[Array, Array, Array]:
        """Return the arguments of `stepInference`: marginals of the unaries, and unused arrays.

        Returns
        -------
        Q : ndarray [L, N] float32
            All 0 if no energies were set; the first step makes them uniform, as in
            pydensecrf.
        tmp1, tmp2 : ndarray [0, 0] float32
            Empty and not used, for the signature of pydensecrf.
        """
        if self._logits is None:
            q = np.zeros((self._nlabels, self._nvar), np.float32)
        else:
            q = np.ascontiguousarray(softmax(self._logits, axis=0))
        return q, np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: Array, tmp1: Any, tmp2: Any) -> None:  # noqa: N803
        """Run one mean-field iteration in place.

        Parameters
        ----------
        Q : ndarray [L, N] float32
            Marginals, overwritten.
        tmp1, tmp2
            Not used.

        Raises
        ------
        TypeError, ValueError
            `Q` has another kind, dtype or shape, or is read-only.
        """
        q = self._marginals(Q)
        if not q.flags.writeable:
            raise ValueError("Q is read-only; pass the array that startInference returned")
        refined = 0 if self._logits is None else self._logits
        q[...] = softmax(refined - self._pairwise(q), axis=0)

    def klDivergence(self, Q: Array) -> float:  # noqa: N803
        """Compute pydensecrf's convergence measure.

        It is sum Q ln Q + sum Q u + sum_m Q . (compat_m K_m Q), which counts every pair of
        variables twice. Mean field minimises `densecrf_rnn.energy.free_energy` instead.

        Parameters
        ----------
        Q : ndarray [L, N] float32

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            `Q` has another kind, dtype or shape, or is not finite.
        """
        q = self._marginals(Q)
        wide = q.astype(np.float64)
        energy = (wide * np.log(np.maximum(wide, 1e-20))).sum()
        if self._logits is not None:
            energy -= (wide * np.where(q > 0, self._logits, 0)).sum()
        return float(energy + (wide * self._pairwise(q)).sum())

    def _marginals(self, given: Any) -> Array:
        q = _arguments.matrix("Q", given, (self._nlabels, self._nvar))
        return _arguments.finite("Q", q)

    def _pairwise(self, q: Array) -> Array:
        """Return the pairwise energy of each label, given the marginals q. [L, N] -> [L, N]"""
        engine, threads = engines.engine("auto"), engines.default_threads()
        rows = np.zeros((self._points, self._nlabels), np.float32)
        rows[: self._nvar] = q.T
        found = np.zeros_like(q)
        for kernel, coupling in zip(self._kernels, self._couplings, strict=True):
            message = Filter(kernel, engine, threads)(rows)[: self._nvar]
            found += coupling @ message.T
        return found


class DenseCRF2D(DenseCRF):
    """A dense CRF over the pixels of an image; pixel (y, x) has the index y * w + x.

    Parameters
    ----------
    w, h : int
        Width and height, in this order.
    nlabels : int
        Number L of labels.

    Raises
    ------
    TypeError, ValueError
        An argument that is not a positive integer.

    Examples
    --------
    >>> image = np.zeros((6, 8, 3), np.uint8)
    >>> crf = DenseCRF2D(8, 6, 2)
    >>> crf.setUnaryEnergy(np.zeros((2, 48), np.float32))
    >>> crf.addPairwiseGaussian(sxy=3, compat=3)
    >>> crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    >>> np.argmax(crf.inference(5), axis=0).reshape(6, 8).shape
    (6, 8)
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        self._size = (_arguments.whole("h", h, 1), _arguments.whole("w", w, 1))
        super().__init__(self._size[0] * self._size[1], nlabels)

    def addPairwiseGaussian(
        self, sxy: Any, compat: Any, kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:  # fmt: skip
        """Add a Gaussian kernel over positions.

        Parameters
        ----------
        sxy : float, or (float, float)
            Positive bandwidth in pixels: one, or one each for x (columns) and y (rows).
        compat, kernel, normalization
            As in `addPairwiseEnergy`.

        Raises
        ------
        TypeError, ValueError
            An argument of another kind or range.
        """
        across, down = _arguments.bandwidths("sxy", sxy, 2)
        features = utils.create_pairwise_gaussian((down, across), self._size)
        self.addPairwiseEnergy(features[::-1], compat, kernel, normalization)  # x before y

    def addPairwiseBilateral(
        self, sxy: Any, srgb: Any, rgbim: Array, compat: Any, kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:  # fmt: skip
        """Add a Gaussian kernel over positions and colours.

        Parameters
        ----------
        sxy : float, or (float, float)
            Positive bandwidth in pixels: one, or one each for x (columns) and y (rows).
        srgb : float, or (float, float, float)
            Positive bandwidth in intensity: one, or one per channel.
        rgbim : ndarray [h, w, 3] uint8
        compat, kernel, normalization
            As in `addPairwiseEnergy`.

        Raises
        ------
        TypeError, ValueError
            An argument of another kind, dtype, shape or range.
        """
        if not isinstance(rgbim, np.ndarray):
            raise TypeError(f"rgbim is {type(rgbim).__name__}; give a NumPy array of uint8")
        if rgbim.dtype != np.uint8:
            raise _arguments.DtypeError(
                f"rgbim has dtype {rgbim.dtype}; it must be uint8, 0..255 (for other images, pass "
                "the features of utils.create_pairwise_bilateral to addPairwiseEnergy)"
            )
        if rgbim.shape != (*self._size, 3):
            raise ValueError(
                f"rgbim has shape {rgbim.shape}; it must be {(*self._size, 3)}: rows, columns, "
                "three channels (for others use utils.create_pairwise_bilateral)"
            )
        across, down = _arguments.bandwidths("sxy", sxy, 2)
        colours = _arguments.bandwidths("srgb", srgb, 3)
        features = utils.create_pairwise_bilateral((down, across), colours, rgbim, chdim=2)
        order = [1, 0, 2, 3, 4]  # x before y
        self.addPairwiseEnergy(features[order], compat, kernel, normalization)


def _choice(name: str, value: Any, kind: type[IntEnum]) -> IntEnum:
    """Check a member of an enumeration, or its number, and return the member."""
    allowed = ", ".join(member.name for member in kind)
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {type(value).__name__}; choose from {allowed}")
    if int(value) not in list(kind):
        raise ValueError(f"{name} is {int(value)}; choose from {allowed}")
    return kind(int(value))
