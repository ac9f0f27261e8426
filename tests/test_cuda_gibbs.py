"""GibbsCRF where tensors are: on a GPU, and its program on a CPU, the bits of the CPU engine."""

import copy

import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import GibbsCRF, engines  # noqa: E402
from densecrf_rnn.nn import ChainStore  # noqa: E402
from densecrf_rnn.gibbs.neighbourhood import dense_neighbourhood, sparse_neighbourhood  # noqa: E402

DEVICES = {"serial": "cpu", "cuda": "cuda"}
CASES = [
    (2, 13, 11, dense_neighbourhood(1)),
    (5, 1, 9, [(0, 4)]),
    (20, 30, 41, sparse_neighbourhood(8)),
    (33, 6, 7, [(5, -6), (0, 1)]),
    (300, 4, 5, dense_neighbourhood(2)),
]


@pytest.fixture(params=DEVICES)
def other(request):
    """The name of an engine of whole batches; skipped where it cannot run."""
    reason = engines.why_unavailable(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


def everything(crf, logits, target, device):
    """What two steps of learning and a decision give, on the CPU again."""
    store = ChainStore(2**40 + 1)
    logits = logits.detach().to(device).requires_grad_()
    target, mask = target.to(device), (target != 1).to(device)
    crf.zero_grad()
    for index in ([4, 2**40], [2**40, 4]):
        chains = store.chains(index, logits)
        crf.loss(logits, target, chains, mask=mask, ignore_index=-1, sweeps=3).backward()
        store.keep(chains)
    with torch.no_grad():
        found = [
            logits.grad,
            crf.tables.grad,
            chains.labels,
            crf.marginals(logits, 5, 3),
            crf.decode(logits, method="annealed", sweeps=9),
            crf.statistics_gap(target, chains, ignore_index=-1),
        ]
    return [t.cpu() for t in found], chains.sweeps, chains.acceptance


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]} labels, {c[1]} x {c[2]}")
def test_learning_and_deciding_have_the_bits_of_the_cpu_engine(other, case):
    if engines.why_unavailable("cpu") is not None:
        pytest.skip(engines.why_unavailable("cpu"))
    labels, height, width, offsets = case
    generator = torch.Generator().manual_seed(labels)
    logits = 3 * torch.randn(2, labels, height, width, generator=generator)
    target = torch.randint(0, labels, (2, height, width), generator=generator)
    crf = GibbsCRF(labels, offsets, backend="cpu")
    crf.tables.data = torch.randn(crf.tables.shape, generator=generator)
    twin = copy.deepcopy(crf).to(DEVICES[other])
    twin.backend = other
    on_cpu = everything(crf, logits, target, "cpu")
    elsewhere = everything(twin, logits, target, DEVICES[other])
    for found, wanted in zip(elsewhere[0], on_cpu[0], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert elsewhere[1:] == on_cpu[1:]


def test_chains_and_logits_on_different_devices_are_refused():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    logits = torch.zeros(1, 2, 4, 5)
    chains = ChainStore().chains([0], logits)
    with pytest.raises(ValueError, match="chains are 1 on cpu but logits hold 1 images on cuda"):
        GibbsCRF(2).cuda().loss(logits.cuda(), torch.zeros(1, 4, 5).long().cuda(), chains)
