"""Measure the exact method's time, and the lattice's error against it, on a photograph.

docs/accuracy.md shows both; a test compares it with the file that this command writes:

    pytest benchmarks/bench_exact.py --results benchmarks/results/accuracy_exact.json
"""

import functools
import time
from dataclasses import replace

import numpy as np
import pytest
from measure import ROWS, Row
from problems import PERSON

from densecrf_rnn import CRFParams, samples
from densecrf_rnn.params import QUALITIES

torch = pytest.importorskip("torch")

from densecrf_rnn.nn import functional  # noqa: E402

STEP = 4  # use every fourth pixel of every fourth row, as the time is quadratic in the pixels
ITERATIONS = 5
PARAMS = {
    "160/3": CRFParams(160 / STEP, 3, 3),
    "80/13": CRFParams(80 / STEP, 13, 3),
    "30/5": CRFParams(30 / STEP, 5, 3, w_bilateral=3),
}


@functools.cache
def photograph():
    """Return logits [1, 21, H, W] and image [1, 3, H, W] as float32, and true labels [1, H, W]."""
    sample = samples.load(PERSON)
    size = sample.image.shape[:2]
    logits = samples.upsample(sample.logits, size)[:, ::STEP, ::STEP]
    image = np.moveaxis(sample.image[::STEP, ::STEP], -1, 0).astype(np.float32)
    truth = sample.truth[::STEP, ::STEP].astype(np.int64)
    return [torch.from_numpy(np.ascontiguousarray(x)[None]) for x in (logits, image, truth)]


def loss(refined):
    """Return the cross-entropy with the true labels; 255 is ignored."""
    return torch.nn.functional.cross_entropy(refined, photograph()[2], ignore_index=255)


def timed(function, runs=3):
    """Return the last result and the milliseconds of each run."""
    took = []
    for _ in range(runs):
        begin = time.perf_counter()
        result = function()
        took.append(1e3 * (time.perf_counter() - begin))
    return result, took


@functools.cache
def exact(name):
    """Return the exact refined logits, the loss's gradient for the image, and the times of both."""
    logits, image, _ = photograph()
    image = image.clone().requires_grad_()
    options = {"iterations": ITERATIONS, "method": "exact"}
    out, forward = timed(lambda: functional.mean_field(logits, image, PARAMS[name], **options))
    find = functools.partial(torch.autograd.grad, loss(out), image, retain_graph=True)
    (gradient,), backward = timed(find)
    return out.detach(), gradient, forward, backward


@pytest.mark.parametrize("name", PARAMS)
def test_exact_time(name):
    out, gradient, forward, backward = exact(name)
    case = f"exact mean field {out.shape[2]}x{out.shape[3]}, {name}, L=21 T=5"
    threads = torch.get_num_threads()
    ROWS.append(Row(case, "forward", threads, milliseconds=forward))
    ROWS.append(Row(case, "backward, image too", threads, milliseconds=backward))
    assert out.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", PARAMS)
def test_lattice_error_on_a_photograph(name, quality):
    logits, image, _ = photograph()
    wanted, wanted_gradient, *_ = exact(name)
    image = image.clone().requires_grad_()
    params = replace(PARAMS[name], quality=quality)
    found = functional.mean_field(logits, image, params, iterations=ITERATIONS)
    (gradient,) = torch.autograd.grad(loss(found), image)
    differ = (found.argmax(1) != wanted.argmax(1)).double().mean()
    distance = (found.softmax(1) - wanted.softmax(1)).abs().mean()
    cosine = torch.cosine_similarity(gradient.flatten(), wanted_gradient.flatten(), dim=0)
    note = (
        f"labels that differ from exact {100 * differ:.2f} %, mean |dQ| {distance:.5f}, cosine of "
        f"the image gradients {cosine:.3f}"
    )
    ROWS.append(Row(f"photograph, {name}", f"grid, {quality}", note=note))
    assert differ < 0.05
