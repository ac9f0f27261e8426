"""Settings of a module in its state_dict, next to the weights that they were trained with.

They are JSON in a tensor of uint8, so that whatever stores tensors stores them: torch.save,
safetensors, sharded checkpoints. Its length is a multiple of `BLOCK`, because sharded checkpoints
only load tensors of the length that they have; spaces fill it up.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import Kernel, from_params
from ..params import CRFParams

VERSION = 1
BLOCK = 1024
KEY = "_extra_state"  # torch's name for what get_extra_state() returns

# Checkpoints may hold these, as Lightning's save_hyperparameters() does.
torch.serialization.add_safe_globals([CRFParams, Kernel])


class KeepsSettings(nn.Module):
    """A module whose state_dict contains its settings, which are compared when it is loaded."""

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments that results depend on, as values for JSON."""
        raise NotImplementedError

    def _adopt(self, saved: dict[str, Any]) -> None:
        """Take over what loaded parameters are relative to."""

    def get_extra_state(self) -> Tensor:
        """Return the settings as a tensor of uint8; torch calls this in `state_dict`."""
        return encode(self.settings())

    def set_extra_state(self, state: Any) -> None:
        """Warn if settings differ from this module's; torch calls this in `load_state_dict`."""
        saved = decode(state)
        if saved is None:
            checks.warn(
                "the settings in the state_dict cannot be read, so they are not compared with "
                f"those of this {type(self).__name__}; this happens to averages of checkpoints, "
                "and to those of later versions"
            )
            return
        self._adopt(saved)
        if sentence := _difference(self, saved):
            checks.warn(f"{sentence}; results will differ unless you build it with the former")

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
        *,
        settings: str = "warn",
    ) -> Any:
        """Load parameters and buffers; torch's method with one more argument.

        Parameters
        ----------
        state_dict, strict, assign
            As in `torch.nn.Module.load_state_dict`.
        settings : {"warn", "match"}
            What to do if the settings in the state (bandwidths, iterations, options) differ from
            those of this module: warn with both; or raise before anything is loaded. States
            without settings are loaded with "warn", and refused with "match".

        Returns
        -------
        namedtuple of `missing_keys` and `unexpected_keys`

        Raises
        ------
        ValueError
            With "match": settings are absent or differ.
        """
        checks.option("settings", settings, ("warn", "match"))
        if settings == "match":
            for name, module in self.named_modules():
                if isinstance(module, KeepsSettings):
                    _match(module, state_dict.get(f"{name}.{KEY}".lstrip(".")))
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *others: Any
    ) -> None:
        """Accept a state without settings, as earlier versions saved it."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *others)
        if prefix + KEY in missing:
            missing.remove(prefix + KEY)


def encode(settings: Mapping[str, Any]) -> Tensor:
    """Return settings as a tensor of uint8 on the CPU."""
    text = json.dumps({"version": VERSION, **settings}).encode()
    padded = text.ljust(-(-len(text) // BLOCK) * BLOCK)
    return torch.tensor(list(padded), dtype=torch.uint8, device="cpu")


def decode(state: Any) -> dict[str, Any] | None:
    """Return the settings that `encode` stored, without their version; None if it is another."""
    try:
        found = json.loads(bytes(state.detach().cpu().flatten().int().tolist()))
        known = found.pop("version") == VERSION
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    return found if known else None


def read_settings(state_dict: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings in a state_dict as arguments for the constructor.

    Parameters
    ----------
    state_dict : mapping
        Of a `CRFRNN`, or of a model that contains one.
    prefix : str
        What the head's names begin with: "crf." in a model of `CRFRNN.wrap`.

    Returns
    -------
    dict
        Of a head: `num_classes`, `params` and the options that its results depend on (not
        `memory_budget`, `storage` and `backend`). Of a `Segmenter`: `mean`, `std`, `scale`.

    Raises
    ------
    TypeError, ValueError
        `state_dict` is no mapping, there are no settings under that prefix, or they cannot be read.

    Examples
    --------
    >>> from densecrf_rnn import CRFRNN
    >>> state = CRFRNN(4, params=CRFParams(theta_beta=13)).state_dict()
    >>> crf = CRFRNN(**read_settings(state))
    >>> crf.load_state_dict(state)
    <All keys matched successfully>
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict is {type(state_dict).__name__}; it must be a mapping (model.state_dict())"
        )
    saved = decode(state_dict.get(prefix + KEY))
    if saved is None:
        others = [name.removesuffix(KEY) for name in state_dict if name.endswith(KEY)]
        there = f"; there are some for prefix={', '.join(map(repr, others))}" if others else ""
        raise ValueError(
            f"the state_dict holds no settings that can be read as {prefix + KEY!r}{there}"
        )
    return arguments_of(saved)


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings from JSON as arguments: parameters and kernels as objects."""
    found = dict(settings)
    if isinstance(found.get("params"), Mapping):
        found["params"] = CRFParams.from_dict(found["params"])
    if found.get("kernels") is not None:
        found["kernels"] = [
            Kernel(**k) if isinstance(k, Mapping) else k for k in found["kernels"]
        ]
    return found


