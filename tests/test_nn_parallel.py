"""A model with a head on several processes or devices: FSDP, DataParallel, and their states."""

import threading

import pytest

torch = pytest.importorskip("torch")

from processes import results_of_two  # noqa: E402
from test_nn_integration import assert_close, images, segmenter  # noqa: E402

FSDP = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from test_nn_integration import images, segmenter

model = segmenter().double()
mesh = init_device_mesh("cpu", (2,))
fully_shard(model.backbone, mesh=mesh)
if WHOLE:
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), 0.5)
half = images(6, 7, batch=4).double()[2 * rank : 2 * rank + 2]
for _ in range(2):
    optimizer.zero_grad()
    loss = model(half).square().mean()
    loss.backward()
    if not WHOLE:  # the head is replicated, so its gradients are averaged by hand
        for parameter in model.crf.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    optimizer.step()
state = model.state_dict()
full = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in state.items()}
sharded = sum(hasattr(v, "full_tensor") for v in state.values())
torch.save({"state": full, "sharded": sharded}, result)
"""


def trained():
    """The states of one process after the two steps of the code above."""
    model = segmenter().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(images(6, 7, batch=4).double()).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "whole model"])
def test_two_sharded_processes_train_as_one(whole, tmp_path):
    results = results_of_two(FSDP.replace("WHOLE", str(whole)), tmp_path)
    model = trained()
    start = segmenter().double().state_dict()
    for found in results:
        assert found["sharded"] == (6 if whole else 4)  # weights and biases of two layers; the head
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found["state"][name], parameter.data, rtol=1e-6, atol=1e-9)
            assert not torch.equal(found["state"][name], start[name])
        model.load_state_dict(found["state"])  # a state that shards were joined to is a state


def replicas(model, count):
    """What DataParallel runs: modules whose parameters are copies with a gradient, not leaves."""
    found = []
    for _ in range(count):
        modules = {id(m): m._replicate_for_data_parallel() for m in model.modules()}
        for module in model.modules():
            copy = modules[id(module)]
            for name, child in module._modules.items():
                copy._modules[name] = None if child is None else modules[id(child)]
            for name, parameter in module._parameters.items():
                copy._parameters[name] = None
                if parameter is not None:
                    del copy._parameters[name]
                    setattr(copy, name, parameter * 1)
            for name, buffer in module._buffers.items():
                copy._buffers[name] = None if buffer is None else buffer.clone()
        found.append(modules[id(model)])
    return found


@pytest.mark.parametrize("returns", ["logits", "same"])
@pytest.mark.parametrize("options", [{}, {"trainable_bandwidths": True}], ids=["", "bandwidths"])
def test_replicas_of_data_parallel_in_threads_compute_what_one_model_does(returns, options):
    """As on several GPUs, which are not here: a thread for each replica and part of the batch."""
    model, image = segmenter(returns=returns, **options).double(), images(6, 7, batch=4).double()
    wanted = model(image)
    cotangent = torch.linspace(-1, 1, wanted.numel()).double().reshape(wanted.shape)
    gradients = torch.autograd.grad(wanted, list(model.parameters()), cotangent)
    copies = replicas(model, 2)
    assert not list(copies[0].crf.parameters())  # as DataParallel leaves them
    parts = [None, None]

    def run(k):
        parts[k] = copies[k](image[2 * k : 2 * k + 2])

    threads = [threading.Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = torch.cat(parts)
    assert_close([found], [wanted], 1e-12)
    others = torch.autograd.grad(found, list(model.parameters()), cotangent)
    assert_close(others, gradients, 1e-9)


def test_data_parallel_without_devices_is_the_model():
    model, image = segmenter(), images(6, 7)
    assert torch.equal(torch.nn.DataParallel(model)(image), model(image))
