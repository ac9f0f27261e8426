"""Who may import whom (docs/architecture.md, layers), and what an import of the package costs."""

import ast
import graphlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import densecrf_rnn
from densecrf_rnn import engines

PACKAGE = Path(densecrf_rnn.__file__).parent
CPP = PACKAGE.parent / "cpp"
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
NATIVE = {"densecrf_rnn._cpu", "densecrf_rnn._cuda"}

# Lowest first: a module imports from rows above its own, and from its own folder. __init__.py of
# the package itself gathers the public names, so it may import anything.
LAYERS = (
    {"_typing", "_limits", "_platform"},
    {"_atomic", "checks"},
    {"metrics"},
    {"params", "unaries", "upsampling", "postprocess"},
    {"kernels"},
    {"reference"},
    {"engines"},
    {"lattice", "inference"},
    {"energy", "tiles", "onnx_runtime", "gibbs"},
    {"samples", "tuning", "distributed"},
    {"nn"},
    {"files"},
    {"explore"},
    {"compat", "cli"},
    {"__main__"},
)

# In compat: the interfaces of packages that import torch themselves.
OF_TORCH_PACKAGES = (("compat", "monai"), ("compat", "transformers.py"))


def unit(path):
    """The module or folder of the package that a source file belongs to."""
    return path.parts[0].removesuffix(".py")


