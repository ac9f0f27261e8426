"""Measure L regions that overlap, refined at once, against L calls with one region each."""

from functools import partial

import numpy as np
import pytest
from measure import Case, compare
from problems import TIGHT, WIDE, Problem

from densecrf_rnn import refine

PARAMS = {"wide": WIDE, "tight": TIGHT}
ITERATIONS = 5


def at_once(problem, threads):
    logits, image, params = problem.logits, problem.image, problem.params
    options = {"iterations": ITERATIONS, "threads": threads}
    return lambda: refine(logits, image, params, multilabel=True, **options)


def single(problem, threads):
    """Prepare a call for each region."""
    logits, image, params = problem.logits, problem.image, problem.params
    options = {"iterations": ITERATIONS, "threads": threads}

    def run():
        q = np.empty_like(logits)
        for one in range(len(logits)):
            q[one] = refine(logits[one : one + 1], image, params, **options)[0]
        return q

    return run


@pytest.mark.parametrize("regions", [1, 10, 50])
@pytest.mark.parametrize("name", PARAMS)
def test_regions(name, regions):
    problem = Problem(labels=regions, params=PARAMS[name])
    cases = [
        Case(who, work, threads)
        for who, work in (("one call each", single), ("at once", at_once)) for threads in (1, 2)
    ]  # fmt: skip
    case = f"regions 500x500 {name} L={regions} T={ITERATIONS}"
    outcomes = compare(case, problem, cases, "one call each", runs=3)
    wanted = outcomes["one call each", 1].value
    for outcome in outcomes.values():
        np.testing.assert_array_equal(outcome.value, wanted)


def training(problem, threads, multilabel):
    """Prepare a forward and backward pass of the layer, for all regions or for one at a time."""
    import torch

    from densecrf_rnn import CRFRNN

    torch.set_num_threads(threads)
    logits = torch.from_numpy(problem.logits)[None].requires_grad_()
    image = torch.from_numpy(np.moveaxis(problem.image, -1, 0).astype(np.float32))[None]
    crf = CRFRNN(problem.labels if multilabel else 1, multilabel=multilabel, params=problem.params)
    parts = [logits] if multilabel else logits.split(1, 1)

    def run():
        for part in parts:
            crf(part, image).sum().backward(retain_graph=True)

    return run


@pytest.mark.parametrize("regions", [1, 10, 50])
def test_layer(regions):
    pytest.importorskip("torch")
    problem = Problem(labels=regions)
    cases = [
        Case("one call each", partial(training, multilabel=False), 2),
        Case("at once", partial(training, multilabel=True), 2),
    ]
    case = f"regions, layer forward and backward 500x500 wide L={regions} T={ITERATIONS}"
    compare(case, problem, cases, "one call each", runs=3)
