"""CRFRNN in training: forward, and backward relative to it."""

import time

import pytest
from bench_mean_field import ITERATIONS, LABELS, RUNS, SIZE, problem  # noqa: F401
from measure import report

from densecrf_rnn import CRFRNN, CRFParams

torch = pytest.importorskip("torch")

CASES = {"wide 80/13": CRFParams(80, 13, 3), "tight 160/3": CRFParams()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_layer_forward_and_backward(case, threads, problem):  # noqa: F811
    image, logits, vertices = problem(CASES[case])
    crf = CRFRNN(LABELS, params=CASES[case], iterations=ITERATIONS).train()
    u = torch.from_numpy(logits)[None].requires_grad_()
    guide = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    seconds = {"forward": [], "backward": []}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for run in range(RUNS + 1):
            begin = time.perf_counter()
            loss = crf(u, guide).square().mean()
            middle = time.perf_counter()
            loss.backward()
            if run:  # the first warms up
                seconds["forward"].append(middle - begin)
                seconds["backward"].append(time.perf_counter() - middle)
    finally:
        torch.set_num_threads(before)
    size = " x ".join(map(str, SIZE))
    report(f"layer {case}, {size}, {threads} thread(s)", vertices, seconds)
