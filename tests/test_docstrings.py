"""Every public name has an example, and every example runs and prints what it says.

An example that needs a package which its module does without says so as the pages do, in a comment
`# needs A and B`; one that imports a package needs no comment.
"""

import contextlib
import doctest
import enum
import importlib
import importlib.util
import inspect
import pkgutil
import re
import types
import typing

import numpy as np
import pages
import pytest
from test_site import MODULES as PUBLIC, public_names

import densecrf_rnn

# Native modules carry no examples, and __main__ would run a command.
MODULES = ["densecrf_rnn"] + sorted(
    module.name
    for module in pkgutil.walk_packages(
        densecrf_rnn.__path__, "densecrf_rnn.", onerror=lambda name: None
    )
    if module.name.rpartition(".")[2] not in ("_cpu", "_cuda", "__main__")
)
# The optional dependencies.
NEEDS = {
    "torch", "numba", "skimage", "matplotlib", "tqdm", "dask", "rasterio", "zarr", "monai",
    "transformers",
}  # fmt: skip
# What the examples of a module need beside what it imports.
EXAMPLES_NEED = {
    "densecrf_rnn.files": "PIL", "densecrf_rnn.postprocess": "skimage",
    "densecrf_rnn.samples": "skimage", "densecrf_rnn.distributed": "dask.array",
    "densecrf_rnn.compat.weights": "torch", "densecrf_rnn.tuning.search": "optuna",
    "densecrf_rnn.tuning.folds": "optuna", "densecrf_rnn.tuning.study": "optuna",
    "densecrf_rnn.nn.tuning": "torch",
}  # fmt: skip


def load(name):
    """Import a module, or skip the test where an optional dependency of it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = {need for need in NEEDS if importlib.util.find_spec(need) is None}
        if (error.name or "").split(".")[0] in missing or missing & set(str(error).split()):
            pytest.skip(f"{name} needs what is not installed: {error}")
        raise


# The pydensecrf interface has two functions under the names that pydensecrf has deprecated.
@pytest.mark.filterwarnings("ignore:.* is deprecated, use unary_from_:DeprecationWarning")
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = load(name)
    for prefix, need in EXAMPLES_NEED.items():
        if name.startswith(prefix):
            pytest.importorskip(need)
    names = {"np": np}
    if name.startswith(("densecrf_rnn.nn", "densecrf_rnn.compat.monai", "densecrf_rnn.compat.tr")):
        torch = importlib.import_module("torch")
        torch.manual_seed(0)
        names |= {"torch": torch, "nn": torch.nn}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    reasons = set()
    for test in doctest.DocTestFinder().find(module, name, extraglobs=names):
        source = "".join(f"{example.source}\n" for example in test.examples)
        comments = (line.split(">>> ")[-1].strip() for line in (test.docstring or "").splitlines())
        needs = pages.needs(source, "\n".join(comments))
        missing = [reason for need in needs if (reason := pages.why_not(need))]
        reasons |= set(missing)
        if not missing:
            runner.run(test)
    assert runner.failures == 0, "the failing examples are printed above"
    if reasons:
        pytest.skip("; ".join(sorted(reasons)))


def names_of(module):
    """Return the functions and classes that a module makes public, by their full names."""
    found = {}
    for full in public_names(module.__name__):
        name = full.rpartition(".")[2]
        with contextlib.suppress(ImportError):  # of torch, in densecrf_rnn
            thing = getattr(module, name)
            if callable(thing) and typing.get_origin(thing) is None:
                found[full] = thing
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_that_runs(name):
    for full, thing in names_of(load(name)).items():
        text = thing.__doc__ or ""
        lines = [line for line in text.splitlines() if line.strip().startswith(">>>")]
        assert lines, f"{full} has no example"
        assert not [line for line in lines if "doctest: +SKIP" in line], f"{full} is not run"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_of_a_public_name_is_in_its_docstring(name):
    for full, thing in names_of(load(name)).items():
        if getattr(thing, "_is_protocol", False) or isinstance(thing, enum.EnumMeta):
            continue  # these are not called
        if isinstance(thing, type) and issubclass(thing, Exception):
            continue
        text = inspect.getdoc(thing) or ""
        missing = [one for one in inspect.signature(thing).parameters if one not in text]
        assert missing == [], full


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_method_has_a_docstring_and_is_in_an_example(name):
    for full, thing in names_of(load(name)).items():
        if not isinstance(thing, type) or getattr(thing, "_is_protocol", False):
            continue
        kinds = (types.FunctionType, classmethod, staticmethod, property)
        for method, value in vars(thing).items():
            field = method in getattr(thing, "__dataclass_fields__", {})
            if method.startswith("_") or field or not isinstance(value, kinds):
                continue
            own = inspect.getdoc(getattr(thing, method)) or ""
            assert own, f"{full}.{method} has no docstring"
            examples = [line for line in f"{own}\n{inspect.getdoc(thing)}".splitlines()
                        if line.startswith((">>>", "..."))]  # fmt: skip
            called = method in ("forward", "extra_repr")  # by torch
            shown = any(re.search(rf"\.{method}\b", line) for line in examples)
            assert called or shown, f"no example of {full} has {method}"
