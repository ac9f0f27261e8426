"""The instruction sets that the native loops are compiled for: the same answer from each."""

import subprocess
import sys

import numpy as np
import pytest
from processes import environment

from densecrf_rnn import engines

NAMES = ("baseline", "avx2", "avx512")
IMPORT = "from densecrf_rnn import CRFParams, engines, params, refine, samples"
REFINE = f"""
import sys
import numpy as np
{IMPORT}

sample = samples.load("2007_000033")
image, logits = sample.image[60:190, 200:361], sample.logits[:, 60:190, 200:361]
results = {{
    spatial: refine(logits, image, CRFParams(spatial=spatial), backend="cpu")
    for spatial in params.SPATIAL_FILTERS
}}
np.savez(sys.argv[1], **results)
print(engines.native_isa())
"""

GIBBS = """
import hashlib
import numpy as np
from densecrf_rnn import engines, gibbs
from densecrf_rnn.gibbs.neighbourhood import dense_neighbourhood

rng, offsets, digest = np.random.default_rng(0), dense_neighbourhood(1), hashlib.sha256()
for labels in (2, 4, 5, 8, 9, 20, 32, 33, 300):
    logits = 3 * rng.normal(size=(labels, 31, 37)).astype(np.float32)
    tables = rng.normal(size=(len(offsets), labels, labels)).astype(np.float32)
    q = gibbs.marginals(logits, tables, offsets, sweeps=3, burn_in=3, backend="cpu")
    digest.update(q.tobytes())
    digest.update(gibbs.annealed(logits, tables, offsets, sweeps=3, backend="cpu").tobytes())
print(digest.hexdigest(), engines.native_isa())
"""


@pytest.fixture(autouse=True)
def needs_native_module():
    reason = engines.why_unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)


def run(code, isa, *arguments):
    """`code` in a process of its own, told to use this instruction set."""
    env = {**environment(), "DENSECRF_RNN_ISA": isa}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """What the instruction set that every processor has gives: marginals by spatial kernel."""
    pytest.importorskip("skimage")
    file = tmp_path_factory.mktemp("baseline") / "q.npz"
    done = run(REFINE, "baseline", file)
    assert (done.stdout, done.stderr) == ("baseline\n", "")
    with np.load(file) as results:
        return dict(results)


@pytest.mark.parametrize("isa", NAMES[1:])
def test_photograph_is_refined_alike(isa, baseline, tmp_path):
    done = run(REFINE, isa, tmp_path / "q.npz")
    assert done.returncode == 0, done.stderr
    used = done.stdout.strip()
    if used != isa:
        assert used in NAMES[: NAMES.index(isa)]
        pytest.skip(f"this processor has no {isa}")
    with np.load(tmp_path / "q.npz") as results:
        for spatial, q in baseline.items():
            assert np.abs(results[spatial] - q).max() < 1e-5
            np.testing.assert_array_equal(results[spatial].argmax(0), q.argmax(0))


def test_gibbs_sweeps_have_the_same_bits_on_every_instruction_set():
    done = [run(GIBBS, isa) for isa in NAMES]
    assert [each.returncode for each in done] == [0, 0, 0], done
    digests = {each.stdout.split()[0] for each in done}
    assert len(digests) == 1


def test_best_instruction_set_is_used_unless_one_is_named():
    code = f"{IMPORT}; print(engines.native_isa())"
    assert run(code, "").stdout == run(code, "avx512").stdout  # the most that there is
    assert run(code, "").stdout.strip() in NAMES
    assert run(code, "baseline").stdout.strip() == "baseline"


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_unknown_instruction_set_is_refused_when_it_is_first_needed(name):
    code = f"""
import numpy as np
import densecrf_rnn
print(densecrf_rnn.available_backends()[0])
try:
    densecrf_rnn.PermutohedralLattice(np.zeros((3, 2)), backend={name!r})
except densecrf_rnn.BackendUnavailableError as error:
    print(error)
"""
    done = run(code, "AVX-2")
    assert done.stderr == ""
    first, message = done.stdout.splitlines()
    assert first == "cpu"
    assert message == (
        "backend 'cpu' cannot run here: "
        "DENSECRF_RNN_ISA must be baseline, avx2 or avx512, not AVX-2"
    )
