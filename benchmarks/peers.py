"""Run pydensecrf, the most used implementation, on the benchmark's problems.

Its CRF is defined as ours with spatial="lattice", so labels must agree. Install it by
pip install -e '.[bench]'; compile it with CFLAGS='-O3 -march=native' for a fair comparison.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import numpy as np
from measure import Case
from problems import Problem

NAME = "pydensecrf"


def cases(*work: Callable) -> list[Case]:
    """Return a case per piece of work, or none where pydensecrf is not installed."""
    if importlib.util.find_spec("pydensecrf") is None:
        return []
    return [Case(NAME, each) for each in work]


def forward(iterations: int) -> Callable:
    """Return the counterpart of `refine`: lattices and mean field."""
    return partial(_forward, iterations=iterations)


def face(iterations: int) -> Callable:
    """Return the same lines as `forward` on the interface that this package has of pydensecrf."""
    return partial(_forward, iterations=iterations, module="densecrf_rnn.compat.pydensecrf")


def _forward(
    problem: Problem, threads: int, iterations: int, module: str = "pydensecrf"
) -> Callable[[], np.ndarray]:
    assert threads == 1  # pydensecrf has no threads
    densecrf = importlib.import_module(f"{module}.densecrf")

    def run() -> np.ndarray:
        with _one_thread():
            crf = _with_unary(problem.logits, densecrf)
            add_spatial(crf, problem)
            add_bilateral(crf, problem)
            return np.array(crf.inference(iterations)).reshape(problem.logits.shape)

    return run


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Set the number of threads that the interface of `face` reads in each call."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def build(problem: Problem, threads: int) -> Callable[[], None]:
    """Prepare the bilateral kernel: features, lattice, and the filter call that normalises it."""
    assert threads == 1
    densecrf = importlib.import_module("pydensecrf.densecrf")
    crf = _with_unary(np.zeros((2, *problem.size), np.float32), densecrf)
    return lambda: add_bilateral(crf, problem)


def _with_unary(logits: np.ndarray, densecrf: ModuleType):
    labels, *size = logits.shape
    if len(size) == 2:
        crf = densecrf.DenseCRF2D(size[1], size[0], labels)
    else:
        crf = densecrf.DenseCRF(logits[0].size, labels)
    crf.setUnaryEnergy(-logits.reshape(labels, -1))
    return crf


def add_spatial(crf, problem: Problem) -> None:
    params = problem.params
    if len(problem.size) == 2:
        crf.addPairwiseGaussian(sxy=params.theta_gamma, compat=params.w_spatial)
    else:
        from pydensecrf import utils

        features = utils.create_pairwise_gaussian((params.theta_gamma,) * 3, problem.size)
        crf.addPairwiseEnergy(features, compat=params.w_spatial)


def add_bilateral(crf, problem: Problem) -> None:
    params, image = problem.params, problem.image
    alpha, beta = params.theta_alpha, params.theta_beta
    if len(problem.size) == 2:
        crf.addPairwiseBilateral(sxy=alpha, srgb=beta, rgbim=image, compat=params.w_bilateral)
    else:
        from pydensecrf import utils

        features = utils.create_pairwise_bilateral((alpha,) * 3, (beta,), image, chdim=3)
        crf.addPairwiseEnergy(features, compat=params.w_bilateral)
