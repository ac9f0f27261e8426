"""Learning rates of a head's parameters."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn

from .. import checks

Loss = Literal["mean", "sum"]

# Multipliers of the network's learning rate, by how the loss is taken over the pixels. For "mean"
# 10 trained best with Adam and SGD; for "sum" they are those of the released code of [CRF-RNN].
MULTIPLIERS: dict[Loss, dict[str, float]] = {
    "mean": {"kernel_weights": 10.0, "compatibility": 10.0, "bandwidths": 10.0},
    "sum": {"kernel_weights": 1e4, "compatibility": 1e3, "bandwidths": 1e3},
}


def groups(
    parameters: Mapping[str, nn.Parameter],
    lr: float,
    loss: Loss,
    multipliers: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return the group of each parameter that is not frozen; see `CRFRNN.parameter_groups`."""
    checks.option("loss", loss, get_args(Loss))
    for name in multipliers:
        checks.option("a multiplier", name, tuple(parameters))
    factors = {**MULTIPLIERS[loss], **multipliers}
    found = [
        {"params": [parameter], "lr": lr * factors[name], "name": name}
        for name, parameter in parameters.items()
        if parameter.requires_grad
    ]
    large = {
        name: scale
        for name, parameter in parameters.items()
        if parameter.requires_grad and 0 < (scale := _scale(name, parameter)) < lr * factors[name]
    }
    if large:
        at = [
            f"{name} learns at {lr:g} x {factors[name]:g} = {lr * factors[name]:g} but is at most "
            f"{scale:g}"
            for name, scale in large.items()
        ]
        smaller = [f"{name}={_multiplier(scale, lr):g}" for name, scale in large.items()]
        way_out = f"give smaller multipliers ({', '.join(smaller)})"
        means = MULTIPLIERS["mean"]
        if loss == "sum" and not multipliers and all(lr * means[n] <= large[n] for n in large):
            way_out = f"if the loss is a mean over pixels, use loss='mean'; otherwise {way_out}"
        warnings.warn(
            f"{' and '.join(at)}, so a step of Adam can replace it; {way_out}, or a smaller lr",
            UserWarning,
            stacklevel=3,
        )
    return found


def _multiplier(scale: float, lr: float) -> float:
    """Return the largest multiplier of one digit with which `lr` is at most `scale`."""
    step = 10.0 ** math.floor(math.log10(max(scale / lr, 1e-300)))
    return max((n * step for n in range(1, 10) if lr * (n * step) <= scale), default=step / 2)


def _scale(name: str, parameter: Tensor) -> float:
    """Return the largest absolute value of a parameter; 0 if it is unknown.

    The parameter of bandwidths starts at 0 and acts through tanh, so its scale is 1.
    """
    if name == "bandwidths":
        return 1.0
    return 0.0 if parameter.is_meta else float(parameter.detach().abs().max())
