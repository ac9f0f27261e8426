"""Measure the CUDA engine on a GPU: forward passes of one image and of a batch, and training.

    pytest benchmarks/bench_cuda.py --results benchmarks/results/cuda.json
"""

import importlib.util
import statistics

import pytest
from bench_layer import batched, inputs
from measure import ROWS, Row
from problems import TIGHT, WIDE, Problem

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFRNN, engines  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402

pytestmark = pytest.mark.skipif(
    engines.why_unavailable("cuda") is not None,
    reason=f"no CUDA engine: {engines.why_unavailable('cuda')}",
)

PARAMS = {"wide": WIDE, "tight": TIGHT}
RUNS, WARM_UP = 30, 5
# Without scikit-image a synthetic image serves: times are real, but not those of a photograph.
IMAGE = "astronaut" if importlib.util.find_spec("skimage") else "volume"


def milliseconds(work):
    """Return the milliseconds of each run, from CUDA events, and the peak memory in MB.

    Memory is counted above what was allocated before, the inputs included in that.
    """
    times = []
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for run in range(RUNS + WARM_UP):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        if run >= WARM_UP:
            times.append(begin.elapsed_time(end))
    return times, (torch.cuda.max_memory_allocated() - before) / 1e6


def row(case, who, problem, work, note=""):
    """Measure `work`, add a row to the table and return the median in milliseconds."""
    times, memory = milliseconds(work)
    device = torch.cuda.get_device_name() + ("" if IMAGE == "astronaut" else ", synthetic image")
    ROWS.append(Row(case, who, None, problem.vertices, times, memory, note=f"{device} {note}"))
    return statistics.median(times)


def on_gpu(problem, batch):
    logits, image = inputs(problem, batch)
    return logits.detach().cuda(), image.cuda()


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", PARAMS)
def test_forward_with_and_without_the_build(name, batch):
    problem = Problem(IMAGE, params=PARAMS[name])
    logits, image = on_gpu(problem, batch)
    crf = CRFRNN(21, params=problem.params).cuda().eval()
    medians = []
    with torch.no_grad():
        for iterations in (5, 10):
            crf.eval_iterations = iterations
            case = f"CUDA {batch} x 500x500 {name} L=21 T={iterations}"
            medians.append(row(case, "build and mean field", problem, lambda: crf(logits, image)))
    each = (medians[1] - medians[0]) / 5
    bound = traffic(problem, batch) / bandwidth() * 1e3
    ROWS[-1].note += f"; {each:.3f} ms an iteration, memory bound {bound:.3f} ms"
    # The argmax must be that of the CPU engine.
    crf.eval_iterations = 5
    want = crf.cpu()(logits[:1].cpu(), image[:1].cpu()).argmax(1)
    with torch.no_grad():
        found = crf.cuda()(logits[:1], image[:1]).argmax(1).cpu()
    assert (found == want).double().mean() > 0.9999


def traffic(problem, batch):
    """Return the bytes that an iteration must move through memory: see docs/performance.md."""
    logits, row, corners = 4 * 21, 4 * 24, 3 + problem.image.shape[-1]
    return batch * 500 * 500 * (logits + 2 * row + 2 * 8 * corners)


def bandwidth():
    """Return the bytes per second that a copy on this GPU reads and writes."""
    source = torch.empty(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    times, _ = milliseconds(lambda: target.copy_(source))
    return 2 * 4 * 2**28 / (statistics.median(times) / 1e3)


@pytest.mark.parametrize("storage", ["full", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PARAMS)
def test_values_in_16_bits(name, storage):
    problem = Problem(IMAGE, params=PARAMS[name])
    logits, image = on_gpu(problem, 16)
    work = lambda: functional.mean_field(  # noqa: E731
        logits, image, problem.params, storage=storage
    )
    row(f"CUDA 16 x 500x500 {name} L=21 T=5, {storage}", "build and mean field", problem, work)


@pytest.mark.parametrize("name", PARAMS)
def test_training(name):
    problem = Problem(IMAGE, params=PARAMS[name])
    logits, image = on_gpu(problem, 4)
    logits.requires_grad_()
    crf = CRFRNN(21, params=problem.params).cuda().train()
    case = f"CUDA training 4 x 500x500 {name} L=21 T=5"
    forward = row(case, "forward", problem, lambda: crf(logits, image))
    both = row(case, "forward and backward", problem, lambda: crf(logits, image).sum().backward())
    ROWS[-1].note += f"; {both / forward:.2f} times the forward pass"


def test_volumes_and_many_labels():
    problem = Problem("volume", (64, 128, 128), 4, WIDE)
    logits = torch.from_numpy(problem.logits)[None].cuda()
    image = torch.from_numpy(problem.image).movedim(-1, 0)[None].float().cuda()
    work = lambda: functional.mean_field(logits, image, problem.params)  # noqa: E731
    row("CUDA 64x128x128 volume L=4 T=5", "build and mean field", problem, work)
    problem = Problem(IMAGE)
    logits = batched(torch.from_numpy(problem.logits), 1).repeat(1, 8, 1, 1)[:, :150].cuda()
    _, image = on_gpu(problem, 1)
    work = lambda: functional.mean_field(logits, image, problem.params)  # noqa: E731
    row("CUDA 500x500 wide L=150 T=5", "build and mean field", problem, work)