def of_head(crf: Any) -> dict[str, Any]:
    """Return the settings of a `CRFRNN`: those of its constructor that results depend on."""
    forms = ("scalar", "diagonal", "full")
    learned = isinstance(crf.compatibility, nn.Parameter)
    own = None if crf.kernels == from_params(crf.params) else [*map(asdict, crf.kernels)]
    return {
        "num_classes": crf.num_classes,
        "multilabel": crf.multilabel,
        "params": crf.params.to_dict(),
        "iterations": crf.iterations,
        "eval_iterations": crf.eval_iterations,
        "kernel_weights": forms[crf.kernel_weights.dim() - 1 - (not crf.tied)],
        "compatibility": "learned" if learned else "potts",
        "trainable_bandwidths": crf.log_bandwidths is not None,
        "tied": crf.tied,
        "update": crf.update,
        "kernels": own,
        "method": crf.method,
        "prune": crf.prune,
    }


def adopt_bandwidths(crf: Any, saved: Mapping[str, Any]) -> None:
    """Let a `CRFRNN` that learns bandwidths take over those that the saved ones are factors of."""
    if crf.log_bandwidths is not None and saved.get("trainable_bandwidths"):
        params, own = (arguments_of(saved)[name] for name in ("params", "kernels"))
        kernels = from_params(params) if own is None else tuple(own)
        if [*map(_kind, kernels)] == [*map(_kind, crf.kernels)]:
            thetas = ("theta_alpha", "theta_beta", "theta_gamma")
            changes = {name: getattr(params, name) for name in thetas}
            crf.params, crf.kernels = replace(crf.params, **changes), kernels
    crf.initial_bandwidths.copy_(torch.tensor([k.bandwidths for k in crf.kernels]))


def _kind(kernel: Kernel) -> tuple[bool, bool, str]:
    """Return what a kernel depends on."""
    return kernel.theta_position is None, kernel.theta_guide is None, kernel.guide


def _match(module: KeepsSettings, state: Any) -> None:
    """Raise ValueError unless `state` holds the settings of a module."""
    saved = decode(state)
    if saved is None:
        raise ValueError(
            f"settings is 'match' but the state_dict holds no settings of {type(module).__name__} "
            "that can be read; leave settings at 'warn' to load it nevertheless"
        )
    if sentence := _difference(module, saved):
        raise ValueError(
            f"{sentence}; build it with the former (nn.read_settings returns them), or leave "
            "settings at 'warn'"
        )


def _difference(module: KeepsSettings, saved: Mapping[str, Any]) -> str:
    """Return a sentence with the settings that differ, or nothing."""
    own, others = _flat(json.loads(json.dumps(module.settings()))), _flat(saved)
    names = [name for name in own if name in others and own[name] != others[name]]
    if not names:
        return ""
    was, this = (", ".join(f"{n}={_shown(given[n])}" for n in names) for given in (others, own))
    return f"the state_dict was saved with {was}, but this {type(module).__name__} has {this}"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of `params` among them."""
    return {**settings, **settings.get("params", {}), "params": None}


def _shown(value: Any) -> str:
    """Return a setting as it is passed: numbers in parentheses, kernels as calls."""
    if isinstance(value, list):
        shown = [str(Kernel(**v)) if isinstance(v, dict) else repr(v) for v in value]
        return f"({', '.join(shown)})"
    return repr(value)
