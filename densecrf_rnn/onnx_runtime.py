"""Run models exported by `densecrf_rnn.nn.export_onnx`, without torch.

ONNX has no permutohedral lattice, so a CRF-RNN head is one custom node, which this package's
engines compute: in onnxruntime through onnxruntime-extensions, which calls Python, or in the
reference evaluator of onnx. These packages are imported only when used.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any
from weakref import WeakSet

import numpy as np

from ._typing import Array
from . import checks
from .inference.mean_field import mean_field
from .params import CRFParams

__all__ = ["inference_session", "reference_evaluator"]


DOMAIN = "ai.onnx.contrib"  # domain of Python operators in onnxruntime-extensions
OPERATOR = "DenseCRFMeanField"
_registered: WeakSet[Any] = WeakSet()  # SessionOptions that know the library of such operators


def settings(
    params: CRFParams, iterations: int, spacing: Sequence[float] | None, multilabel: bool = False,
    prune: float = 0.0,
) -> str:  # fmt: skip
    """Serialise the options of a head to the `settings` attribute of its node."""
    spacing = None if spacing is None else [float(s) for s in spacing]
    found = {"params": asdict(params), "iterations": iterations, "spacing": spacing}
    # Without these the attribute is that of earlier versions, which can then run the model.
    more = {"multilabel": multilabel, "prune": prune}
    return json.dumps(found | {name: value for name, value in more.items() if value})


def run_node(settings: str, *inputs: Array) -> Array:
    """Compute the output of a CRF-RNN node.

    Parameters
    ----------
    settings : str
        The node's attribute `settings`, written by the function of that name.
    *inputs : ndarray
        Logits [B, L, *S], image [B, C, *S], kernel weights and compatibility (not used if the
        settings say multilabel).

    Returns
    -------
    ndarray [B, L, *S]
        Refined logits.

    Raises
    ------
    TypeError, ValueError
        The same errors as `mean_field`.

    Examples
    --------
    >>> inputs = [np.zeros((1, 2, 4, 5)), np.zeros((1, 3, 4, 5)), np.ones(2), 1 - np.eye(2)]
    >>> run_node(settings(CRFParams(), 5, None), *inputs).shape
    (1, 2, 4, 5)
    """
    logits, image, kernel_weights, compatibility = inputs
    options = json.loads(settings)
    options["params"] = CRFParams(**options["params"])
    mu = None if options.get("multilabel", False) else compatibility
    refined = np.empty_like(logits)
    for b, (u, guide) in enumerate(zip(logits, image, strict=True)):
        refined[b] = mean_field(
            u, np.moveaxis(guide, 0, -1), kernel_weights=kernel_weights,
            compatibility=mu, **options,
        )  # fmt: skip
    return refined


def inference_session(model: Any, **options: Any) -> Any:
    """Create an onnxruntime session that can run CRF-RNN nodes.

    Parameters
    ----------
    model : path or bytes
        A float32 model written by `export_onnx`.
    **options
        Keyword arguments of ``onnxruntime.InferenceSession``; the default provider is the CPU.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    ImportError
        onnxruntime or onnxruntime-extensions is not installed.

    Examples
    --------
    >>> # needs torch, onnxscript, onnxruntime and onnxruntime-extensions
    >>> import tempfile, torch
    >>> from densecrf_rnn.nn import CRFRNN, export_onnx
    >>> model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2).eval()
    >>> image = torch.zeros(1, 3, 8, 9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/a.onnx"
    ...     program = export_onnx(model, (image,), path, input_names=["image"], verbose=False)
    ...     session = inference_session(path)
    >>> (refined,) = session.run(None, {"image": image.numpy()})
    >>> refined.shape
    (1, 2, 8, 9)
    """
    install = "onnxruntime onnxruntime-extensions"
    runtime = checks.package("onnxruntime", "inference_session", install)
    extensions = checks.package("onnxruntime_extensions", "inference_session", install)
    _register(extensions)
    own = options.pop("sess_options", None) or runtime.SessionOptions()
    if own not in _registered:  # given a second time; twice registered, the session would fail
        own.register_custom_ops_library(extensions.get_library_path())
        _registered.add(own)
    options.setdefault("providers", ["CPUExecutionProvider"])
    return runtime.InferenceSession(model, own, **options)


@cache  # a second registration would make every later session fail
def _register(extensions: Any) -> None:
    """Register the node with onnxruntime-extensions, once per process."""

    @extensions.onnx_op(  # type: ignore[untyped-decorator]
        op_type=OPERATOR,
        inputs=[extensions.PyOp.dt_float] * 4,
        outputs=[extensions.PyOp.dt_float],
        attrs={"settings": extensions.PyOp.dt_string},
    )
    def _(*inputs: Array, settings: str) -> Array:
        return run_node(settings, *inputs)


def reference_evaluator(model: Any) -> Any:
    """Create onnx's reference evaluator, which uses NumPy, able to run CRF-RNN nodes.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        A model written by `export_onnx`.

    Returns
    -------
    onnx.reference.ReferenceEvaluator

    Raises
    ------
    ImportError
        onnx is not installed.

    Examples
    --------
    >>> # needs torch and onnxscript
    >>> import torch
    >>> from densecrf_rnn.nn import CRFRNN, export_onnx
    >>> model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2).eval()
    >>> image = torch.zeros(1, 3, 8, 9)
    >>> program = export_onnx(model, (image,), input_names=["image"], verbose=False)
    >>> evaluator = reference_evaluator(program.model_proto)
    >>> evaluator.run(None, {"image": image.numpy()})[0].shape
    (1, 2, 8, 9)
    """
    evaluator = checks.package("onnx.reference", "reference_evaluator", "onnx")
    op_run = checks.package("onnx.reference.op_run", "reference_evaluator", "onnx")

    def run(self: Any, *inputs: Array, settings: str) -> tuple[Array]:
        return (run_node(settings, *inputs),)

    node = type(OPERATOR, (op_run.OpRun,), {"op_domain": DOMAIN, "_run": run})
    return evaluator.ReferenceEvaluator(model, new_ops=[node])
