"""The fuzzer of tests/fuzz, for a short time; CONTRIBUTING.md says how to run it for long."""

import importlib

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis")
from fuzz import compare, driver, machines, oracle, parts, properties, targets  # noqa: E402

from densecrf_rnn import PermutohedralLattice  # noqa: E402


def test_random_calls_agree_with_the_oracle_and_its_invariances():
    outcome = driver.run(seed=0, calls=1500)
    assert not outcome.failures, outcome.failures[0]
    assert outcome.calls >= 1500 and outcome.problems > 300


@pytest.mark.parametrize("check", properties.PROPERTIES, ids=lambda check: check.__name__)
def test_every_property_is_drawn(check):
    failures = [driver.run_one(7, index, driver.Api(), check.__name__) for index in range(8)]
    assert not any(failures), failures


def test_a_wrong_weight_would_be_found(monkeypatch):
    """The fuzzer sees a relative error of a thousandth in one filter."""
    genuine = PermutohedralLattice.filter
    monkeypatch.setattr(
        PermutohedralLattice, "filter",
        lambda self, values, **options: genuine(self, values, **options) * values.dtype.type(1.001),
    )  # fmt: skip
    name = properties.filter_equals_the_dictionary_lattice.__name__
    assert any(driver.run_one(0, index, driver.Api(), name) for index in range(8))


@pytest.mark.parametrize("check", [
    parts.filters_of_tensors_equal_the_dictionary_lattice,
    parts.losses_equal_their_dense_definition,
], ids=lambda check: check.__name__)  # fmt: skip
def test_a_wrong_weight_of_a_part_would_be_found(monkeypatch, check):
    pytest.importorskip("torch")
    filtering = importlib.import_module("densecrf_rnn.nn.filtering")
    genuine = filtering.filter_rows

    def wrong(values, *args, **options):
        return genuine(values, *args, **options) * 1.001

    monkeypatch.setattr(filtering, "filter_rows", wrong)
    monkeypatch.setattr("densecrf_rnn.nn.losses.filter_rows", wrong)
    assert any(driver.run_one(0, index, driver.Api(), check.__name__) for index in range(8))


def test_engines_may_part_only_at_the_jump_of_relu():
    """Logits of (2e-17, -1) and (-2e-17, -1) have marginals (1, 0) and (1/2, 1/2)."""
    failure = driver.run_one(109740589, 6600, driver.Api())  # in it rounding decides
    assert failure is None, failure
    below, above = [np.array([[[x, -1.0]]]) for x in (-2e-17, 2e-17)]
    even, one = np.array([[[0.5, 0.5]]]), np.array([[[1.0, 0.0]]])
    assert compare.met_a_jump([(below, even)], [(above, one)])
    assert not compare.met_a_jump([(above, one)], [(above, one)])
    with pytest.raises(AssertionError, match="marginals differ where a logit is 0.01"):
        compare.met_a_jump([(above + 0.01, one)], [(above + 0.01, even)])


def test_the_oracle_keeps_a_part_of_a_single_point():
    for dims in (1, 2, 5):
        rows = np.random.default_rng(dims).normal(size=(1, dims))
        assert 0 < oracle.lattice(rows).matrix[0, 0] <= 1


TestDenseCRF = machines.DenseCRFMachine.TestCase
TestResume = machines.ResumeMachine.TestCase
TestDenseCRF.settings = hypothesis.settings(max_examples=25, stateful_step_count=15)
TestResume.settings = hypothesis.settings(max_examples=12, stateful_step_count=15)

CORPUS = sorted(p for p in targets.CORPUS.glob("*/*") if p.parent.name != "pydensecrf")


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in CORPUS}))
def test_damaged_files_of_the_corpus_raise_what_readers_may_raise(folder):
    name = folder if folder in ("json", "journal") else f".{folder}"
    read = targets.target(name)
    for path in CORPUS:
        if path.parent.name == folder:
            read(path.read_bytes())
