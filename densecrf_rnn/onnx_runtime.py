"""Runs models that `densecrf_rnn.nn.export_onnx` wrote, without torch.

ONNX has no permutohedral lattice, so a head is one node of its own, computed by this package's
engines: in onnxruntime through onnxruntime-extensions, which calls Python, or in onnx's own
evaluator. Neither is imported before it is asked for.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ._typing import Array
from .inference.mean_field import mean_field
from .params import CRFParams


DOMAIN = "ai.onnx.contrib"  # where onnxruntime-extensions looks for operators in Python
OPERATOR = "DenseCRFMeanField"


def settings(params: CRFParams, iterations: int, spacing: Sequence[float] | None) -> str:
    """The node's one attribute of this name."""
    spacing = None if spacing is None else [float(s) for s in spacing]
    return json.dumps({"params": asdict(params), "iterations": iterations, "spacing": spacing})


def run_node(settings: str, *inputs: Array) -> Array:
    """What the node computes: refined logits [B, L, *S].

    `inputs` are logits [B, L, *S], image [B, C, *S], kernel weights and compatibility; refused is
    what `mean_field` refuses.

    Examples
    --------
    >>> inputs = [np.zeros((1, 2, 4, 5)), np.zeros((1, 3, 4, 5)), np.ones(2), 1 - np.eye(2)]
    >>> run_node(settings(CRFParams(), 5, None), *inputs).shape
    (1, 2, 4, 5)
    """
    logits, image, kernel_weights, compatibility = inputs
    options = json.loads(settings)
    options["params"] = CRFParams(**options["params"])
    refined = np.empty_like(logits)
    for b, (u, guide) in enumerate(zip(logits, image, strict=True)):
        refined[b] = mean_field(
            u, np.moveaxis(guide, 0, -1), kernel_weights=kernel_weights,
            compatibility=compatibility, **options,
        )  # fmt: skip
    return refined


def inference_session(model: Any, **options: Any) -> Any:
    """An onnxruntime session that knows the node; needs onnxruntime and onnxruntime-extensions.

    Parameters
    ----------
    model : path or bytes
        What `export_onnx` wrote; float32.
    **options
        Keyword arguments of ``onnxruntime.InferenceSession``; providers are the CPU's by default.

    Raises
    ------
    ImportError
        onnxruntime or onnxruntime-extensions is not installed.

    Examples
    --------
    >>> session = inference_session("model.onnx")  # doctest: +SKIP
    >>> (refined,) = session.run(None, {"image": image})  # doctest: +SKIP
    """
    try:
        import onnxruntime  # type: ignore[import-not-found,unused-ignore]
        from onnxruntime_extensions import (  # type: ignore[import-not-found,unused-ignore]
            PyOp,
            get_library_path,
            onnx_op,
        )
    except ImportError as error:
        raise ImportError(
            "running an exported model needs two packages; pip install onnxruntime "
            f"onnxruntime-extensions ({error})"
        ) from error

    @onnx_op(  # type: ignore[untyped-decorator,unused-ignore]
        op_type=OPERATOR,
        inputs=[PyOp.dt_float] * 4,
        outputs=[PyOp.dt_float],
        attrs={"settings": PyOp.dt_string},
    )
    def _(*inputs: Array, settings: str) -> Array:
        return run_node(settings, *inputs)

    own = options.pop("sess_options", None) or onnxruntime.SessionOptions()
    own.register_custom_ops_library(get_library_path())
    options.setdefault("providers", ["CPUExecutionProvider"])
    return onnxruntime.InferenceSession(model, own, **options)


def reference_evaluator(model: Any) -> Any:
    """onnx's own evaluator, in NumPy, that knows the node; needs onnx alone.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        What `export_onnx` wrote.

    Raises
    ------
    ImportError
        onnx is not installed.

    Examples
    --------
    >>> (refined,) = reference_evaluator("model.onnx").run(None, {})  # doctest: +SKIP
    """
    try:
        from onnx.reference import (  # type: ignore[import-not-found,unused-ignore]
            ReferenceEvaluator,
        )
        from onnx.reference.op_run import (  # type: ignore[import-not-found,unused-ignore]
            OpRun,
        )
    except ImportError as error:
        raise ImportError(
            f"running an exported model needs onnx; pip install onnx ({error})"
        ) from error

    def run(self: Any, *inputs: Array, settings: str) -> tuple[Array]:
        return (run_node(settings, *inputs),)

    node = type(OPERATOR, (OpRun,), {"op_domain": DOMAIN, "_run": run})
    return ReferenceEvaluator(model, new_ops=[node])
