"""Load the CRF parameters of the published CRF-RNN packages into a CRFRNN.

The Caffe, Keras and PyTorch releases multiply messages by L x L matrices from the left, as this
package does, so nothing is transposed. With logits U, messages M and compatibility C [L, L], Caffe
and Keras compute U - C M and start at C = -I; crfasrnn_pytorch computes U + C M and starts at
C = +I. This package computes U - C M.

Torch is not imported; all torch operations are methods of the given layer and tensors.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._typing import Array
from ..kernels import from_params

if TYPE_CHECKING:
    from ..nn import CRFRNN


# Names of the matrices in PyTorch and Keras, in the order of the lists of Keras and Caffe.
NAMES = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
# Settings hard-coded alike in the Caffe, Keras and PyTorch releases of CRF-RNN.
_PUBLISHED = {
    "theta_alpha": 160.0, "theta_beta": 3.0, "theta_gamma": 3.0, "normalization": "after",
    "self_term": True, "feature_order": "xy", "spatial": "lattice", "quality": "standard",
}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """Report of a conversion; `str` formats it.

    Attributes
    ----------
    source : str
        Name of the package.
    converted : dict
        Parameter of the CRFRNN -> name of its source, and how it was converted.
    ignored : dict
        Name of an entry that was not used -> the reason.
    differences : tuple of str
        Settings of the CRFRNN that differ from those of the package, so that results differ.

    Examples
    --------
    >>> ignored = {"bn.weight": "not of the CRF"}
    >>> print(Conversion("a package", {"compatibility": "mu"}, ignored, ()))
    from a package
      compatibility <- mu
      ignored bn.weight: not of the CRF
    """

    source: str
    converted: dict[str, str]
    ignored: dict[str, str]
    differences: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"from {self.source}"]
        lines += [f"  {name} <- {origin}" for name, origin in self.converted.items()]
        lines += [f"  ignored {name}: {why}" for name, why in self.ignored.items()]
        lines += [f"  differs: {what}" for what in self.differences]
        return "\n".join(lines)


def load_crfasrnn_pytorch(crf: "CRFRNN", state_dict: Mapping[str, Any]) -> Conversion:
    """Load the CRF of a crfasrnn_pytorch state_dict into a CRFRNN.

    Parameters
    ----------
    crf : CRFRNN
        Its parameters are overwritten. ``kernel_weights="full"`` takes any matrices,
        "diagonal" only diagonal ones, and "scalar" only multiples of the identity.
    state_dict : mapping of names to tensors or arrays
        Contains spatial_ker_weights, bilateral_ker_weights and compatibility_matrix, each [L, L],
        with any prefix ("crfrnn."). Other entries belong to the backbone and are ignored.

    Returns
    -------
    Conversion
        What was converted, and what was ignored.

    Raises
    ------
    TypeError, ValueError
        A matrix is missing, duplicated, of another shape, not finite, or does not have the form
        of `crf`, which is then unchanged.

    Notes
    -----
    The compatibility is negated. To reproduce the package's results the layer needs
    ``CRFParams(spatial="lattice")`` with the published bandwidths, which are the defaults, and the
    image that the package was given: BGR minus its mean, on the scale 0..255.

    Examples
    --------
    >>> from densecrf_rnn import CRFRNN, CRFParams
    >>> eye = np.eye(3)
    >>> state = {"crfrnn.spatial_ker_weights": 3 * eye, "crfrnn.bilateral_ker_weights": 5 * eye,
    ...          "crfrnn.compatibility_matrix": eye, "score_fr.weight": np.zeros((3, 4, 1, 1))}
    >>> crf = CRFRNN(3, params=CRFParams(spatial="lattice"), kernel_weights="full")
    >>> print(load_crfasrnn_pytorch(crf, state))
    from crfasrnn_pytorch
      kernel_weights[1] <- crfrnn.spatial_ker_weights
      kernel_weights[0] <- crfrnn.bilateral_ker_weights
      compatibility <- crfrnn.compatibility_matrix, negated: that package adds what ours subtracts
      ignored score_fr.weight: not a parameter of the CRF
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict is {type(state_dict).__name__}; it must be a mapping of names to tensors"
        )
    entries, ignored = _by_name(state_dict)
    return _load(crf, entries, ignored, "crfasrnn_pytorch", adds=True)