def imported(path):
    """Full names of all that a source file imports, in functions and by import_module as well."""
    names = set()
    package = ["densecrf_rnn", *path.parts[:-1]]
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "densecrf_rnn":  # from . import a, b: modules or public names
                names.update(f"{module}.{alias.name}" for alias in node.names)
            else:
                names.add(module)
                names.update(f"{module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(node.args[0].value)
    return names


def outside(path):
    """Top-level packages that a source file imports, other than ours and the standard library."""
    tops = {name.split(".")[0] for name in imported(path)}
    return {top for top in tops if top not in sys.stdlib_module_names} - {"densecrf_rnn"}


def inside(path):
    """Modules and folders of ours that a source file imports."""
    units = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "densecrf_rnn" or len(parts) < 2:
            continue
        where = PACKAGE / parts[1]
        if where.is_dir() or where.with_suffix(".py").is_file():
            units.add(parts[1])
    return units


def of(*units):
    return [path for path in SOURCES if unit(path) in units]


LOWEST = of("checks", "params", "kernels", "metrics", "unaries", "upsampling")


@pytest.mark.parametrize("path", LOWEST, ids=str)
def test_the_lowest_modules_import_numpy_alone(path):
    assert outside(path) <= {"numpy"}
    assert inside(path) <= {"_limits", "_typing", "checks", "params", "kernels", "metrics"}


@pytest.mark.parametrize("path", of("reference"), ids=str)
def test_the_reference_sees_no_engine(path):
    assert outside(path) <= {"numpy", "numba"}
    assert inside(path) <= {"_typing", "reference", "params", "kernels"}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_torch_is_imported_in_nn_and_by_interfaces_of_torch_packages_alone(path):
    if unit(path) != "nn" and path.parts[:2] not in OF_TORCH_PACKAGES:
        assert "torch" not in outside(path)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_native_modules_are_reached_through_engines_alone(path):
    if unit(path) != "engines":
        assert not imported(path) & NATIVE


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_numba_is_imported_in_the_reference_alone(path):
    if unit(path) != "reference":
        assert "numba" not in outside(path)


@pytest.mark.parametrize("path", [p for p in SOURCES if str(p) != "__init__.py"], ids=str)
def test_imports_go_downward_only(path):
    ranks = {name: rank for rank, names in enumerate(LAYERS) for name in names}
    assert unit(path) in ranks, "give the new module a place in LAYERS"
    for other in inside(path) - {unit(path)}:
        assert ranks[other] < ranks[unit(path)], f"{path} imports {other}"


def module_name(path):
    """Dotted name of a source file of the package."""
    parts = ["densecrf_rnn", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imported_on_load(path):
    """Modules of ours that a source file names outside functions, for type checking as well."""
    package = ["densecrf_rnn", *path.parts[:-1]]
    found, nodes = set(), [ast.parse((PACKAGE / path).read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        nodes.extend(ast.iter_child_nodes(node))
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            members = {f"{module}.{alias.name}" for alias in node.names}
            names = [name if name in MODULES else module for name in members]
        found.update(name for name in names if name in MODULES)
    return found


def test_no_modules_import_one_another_in_a_circle():
    graph = {name: imported_on_load(path) for name, path in MODULES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) == set(MODULES)


def test_no_source_file_is_longer_than_500_lines():
    files = [path for root in (PACKAGE, CPP) for path in root.rglob("*") if path.is_file()]
    sources = [f for f in files if f.suffix in (".py", ".pyi", ".cpp", ".hpp", ".cu", ".cuh")]
    lines = {str(f): len(f.read_text(encoding="utf-8").splitlines()) for f in sources}
    assert {name: count for name, count in lines.items() if count > 500} == {}


# --- public names --------------------------------------------------------------------------------

ROOT = PACKAGE.parent
DOCUMENTS = [*ROOT.glob("README.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.py")]


def python_blocks(path):
    """The Python source of an example, or of each fenced block of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def documented_imports():
    """(module, name or None) of everything imported from the package in documents and examples."""
    found = set()
    for source in (block for path in DOCUMENTS for block in python_blocks(path)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found.update((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.update((node.module, alias.name) for alias in node.names)
    return sorted((pair for pair in found if pair[0].split(".")[0] == "densecrf_rnn"), key=str)


@pytest.mark.skipif(not DOCUMENTS, reason="the documents are not installed with the package")
def test_every_name_that_documents_and_examples_import_exists():
    imports = documented_imports()
    assert ("densecrf_rnn", "CRFRNN") in imports and ("densecrf_rnn", "refine") in imports
    for module, name in imports:
        if importlib.util.find_spec("torch") is None and (".nn" in module or name == "CRFRNN"):
            continue
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            if "which is not installed; pip install" in str(error):
                continue  # a package of the environment of .ci/integration
            raise
        if name is not None and not hasattr(loaded, name):
            importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize(
    "order",
    [
        "inference.refine inference.mean_field gibbs tiles",
        "tiles inference.mean_field inference.refine",
        "gibbs inference.mean_field",
        "nn nn.functional inference.refine",
        "inference.mean_field nn.crfrnn tuning cli",
    ],
)
def test_refine_and_mean_field_are_functions_whatever_is_imported(order):
    if "nn" in order.split() and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    lines = [f"importlib.import_module('densecrf_rnn.{name}')" for name in order.split()]
    check = "import densecrf_rnn as d; assert callable(d.refine) and callable(d.mean_field)"
    run("\n".join(["import importlib", check, *(f"{line}\n{check}" for line in lines)]))


# --- the party wall ---
# Gibbs sampling is a library of its own: nothing dense may import it, so that either can be read
# and changed without the other.

GIBBS_ROOMS = ("gibbs", "nn.gibbs", "reference.gibbs", "reference.gibbs_numba", "engines.gibbs")


def is_gibbs(module):
    """Whether a module, named from the package on ("nn.gibbs.crf"), belongs to Gibbs sampling."""
    return any(module == room or module.startswith(f"{room}.") for room in GIBBS_ROOMS)


def modules(path):
    """Modules of the package that a source file imports, named from the package on."""
    found = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "densecrf_rnn":
            continue
        # `from .a import b`: a.b is a module, or b is a name that a defines.
        while len(parts) > 1:
            where = PACKAGE.joinpath(*parts[1:])
            if where.is_dir() or where.with_suffix(".py").is_file():
                found.add(".".join(parts[1:]))
                break
            parts.pop()
    return found


def test_every_file_named_after_gibbs_is_behind_the_party_wall():
    named = {".".join(p.with_suffix("").parts) for p in SOURCES if "gibbs" in str(p)}
    assert len(named) > len(GIBBS_ROOMS)
    assert all(map(is_gibbs, named))
    assert {"nn.gibbs.chains", "nn.gibbs.crf"} <= modules(Path("nn/__init__.py"))  # they are seen


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_dense_imports_gibbs(path):
    module = ".".join(path.with_suffix("").parts)
    if path.name != "__init__.py" and unit(path) not in ("cli", "compat") and not is_gibbs(module):
        assert not [name for name in modules(path) if is_gibbs(name)]


# --- the cost of an import -----------------------------------------------------------------------


def run(code, *blocked):
    """Run `code` in a fresh interpreter where importing any of `blocked` fails."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{block}{code}"],
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


REFINE = """
import numpy as np
from densecrf_rnn import PermutohedralLattice, refine
q = refine(np.zeros((2, 4, 5), np.float32), np.zeros((4, 5, 3), np.uint8))
assert np.allclose(q, 0.5)
lattice = PermutohedralLattice(np.zeros((3, 2)))
lattice.filter(np.ones((3, 1)))
"""


def test_importing_the_package_imports_numpy_alone():
    out = run(
        "import densecrf_rnn\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'numba', 'scipy', 'skimage', 'matplotlib', 'tqdm', 'dask', 'pytest'}))"
    )
    assert out.strip() == ""


def test_refining_with_the_native_engine_imports_no_torch_and_no_numba():
    reason = engines.why_unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)
    out = run(REFINE + "print(lattice.backend, 'torch' in sys.modules, 'numba' in sys.modules)")
    assert out.split() == ["cpu", "False", "False"]


def test_importing_the_command_line_imports_no_torch():
    if not (PACKAGE / "cli" / "__init__.py").is_file():
        pytest.skip("there is no command line yet")
    out = run("import densecrf_rnn.cli\nprint('torch' in sys.modules, 'numba' in sys.modules)")
    assert out.split() == ["False", "False"]


def test_refine_works_without_torch():
    run(REFINE, "torch")


def test_the_interface_of_pydensecrf_works_without_torch():
    out = run(
        "import numpy as np\n"
        "import densecrf_rnn.compat.pydensecrf.densecrf as dcrf\n"
        "from densecrf_rnn.compat.pydensecrf.utils import unary_from_labels\n"
        "d = dcrf.DenseCRF2D(2, 2, 2)\n"
        "d.setUnaryEnergy(unary_from_labels(np.array([[0, 1], [2, 0]]), 2, 0.7))\n"
        "d.addPairwiseGaussian(sxy=1, compat=3)\n"
        "print(*d.inference(5).shape)",
        "torch",
    )
    assert out.split() == ["2", "4"]


def test_refine_works_without_torch_and_numba():
    reason = engines.why_unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)
    out = run(REFINE + "print(lattice.backend)", "torch", "numba")
    assert out.split() == ["cpu"]


def test_refine_works_without_the_native_module():
    reason = engines.why_unavailable("numba")
    if reason is not None:
        pytest.skip(reason)
    out = run(REFINE + "print(lattice.backend)", "torch", "densecrf_rnn._cpu")
    assert out.split() == ["numba"]


@pytest.mark.parametrize("name", ["CRFRNN", "GibbsCRF"])
def test_a_layer_without_torch_says_what_to_install(name):
    out = run(
        "import densecrf_rnn\n"
        f"try:\n    densecrf_rnn.{name}\n"
        "except ImportError as error:\n    print(error)",
        "torch",
    )
    assert f"{name} needs torch" in out and "pip install 'densecrf-rnn[torch]'" in out


GIBBS = """
import numpy as np
from densecrf_rnn import gibbs
logits = np.zeros((3, 6, 7), np.float32)
tables = np.ones((1, 3, 3), np.float32)
print(gibbs.sweep(logits, gibbs.start(logits), tables, [(0, 1)], sweeps=3)[0].tolist())
"""


def test_gibbs_sweeps_are_the_same_without_torch_and_without_the_native_module():
    for name in ("cpu", "numba"):
        reason = engines.why_unavailable(name)
        if reason is not None:
            pytest.skip(reason)
    native = run(GIBBS, "torch", "numba")
    assert native == run(GIBBS, "torch", "densecrf_rnn._cpu")


def test_without_any_engine_the_error_names_the_fix():
    out = run(
        "from densecrf_rnn import BackendUnavailableError, available_backends\n"
        "assert available_backends() == []\n"
        f"try:\n    exec({REFINE!r})\n"
        "except BackendUnavailableError as error:\n    print(error)",
        "numba",
        "torch",
        "densecrf_rnn._cpu",
    )
    assert "no backend can run here" in out
    assert "compiler" in out and "pip install 'densecrf-rnn[numba]'" in out


def test_an_engine_named_but_absent_is_refused_with_its_reason():
    out = run(
        "import numpy as np\n"
        "from densecrf_rnn import BackendUnavailableError, PermutohedralLattice\n"
        "for name in ('numba', 'cpu'):\n"
        "    try:\n        PermutohedralLattice(np.zeros((3, 2)), backend=name)\n"
        "    except BackendUnavailableError as error:\n        print(error)",
        "numba",
        "densecrf_rnn._cpu",
    )
    numba, cpu = out.splitlines()
    assert "'numba' cannot run here: numba is not installed; pip install" in numba
    assert "'cpu' cannot run here: the native module" in cpu and "pip install" in cpu


def test_public_names_exist():
    for name in densecrf_rnn.__all__:
        if name in ("CRFRNN", "GibbsCRF") and importlib.util.find_spec("torch") is None:
            continue
        assert getattr(densecrf_rnn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'refien'"):
        densecrf_rnn.refien  # noqa: B018


# --- C++ -----------------------------------------------------------------------------------------

CPP_SOURCES = sorted(
    path.relative_to(CPP)
    for path in CPP.rglob("*")
    if path.suffix in (".cpp", ".hpp", ".cu", ".cuh", ".h")
)
# The folders of ours that each folder may include.
CPP_LAYERS = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "bindings": {"core", "cpu", "cuda", "bindings"},
    "tests": {"core", "cpu", "cuda", "tests"},
}


def includes(path):
    """What a C++ file includes: our files as paths below cpp/, others by name."""
    text = (CPP / path).read_text(encoding="utf-8")
    for opening, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.MULTILINE):
        ours = (CPP / path.parent / name).resolve()
        if opening == '"':
            assert ours.is_file(), f"{path} includes {name}, which is not beside it"
            yield ours.relative_to(CPP.resolve())
        else:
            yield name


