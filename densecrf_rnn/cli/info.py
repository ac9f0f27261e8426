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
    arrays = engines.registry.ARRAY_ENGINES
    names = (*arrays, *engines.registry.TENSOR_ENGINES)
    reasons = {name: engines.registry.why_unavailable(name) for name in names}
    return {
        "densecrf_rnn": __version__,
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "default_threads": engines.default_threads(),
        "backends": {
            name: {"available": reason is None, "why_not": reason}
            for name, reason in reasons.items()
        },
        "auto": next((n for n in arrays if reasons[n] is None), None),
        "native_compiler": engines.native_compiler(),
        "native_isa": engines.native_isa(),
        "cuda": engines.cuda_facts(),
    }


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(facts: dict[str, Any]) -> str:
    rows = [
        ("densecrf-rnn", facts["densecrf_rnn"]),
        ("python", facts["python"]),
        *((name, found or "not installed") for name, found in facts["packages"].items()),
        ("", ""),
        ("platform", facts["platform"]),
        ("processors", facts["processors"]),
        ("threads", f"{facts['default_threads']} by default"),
        ("", ""),
    ]
    for name, backend in facts["backends"].items():
        state = "available" if backend["available"] else f"not available: {backend['why_not']}"
        if name == "cpu" and backend["available"]:
            state += f", native code compiled by {facts['native_compiler']}"
            state += f", instruction set {facts['native_isa']}"
        rows.append((f"backend {name}", state))
    rows.append(("backend auto", _auto(facts)))
    if cuda := facts["cuda"]:
        code = f"for {cuda['architectures']}, compiled by {cuda['compiler']}"
        rows += [("", ""), ("cuda code", code), ("cuda driver", cuda["driver"])]
        for device in cuda["devices"]:
            capability = "{}.{}".format(*divmod(device["capability"], 10))
            memory = f"{device['memory'] / 2**30:.0f} GiB"
            rows.append(("cuda device", f"{device['name']}, {capability}, {memory}"))
    return "\n".join(_entry(*row) for row in rows)


def _auto(facts: dict[str, Any]) -> str:
    backends = facts["backends"]
    tensors = backends["torch"]["available"]
    if facts["auto"] is None:
        return "none: no backend can run here" + ", except torch, for tensors" * tensors
    replaces = ", which replaces cpu: the same results, on one thread"
    taken = f"takes {facts['auto']}{replaces * (facts['auto'] == 'numba')}"
    if not tensors:
        return taken
    if backends["cuda"]["available"]:
        return (
            f"{taken}; for tensors on a GPU cuda, if it agrees with torch there in its self-test; "
            "for tensors on other devices torch"
        )
    return f"{taken}; for tensors on any other device than a CPU torch"


def _entry(name: str, value: object) -> str:
    """Format a name and its value; the lines of a long value are aligned."""
    folded = textwrap.wrap(str(value), 80, break_long_words=False, break_on_hyphens=False)
    return (f"{name:<15}" + ("\n" + " " * 15).join(folded)).rstrip()
