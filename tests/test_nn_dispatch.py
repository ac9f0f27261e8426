"""Operators are called past torch's dispatcher only where torch has nothing to record."""

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from densecrf_rnn import CRFRNN  # noqa: E402
from densecrf_rnn.kernels import Spatial  # noqa: E402
from densecrf_rnn.nn import functional  # noqa: E402
from densecrf_rnn.nn.ops import dispatch  # noqa: E402


class Recorder(TorchDispatchMode):
    """Names of ours among the operators that pass by."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "densecrf_rnn":
            self.names.add(func._opname)
        return func(*args, **(kwargs or {}))


def doubled():
    """An operator of this file's own; its name can be taken once."""
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    made = dispatch.Operator("densecrf_rnn_tests::double", double)
    made.register_autograd(lambda ctx, grad: 2 * grad)
    return made


def test_a_call_gives_the_same_bits_either_way():
    logits, image = make.problem(0, 9, 8, batch=2)
    plain = functional.mean_field(logits, image, make.small_params())
    recorded = functional.mean_field(logits.clone().requires_grad_(), image, make.small_params())
    assert torch.equal(plain, recorded)


def test_what_a_mode_has_to_see_it_sees():
    logits, image = make.problem(0, 5, 6)
    with Recorder() as seen:
        functional.mean_field(logits, image, make.small_params())
    assert {"lattice_build", "lattice_filter", "mean_field"} <= seen.names


def test_what_is_differentiated_is_recorded():
    twice = doubled()
    x = torch.ones(3, requires_grad=True)
    assert twice(x).grad_fn is not None
    assert twice(x.detach()).grad_fn is None
    with torch.no_grad():
        assert twice(x).grad_fn is None
    assert dispatch.way([x]) == dispatch.way(1, "a", x) == dispatch.DIFFERENTIATED
    assert dispatch.way([x.detach()], 1, "a", None) == dispatch.PLAIN


def test_subclasses_of_tensors_pass_the_dispatcher():
    class Own(torch.Tensor):
        pass

    assert dispatch.way(torch.ones(2).as_subclass(Own)) == dispatch.DISPATCHED
    assert dispatch.way(torch.nn.Parameter(torch.ones(2), requires_grad=False)) == dispatch.PLAIN


def test_positions_kept_in_inference_mode_serve_training():
    size = (6, 11)  # of no other test in this file
    logits, image = make.problem(1, *size)
    with torch.inference_mode():
        functional.mean_field(logits, image, make.small_params())
    theta = torch.tensor([[4.0, 60.0], [1.5, 1.0]], dtype=torch.float64, requires_grad=True)
    functional.mean_field(logits, image, make.small_params(), bandwidths=theta).sum().backward()
    assert theta.grad.abs().sum() > 0


def test_a_mean_field_without_a_lattice_has_gradients():
    logits, _ = make.problem(0, 4, 5)
    weight = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)

    def refined(logits, weight):
        return functional.mean_field(
            logits, None, kernels=[Spatial(2.0)], kernel_weights=weight, iterations=2
        )

    assert torch.autograd.gradcheck(refined, (logits.requires_grad_(), weight))
    layer = CRFRNN(3, kernels=[Spatial(2.0)])
    layer(logits.detach().float()).sum().backward()  # the layer alone is trained
    assert layer.kernel_weights.grad is not None
