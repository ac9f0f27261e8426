"""`densecrf-rnn info`: show versions, processors, and the engines that can run here.

Reads versions from the metadata of installed packages, so that torch is not imported.
"""

import argparse
import json
import os
import platform
import textwrap
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__, engines

_PACKAGES = ("numpy", "torch", "numba", "scikit-image", "matplotlib", "tqdm", "optuna")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    facts = _facts()
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    return 0


def _facts() -> dict[str, Any]:
    reasons = {name: engines.registry.why_unavailable(name) for name in ("cpu", "numba", "cuda")}
    return {
        "densecrf_rnn": __version__,
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "default_threads": engines.default_threads(),
        "backends": {
            name: {"available": reason is None, "why_not": reason}
            for name, reason in reasons.items()
        },
        "auto": next((n for n in ("cpu", "numba") if reasons[n] is None), None),
        "native_compiler": engines.native_compiler(),
        "native_isa": engines.native_isa(),
        "cuda": engines.cuda_facts(),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(facts: dict[str, Any]) -> str:
    lines = [
        _entry("densecrf-rnn", facts["densecrf_rnn"]),
        _entry("python", facts["python"]),
        *(_entry(name, found or "not installed") for name, found in facts["packages"].items()),
        "",
        _entry("platform", facts["platform"]),
        _entry("processors", facts["processors"]),
        _entry("threads", f"{facts['default_threads']} by default"),
        "",
    ]
    for name, backend in facts["backends"].items():
        state = "available" if backend["available"] else f"not available: {backend['why_not']}"
        if name == "cpu" and backend["available"]:
            state += f", native code compiled by {facts['native_compiler']}"
            state += f", instruction set {facts['native_isa']}"
        lines.append(_entry(f"backend {name}", state))
    lines.append(_entry("backend auto", _auto(facts)))
    if facts["cuda"] is not None:
        lines += ["", *_cuda(facts["cuda"])]
    return "\n".join(lines)


def _cuda(facts: dict[str, Any]) -> list[str]:
    lines = [
        _entry("cuda code", f"for {facts['architectures']}, compiled by {facts['compiler']}"),
        _entry("cuda driver", facts["driver"]),
    ]
    for device in facts["devices"]:
        capability = "{}.{}".format(*divmod(device["capability"], 10))
        memory = device["memory"] / 2**30
        lines.append(_entry("cuda device", f"{device['name']}, {capability}, {memory:.0f} GiB"))
    return lines


def _auto(facts: dict[str, Any]) -> str:
    if facts["auto"] is None:
        return "none: no backend can run here"
    on_gpu = ", and cuda for tensors on a GPU" if facts["backends"]["cuda"]["available"] else ""
    if facts["auto"] == "numba":
        served = "takes numba, which replaces cpu: the same results, on one thread"
        return served + on_gpu
    return f"takes {facts['auto']}{on_gpu}"


def _entry(name: str, value: object) -> str:
    """Format a name and its value; the lines of a long value are aligned."""
    folded = textwrap.wrap(
        str(value), 80, break_long_words=False, break_on_hyphens=False
    )
    return f"{name:<15}" + ("\n" + " " * 15).join(folded)
