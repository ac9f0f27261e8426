"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import importlib.util
import pkgutil

import numpy as np
import pytest

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
    names = {"np": np}
    if name.startswith("densecrf_rnn.files"):
        pytest.importorskip("PIL")  # they write pictures
    if name == "densecrf_rnn.postprocess":
        pytest.importorskip("skimage")
    if name == "densecrf_rnn.distributed":
        pytest.importorskip("dask.array")
    if name == "densecrf_rnn.compat.weights":
        pytest.importorskip("torch")  # its examples make a layer
    if name.startswith(("densecrf_rnn.nn", "densecrf_rnn.compat.monai", "densecrf_rnn.compat.tr")):
        torch = importlib.import_module("torch")
        torch.manual_seed(0)
        names |= {"torch": torch, "nn": torch.nn}
    failed, _ = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0, "the failing examples are printed above"


def test_public_functions_show_an_example():
    """Each public name that needs no torch has an example, so the test above is not empty."""
    for name in densecrf_rnn.__all__:
        thing = getattr(densecrf_rnn, name) if name not in ("CRFRNN", "GibbsCRF") else None
        if thing is None or (isinstance(thing, type) and issubclass(thing, Exception)):
            continue
        assert ">>>" in (thing.__doc__ or ""), f"{name} has no example"
