"""Compare the CUDA engine with engine "torch" on a device, before "auto" selects it there.

The CUDA engine was written and tested without a GPU, so a small mean field decides, once a process
and device.
"""

import warnings

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .. import engines
from .ops import dispatch
from .ops.kernels import Grid, Kernel, Kernels, Lattice
from .ops.lattice_build import lattice_build
from .ops.mean_field import mean_field

_tested: set[str] = set()


def once(device: torch.device) -> None:
    """Test the CUDA engine on `device`, unless this has been done; "auto" follows the result."""
    name = str(device)
    if name in _tested or device.type != "cuda" or engines.why_unavailable("cuda") is not None:
        return
    if torch.cuda.is_current_stream_capturing():
        return  # the test waits for the device
    _tested.add(name)
    reason = disagreement("cuda", device)
    if reason is None:
        engines.agree(name)
        dispatch.forget()
        return
    warnings.warn(
        f"the CUDA engine is not used on {name}, because {reason}; engine 'torch' serves tensors "
        "there (backend='cuda' selects the CUDA engine in spite of this)",
        stacklevel=2,
    )


def disagreement(backend: str, device: torch.device) -> str | None:
    """Return why a backend's results are not those of engine "torch", or None if they are."""
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        try:
            found, wanted = (_results(name, device) for name in (backend, "torch"))
        except (RuntimeError, TypeError, ValueError) as error:
            return f"its self-test failed there ({error})"
    for name, one, other in zip(_NAMES, found, wanted, strict=True):
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
            return f"in its self-test {name} differ from those of engine 'torch'"
    return None


_NAMES = (
    "refined logits", "gradients of logits", "gradients of weights", "gradients of features",
)  # fmt: skip


def _results(backend: str, device: torch.device) -> list[Tensor]:
    """Return a mean field on two images with a lattice and a grid, and its gradients."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    logits, coupling, features = random(2, 3, 63), random(2, 3, 3), random(2, 63, 5)
    none = logits.detach().new_empty(0)
    lattice = Lattice(*lattice_build(features, "standard", backend))
    kernels = Kernels([Kernel(lattice, none, none, none)], Grid([7, 9], [2.0, 3.0], "after", True))
    options = (3, True, 2**30, "full", backend)
    refined = mean_field(logits, coupling, kernels.flatten(), *kernels.grid, *options)[0]
    leaves = [logits, coupling, features]
    return [refined, *torch.autograd.grad(refined.sin().sum(), leaves)]
