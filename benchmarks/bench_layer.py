"""Measure CRFRNN in training: forward, backward, batches, and the overhead of a call."""

from functools import partial

import pytest
from measure import Case, compare
from problems import TIGHT, WIDE, Problem

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFRNN  # noqa: E402

ITERATIONS = 5
PARAMS = {"wide": WIDE, "tight": TIGHT}
STORED, RECOMPUTED = 2**30, 1  # bytes: enough for the marginals of all iterations; for none


def inputs(problem, batch):
    """Return logits and images as a batch of rotated and mirrored copies."""
    logits = torch.from_numpy(problem.logits)
    image = torch.from_numpy(problem.image).movedim(-1, 0).float()
    return batched(logits, batch).requires_grad_(), batched(image, batch)


def batched(x, batch):
    turned = [torch.rot90(x, i % 4, (1, 2)) for i in range(batch)]
    return torch.stack([t if i < 4 else t.flip(2) for i, t in enumerate(turned)])


def prepared(problem, threads, batch, memory_budget):
    torch.set_num_threads(threads)
    crf = CRFRNN(
        problem.labels, params=problem.params, iterations=ITERATIONS, memory_budget=memory_budget
    ).train()
    u, guide = inputs(problem, batch)
    return lambda: crf(u, guide)


def forward(problem, threads, batch=1, memory_budget=STORED):
    return prepared(problem, threads, batch, memory_budget)


def backward(problem, threads, batch=1, memory_budget=STORED):
    refined = prepared(problem, threads, batch, memory_budget)()
    cotangent = torch.randn(refined.shape, generator=torch.Generator().manual_seed(0))
    return lambda: refined.backward(cotangent)


def step(problem, threads, batch=1, memory_budget=STORED):
    run = prepared(problem, threads, batch, memory_budget)
    return lambda: run().square().mean().backward()


def train(case, problem, runs, **options):
    """Add rows for forward and backward on one thread and on two."""
    work = {w: partial(w, **options) for w in (forward, backward, step)}
    cases = []
    for threads in (1, 2):
        cases.append(Case("forward", work[forward], threads))
        cases.append(Case("backward", work[backward], threads, whole=work[step]))
    before = torch.get_num_threads()
    try:
        outcomes = compare(case, problem, cases, peer="forward", runs=runs)
    finally:
        torch.set_num_threads(before)
    for threads in (1, 2):
        row = outcomes["backward", threads].row
        row.note = f"backward / forward {1 / row.ratio:.2f}; memory of both"


@pytest.mark.parametrize("mode", ["stored", "recomputed"])
@pytest.mark.parametrize("name", PARAMS)
def test_training(name, mode):
    budget, runs = {"stored": (STORED, 5), "recomputed": (RECOMPUTED, 3)}[mode]
    case = f"training 500x500 {name} L=21 T=5, {mode}"
    train(case, Problem(params=PARAMS[name]), runs, memory_budget=budget)


def test_batch():
    train("training 8 x 256x256 wide L=21 T=5", Problem(size=(256, 256)), runs=3, batch=8)


def engine(problem, threads, backend, train, compiled=False):
    """Prepare a call of the layer on one engine, with its gradient if `train`."""
    torch.set_num_threads(threads)
    crf = CRFRNN(problem.labels, params=problem.params, iterations=ITERATIONS, backend=backend)
    layer = torch.compile(crf, fullgraph=True) if compiled else crf
    u, guide = inputs(problem, 1)

    def run():
        with torch.set_grad_enabled(train):
            refined = layer(u, guide)
            return refined.square().mean().backward() if train else refined

    if compiled:
        run()
    return run


@pytest.mark.parametrize("train", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("name", PARAMS)
def test_engines(name, train):
    """Measure engine "torch", eager and compiled, beside the engines for arrays."""
    contenders = {
        "cpu": {"backend": "cpu"}, "numba": {"backend": "numba"}, "torch": {"backend": "torch"},
        "torch, compiled": {"backend": "torch", "compiled": True},
    }  # fmt: skip
    cases = [Case(who, partial(engine, train=train, **how)) for who, how in contenders.items()]
    what = "training" if train else "forward"
    before = torch.get_num_threads()
    try:
        case = f"engines, {what} 500x500 {name} L=21 T=5"
        compare(case, Problem(params=PARAMS[name]), cases, peer="cpu", runs=3)
    finally:
        torch.set_num_threads(before)


def one_pixel(problem, threads, gradients=True):
    """Prepare a call on one pixel: checks, Python and torch's dispatch, without computation."""
    torch.set_num_threads(threads)
    crf = CRFRNN(problem.labels, params=problem.params, iterations=ITERATIONS).train()
    u, guide = (x[..., :1, :1].detach().contiguous() for x in inputs(problem, 1))
    u.requires_grad_()

    def run():
        with torch.set_grad_enabled(gradients):
            return crf(u, guide)

    run()
    return run


@pytest.mark.parametrize("name", PARAMS)
def test_overhead(name):
    """Measure a call on one pixel as a share of one on a small image."""
    problem = Problem(size=(128, 128), labels=2, params=PARAMS[name])
    cases = [
        Case("forward", forward),
        Case("one pixel", one_pixel),
        Case("one pixel, no gradients", partial(one_pixel, gradients=False)),
    ]
    before = torch.get_num_threads()
    try:
        outcomes = compare(
            f"call 128x128 {name} L=2 T=5", problem, cases, peer="forward", runs=50
        )
    finally:
        torch.set_num_threads(before)
    for case in cases[1:]:
        row = outcomes[case.who, 1].row
        row.note = f"{100 / row.ratio:.1f} % of forward: Python and dispatch"