def load_crfasrnn_keras(
    crf: "CRFRNN", weights: Mapping[str, Any] | Sequence[Any]
) -> Conversion:
    """Load the CRF of the Keras release (crfasrnn_keras) into a CRFRNN.

    Parameters
    ----------
    crf : CRFRNN
        As in `load_crfasrnn_pytorch`.
    weights : mapping of names to arrays, or sequence of three arrays [L, L]
        Names end in spatial_ker_weights, bilateral_ker_weights and compatibility_matrix, with or
        without ":0"; a sequence has that order, as ``get_weights()`` of the CrfRnnLayer returns.

    Returns
    -------
    Conversion

    Raises
    ------
    TypeError, ValueError
        As in `load_crfasrnn_pytorch`.

    Examples
    --------
    >>> from densecrf_rnn import CRFRNN
    >>> crf = CRFRNN(3, kernel_weights="scalar")
    >>> print(load_crfasrnn_keras(crf, [3 * np.eye(3), 5 * np.eye(3), -np.eye(3)]))
    from crfasrnn_keras
      kernel_weights[1] <- weights[0], the number on its diagonal
      kernel_weights[0] <- weights[1], the number on its diagonal
      compatibility <- weights[2]
      differs: params.spatial is 'grid', there 'lattice'
    """
    if isinstance(weights, Mapping):
        entries, ignored = _by_name(weights)
    else:
        entries, ignored = _in_order("weights", weights), {}
    return _load(crf, entries, ignored, "crfasrnn_keras", adds=False)


def load_crfasrnn_caffe(crf: "CRFRNN", blobs: Sequence[Any]) -> Conversion:
    """Load the CRF of the Caffe release (torrvision/crfasrnn) into a CRFRNN.

    Parameters
    ----------
    crf : CRFRNN
        As in `load_crfasrnn_pytorch`.
    blobs : sequence of three arrays [1, 1, L, L] or [L, L]
        Blobs of the MultiStageMeanfield layer: spatial weights, bilateral weights, compatibility.
        In pycaffe ``[blob.data for blob in net.params["inference1"]]``.

    Returns
    -------
    Conversion

    Raises
    ------
    TypeError, ValueError
        As in `load_crfasrnn_pytorch`.

    Examples
    --------
    >>> from densecrf_rnn import CRFRNN
    >>> crf = CRFRNN(3, kernel_weights="full")
    >>> blobs = np.stack([3 * np.eye(3), 5 * np.eye(3), -np.eye(3)])[:, None, None]
    >>> load_crfasrnn_caffe(crf, blobs).converted["compatibility"]
    'blobs[2]'
    """
    entries = _in_order("blobs", blobs)
    return _load(crf, entries, {}, "the Caffe release", adds=False)


# --- reading the matrices ------------------------------------------------------------------------

_Entries = dict[str, tuple[str, Any]]  # one of NAMES -> its name in the input, and the matrix


def _by_name(given: Mapping[str, Any]) -> tuple[_Entries, dict[str, str]]:
    """Find the three matrices by the ends of their names; return them and the ignored entries."""
    entries: _Entries = {}
    ignored: dict[str, str] = {}
    for name, value in given.items():
        last = re.split(r"[./]", re.sub(r":\d+$", "", str(name)))[-1]
        if last not in NAMES:
            ignored[name] = "not a parameter of the CRF"
        elif last in entries:
            raise ValueError(
                f"{entries[last][0]} and {name} are both a {last}; keep the entries of one CRF only"
            )
        else:
            entries[last] = (name, value)
    for name in NAMES:
        if name not in entries:
            some = ", ".join(map(str, list(given)[:4])) or "nothing"
            raise ValueError(
                f"no entry is called {name} (there is {some}{', ...' * (len(given) > 4)}); give "
                f"one entry each whose name ends in {', '.join(NAMES)}"
            )
    return entries, ignored


def _in_order(what: str, given: Any) -> _Entries:
    """Name the three matrices of a list."""
    if isinstance(given, (Mapping, str)) or not hasattr(given, "__len__"):
        raise TypeError(f"{what} is {type(given).__name__}; it must be a list of three arrays")
    if len(given) != len(NAMES):
        raise ValueError(
            f"{what} holds {len(given)} arrays; it must hold three: {', '.join(NAMES)}"
        )
    return {name: (f"{what}[{i}]", given[i]) for i, name in enumerate(NAMES)}


