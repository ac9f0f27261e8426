"""ONNX export of models with a CRF-RNN head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import onnx_runtime
from ..kernels import from_params
from .crfrnn import CRFRNN
from .ops.kernels import rows


def export_onnx(model: nn.Module, args: Sequence[Any], file: Any = None, **options: Any) -> Any:
    """Export a model to ONNX, with each CRFRNN as one node.

    Parameters
    ----------
    model : nn.Module
        For example from `CRFRNN.wrap`; float32. Its mode, train() or eval(), selects the number of
        iterations.
    args : sequence
        Example inputs. The model runs on them once, to check that each ONNX node gives the same
        result as its layer.
    file : path, optional
        File to write.
    **options
        Keyword arguments of ``torch.onnx.export``, such as `dynamic_shapes` and `input_names`.

    Returns
    -------
    torch.onnx.ONNXProgram

    Raises
    ------
    TypeError, ValueError
        `model` has no CRFRNN, or one with an option that the node does not support.
    ImportError
        onnx or onnxscript is not installed.

    Notes
    -----
    The node is ai.onnx.contrib::DenseCRFMeanField with inputs logits, image, kernel weights and
    compatibility. `densecrf_rnn.onnx_runtime` runs it without torch.

    Examples
    --------
    >>> # needs onnxscript
    >>> import tempfile
    >>> model = CRFRNN.wrap(nn.Conv2d(3, 2, 1), 2).eval()
    >>> image = torch.zeros(1, 3, 8, 9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     program = export_onnx(model, (image,), f"{folder}/model.onnx", verbose=False)
    >>> [node.op_type for node in program.model.graph][-1]
    'DenseCRFMeanField'
    """
    heads = [module for module in model.modules() if isinstance(module, CRFRNN)]
    if not heads:
        raise ValueError(
            f"{type(model).__name__} has no CRFRNN; use torch.onnx.export for it"
        )
    args = tuple(args)
    _compare(model, heads, args)
    with _as_nodes(heads):
        return torch.onnx.export(model, args, file, dynamo=True, **options)


@contextmanager
def _as_nodes(heads: Sequence[CRFRNN]) -> Iterator[None]:
    """Replace the forward pass of each head by an ONNX node while the context is active."""
    for head in heads:
        head.forward = partial(_node, head)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for head in heads:
            del head.forward


def _node(
    crf: CRFRNN, logits: Tensor, image: Tensor, *, spacing: Sequence[float] | None = None
) -> Tensor:
    """Add the node of `crf` to the graph being exported; return its symbolic output."""
    inputs = _inputs(crf, logits, image)
    return torch.onnx.ops.symbolic(
        f"{onnx_runtime.DOMAIN}::{onnx_runtime.OPERATOR}",
        inputs,
        {"settings": _settings(crf, spacing)},
        dtype=logits.dtype,
        shape=logits.shape,
        version=1,
    )


def _inputs(crf: CRFRNN, logits: Tensor, image: Tensor) -> tuple[Tensor, ...]:
    """Return the inputs of the node of `crf`; the weights stand for an absent compatibility."""
    mu = crf.kernel_weights if crf.compatibility is None else crf.compatibility
    return logits, image.to(logits.dtype), crf.kernel_weights, mu


def _settings(crf: CRFRNN, spacing: Sequence[float] | None) -> str:
    """Return the options of `crf` as the string attribute of its node."""
    iterations = crf.iterations if crf.training else crf.eval_iterations
    prune = 0.0 if crf.training else crf.prune
    return onnx_runtime.settings(crf.params, iterations, spacing, crf.multilabel, prune)


def _options_without_node(crf: CRFRNN) -> list[str]:
    """Return the options of `crf` that its node does not know.

    Comparing the results does not find them all: on an image of one colour, which many give as an
    example, kernels of any bandwidths give the same.
    """
    learned = crf.log_bandwidths
    unknown = {
        "kernels": crf.kernels != from_params(crf.params),
        "learned bandwidths": learned is not None and bool(learned.any()),
        f"method={crf.method!r}": crf.method != "lattice",
        f"update={crf.update!r}": crf.update != "softmax",
        "tied=False": not crf.tied,
    }
    return [name for name, given in unknown.items() if given]


def _compare(model: nn.Module, heads: Sequence[CRFRNN], args: Sequence[Any]) -> None:
    """Run the model; raise ValueError if a head's result differs from that of its ONNX node."""

    def look(crf: CRFRNN, given: Any, options: dict[str, Any], refined: Any) -> None:
        others = _options_without_node(crf)
        options = dict(zip(("logits", "image"), given, strict=False)) | options
        logits, image, spacing = (options.pop(n, None) for n in ("logits", "image", "spacing"))
        others += [name for name, value in options.items() if value is not None]
        if image is None:
            others.append("no image")
        equal = not others and isinstance(refined, Tensor)
        if equal:
            inputs = map(rows, _inputs(crf, logits, image))
            try:
                found = onnx_runtime.run_node(_settings(crf, spacing), *inputs)
                equal = np.allclose(found, rows(refined), rtol=1e-3, atol=1e-3)
            except (TypeError, ValueError):
                equal = False
        if not equal:
            raise ValueError(
                "this CRFRNN uses an option that its ONNX node does not support"
                + (f" ({', '.join(others)})" if others else "")
                + "; torch.export supports all options"
            )

    hooks = [head.register_forward_hook(look, with_kwargs=True) for head in heads]
    try:
        with torch.no_grad():
            model(*args)
    finally:
        for hook in hooks:
            hook.remove()