@pytest.mark.skipif(not CPP_SOURCES, reason="the C++ sources are not installed with the package")
def test_cpp_sources_are_found():
    assert {path.parts[0] for path in CPP_SOURCES} >= {"core", "cpu", "bindings"}


@pytest.mark.parametrize("path", CPP_SOURCES, ids=str)
def test_cpp_includes_go_downward_only(path):
    for include in includes(path):
        if isinstance(include, Path):
            assert include.parts[0] in CPP_LAYERS[path.parts[0]], f"{path} includes {include}"


@pytest.mark.parametrize("path", CPP_SOURCES, ids=str)
def test_cpp_knows_python_in_the_bindings_alone_and_torch_nowhere(path):
    others = [name for name in includes(path) if isinstance(name, str)]
    assert not [name for name in others if re.match(r"(torch|ATen|c10)/", name)]
    if path.parts[0] != "bindings":
        assert not [name for name in others if re.match(r"pybind11/|Python\.h|numpy/", name)]


@pytest.mark.parametrize("path", CPP_SOURCES, ids=str)
def test_cpp_looks_at_the_cuda_compiler_in_one_header(path):
    if path.parts[0] != "cuda" and path != Path("core/portable.hpp"):
        assert "__CUDACC__" not in (CPP / path).read_text(encoding="utf-8")