def _matrix(name: str, value: Any, labels: int) -> Array:
    """Check an array, a tensor or a blob [1, 1, L, L] and return a matrix [L, L] of float64."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double()
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {array.dtype}; it must hold numbers")
    shape = array.shape
    if len(shape) == 4 and shape[:2] == (1, 1):
        array = array[0, 0]
    if array.shape != (labels, labels):
        way_out = "check that it is the CRF's"
        if array.ndim == 2 and array.shape[0] == array.shape[1]:
            way_out = f"create the CRFRNN with num_classes={len(array)}"
        raise ValueError(
            f"{name} has shape {list(shape)}; it must be [{labels}, {labels}] for this CRFRNN of "
            f"{labels} labels, so {way_out}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; take it from an intact checkpoint")
    return array.astype(np.float64)


# --- writing the parameters ----------------------------------------------------------------------


def _load(
    crf: "CRFRNN", entries: _Entries, ignored: dict[str, str], source: str, adds: bool
) -> Conversion:
    """Check everything, then overwrite the parameters of `crf`.

    `adds` says that the package computes U + C M, so that its compatibility is negated.
    """
    for attribute in ("kernel_weights", "compatibility", "params"):
        if not hasattr(crf, attribute):
            raise TypeError(
                f"crf is {type(crf).__name__}; it must be a CRFRNN (for a wrapped model, model.crf)"
            )
    if crf.compatibility is None:
        raise ValueError(
            "crf has multilabel=True, a binary CRF for each map, but the weights are those of one "
            "CRF over all labels; create the CRFRNN with multilabel=False"
        )
    labels = crf.compatibility.shape[0]
    if not crf.tied or len(crf.kernels) != 2:
        raise ValueError(
            f"crf has kernel_weights {list(crf.kernel_weights.shape)}; the published weights are "
            "for one bilateral and one spatial kernel, shared by all iterations"
        )
    first, second = crf.kernels
    uses_image = first.theta_guide is not None and first.guide == "image"
    if first.theta_position is None or not uses_image or second.theta_guide is not None:
        raise ValueError(
            "crf has other kernels, or another order of them, than the published weights are for: "
            "one of position and image, then one of position; create the CRFRNN without kernels="
        )
    if "compatibility" not in dict(crf.named_parameters()):
        raise ValueError(
            "crf has a fixed Potts compatibility but the weights contain a learned one; create the "
            "CRFRNN with compatibility='learned'"
        )
    spatial, bilateral, compatibility = (entries[name] for name in NAMES)
    converted, weights = {}, {}
    for row, (name, value) in ((1, spatial), (0, bilateral)):
        weights[row], done = _in_form(
            name, _matrix(name, value, labels), crf.kernel_weights.dim() - 1
        )
        converted[f"kernel_weights[{row}]"] = name + done
    name, value = compatibility
    matrix = _matrix(name, value, labels)
    if adds:
        matrix = -matrix
        name += ", negated: that package adds what ours subtracts"
    converted["compatibility"] = name
    _write(crf.kernel_weights, np.stack([weights[0], weights[1]]))
    _write(crf.compatibility, matrix)
    used = {field: getattr(crf.params, field) for field in _PUBLISHED}
    names = {field: f"params.{field}" for field in used}
    if crf.kernels != from_params(crf.params):
        for field, kernel, theta in (
            ("theta_alpha", 0, "theta_position"), ("theta_beta", 0, "theta_guide"),
            ("theta_gamma", 1, "theta_position"),
        ):  # fmt: skip
            used[field] = getattr(crf.kernels[kernel], theta)
            names[field] = f"kernels[{kernel}].{theta}"
    used |= _learned_bandwidths(crf)
    differences = [
        f"{names[field]} is {used[field]!r}, there {there!r}"
        for field, there in _PUBLISHED.items()
        if used[field] != there
    ]
    differences += [
        f"{name} is {getattr(crf, name)!r}, there {there!r}"
        for name, there in (("update", "softmax"), ("method", "lattice"))
        if getattr(crf, name) != there
    ]
    return Conversion(source, converted, ignored, tuple(differences))


def _learned_bandwidths(crf: Any) -> dict[str, float]:
    """Return the bandwidths of a head that trains them, in six digits; none of any other head."""
    if crf.log_bandwidths is None:
        return {}
    (alpha, beta), (gamma, _) = crf.bandwidths.tolist()
    found = {"theta_alpha": alpha, "theta_beta": beta, "theta_gamma": gamma}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _in_form(name: str, matrix: Array, axes: int) -> tuple[Array, str]:
    """Reduce a weight matrix to `axes` axes; return it with a note about the reduction."""
    if axes == 2:
        return matrix, ""
    diagonal = np.diagonal(matrix).copy()
    if (matrix != np.diag(diagonal)).any():
        raise ValueError(
            f"{name} has weights off its diagonal, which this CRFRNN cannot hold; create it "
            "with kernel_weights='full'"
        )
    if axes == 1:
        return diagonal, ", its diagonal"
    if (diagonal != diagonal[0]).any():
        raise ValueError(
            f"{name} has different weights for the labels, which this CRFRNN cannot hold; create "
            "it with kernel_weights='diagonal' or 'full'"
        )
    return diagonal[0], ", the number on its diagonal"


def _write(parameter: Any, array: Array) -> None:
    """Overwrite a parameter, keeping its dtype and device."""
    parameter.detach().copy_(parameter.detach().new_tensor(array.tolist()))
