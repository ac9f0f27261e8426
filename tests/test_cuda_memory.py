"""The memory of a GPU runs out: alone in its process, and after all other tests (conftest.py)."""

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402

from densecrf_rnn import engines  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402

pytestmark = pytest.mark.skipif(
    engines.why_unavailable("cuda") is not None,
    reason=f"no CUDA engine: {engines.why_unavailable('cuda')}",
)


def test_running_out_of_memory_is_an_exception_and_the_next_call_works():
    logits = torch.zeros(1, 2, 60_000, 1_000, device="cuda")
    taken = torch.cuda.mem_get_info()[0] - 3 * 2**30
    ballast = torch.empty(max(taken, 1), dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        functional.mean_field(logits, torch.zeros(1, 3, 60_000, 1_000, device="cuda"))
    del ballast, logits
    torch.cuda.empty_cache()
    logits, image = (t.cuda() for t in make.problem(8, 5, 6))
    assert torch.isfinite(functional.mean_field(logits, image, make.small_params())).all()
