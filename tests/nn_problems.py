"""Small problems for the torch tests: tensors, dense matrices and the plain formula in torch."""

import numpy as np
import pytest

from oracles import operator_matrices

from densecrf_rnn import CRFParams, kernels
from densecrf_rnn.params import NORMALIZATIONS  # noqa: F401

torch = pytest.importorskip("torch")

FORMS = ("scalar", "diagonal", "full")
# Every spatial filter, and every quality of the lattice.
FILTERS = (("grid", "standard"), ("lattice", "standard"), ("grid", "symmetric"),
           ("lattice", "filled"))

# Bandwidths at which a picture of a few pixels has near and far neighbours in both kernels. The
# weights are no short binary fractions, so a detour through float32 would show.
SMALL = {"theta_alpha": 4.0, "theta_beta": 60.0, "theta_gamma": 1.5, "w_bilateral": 1.3,
         "w_spatial": 0.7}


def problem(seed, *size, batch=1, labels=3, channels=3, dtype=torch.float64):
    """Random logits [B, L, *S] and an image [B, C, *S] in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, labels, *size, generator=generator, dtype=torch.float64)
    image = torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64) * 255
    return logits.to(dtype), image.to(dtype)


def weights(form, labels, seed=0, dtype=torch.float64):
    """Kernel weights of a form, all different and none of them special."""
    shape = {"scalar": (2,), "diagonal": (2, labels), "full": (2, labels, labels)}[form]
    generator = torch.Generator().manual_seed(seed)
    return (0.3 + torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)


def asymmetric(labels, seed=0, dtype=torch.float64):
    """A compatibility that is far from its transpose."""
    generator = torch.Generator().manual_seed(100 + seed)
    noise = torch.randn(labels, labels, generator=generator, dtype=torch.float64)
    return (1 - torch.eye(labels, dtype=torch.float64) + noise).to(dtype)


def numpy_image(image):
    """One image [C, *S] as NumPy holds it, [*S, C]."""
    return image.movedim(0, -1).numpy()


def rows(tensor):
    """[L, *S] -> [N, L]"""
    return tensor.detach().flatten(1).T.numpy()


def feature_rows(image, params):
    """The features of both kernels for one image [C, *S]; list of [N, D]."""
    size = image.shape[1:]
    positions = kernels.positions(size, params.feature_order, (1.0,) * len(size), np.float64)
    return [k.features(positions, numpy_image(image)) for k in kernels.from_params(params)]


def kernel_matrices(image, params, backend):
    """N K of both kernels as matrices [N, N], where K is what a filter does to the identity."""
    if backend not in ("cpu", "numba"):
        backend = "auto"  # of arrays
    return operator_matrices(numpy_image(image), params, backend)


def plain_mean_field(logits, matrices, kernel_weights, compatibility, iterations):
    """The mean field on rows [N, L] with dense kernels [N, N], for autograd to differentiate."""
    eye = torch.eye(logits.shape[1], dtype=logits.dtype)
    refined = logits
    for _ in range(iterations):
        q = refined.softmax(1)
        weighted = 0
        for matrix, weight in zip(matrices, kernel_weights, strict=True):
            weight = weight if weight.dim() == 2 else weight * eye
            weighted = weighted + (torch.as_tensor(matrix) @ q) @ weight.T
        refined = logits - weighted @ compatibility.T
    return refined


def small_params(**changes):
    """`SMALL` with some fields changed."""
    return CRFParams(**{**SMALL, **changes})


def assert_compiles_into_one_graph(crf, logits, image, **options):
    """Check that a compiled layer gives the values and all gradients of the layer itself."""

    def gradients(layer):
        given = [logits.clone().requires_grad_(), image.clone().requires_grad_()]
        out = layer(*given, **options)
        return out, *torch.autograd.grad(out.sin().sum(), [*given, *crf.parameters()])

    torch._dynamo.reset()
    compiled = torch.compile(crf, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(gradients(compiled), gradients(crf), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
