"""Properties of the parts that are used alone: filter, loss, points, calls without an image.

Each is a property as in properties.py.
"""

import numpy as np

from densecrf_rnn import CRFParams
from densecrf_rnn.params import NORMALIZATIONS

from . import oracle
from .cases import log_uniform, one_of, random_case, random_features
from .compare import near


def filters_of_tensors_equal_the_dictionary_lattice(rng, api):
    """gaussian_filter on every engine, and exactly, with its gradients for random cotangents."""
    if api.torch is None:
        return
    torch, features = api.torch, random_features(rng, most=16)
    normalization = one_of(rng, NORMALIZATIONS)
    quality = one_of(rng, ("standard", "symmetric") + ("filled",) * (features.shape[1] < 4))
    values, cotangent = rng.normal(size=(2, len(features), int(rng.integers(1, 4))))
    given = [torch.from_numpy(values[None]).requires_grad_() for values in (
        values.astype(features.dtype), features
    )]  # fmt: skip
    draw = torch.from_numpy(cotangent[None].astype(features.dtype))

    def filtered(**chosen):
        out = api(
            api.functional.gaussian_filter, *given, normalization=normalization, **chosen
        )
        return [out.detach(), *torch.autograd.grad(out, given, draw)]

    near_in = {np.float32: 1e-4, np.float64: 1e-9}[features.dtype.type]
    slow = {"numba"} if rng.random() < 0.9 else set()
    found = {
        name: filtered(quality=quality, backend=name)
        for name in api.tensor_engines if name not in slow
    }  # fmt: skip
    for parts in found.values():
        assert all(bool(part.isfinite().all()) for part in parts)
    want = oracle.lattice(features, quality)
    first = found.pop(api.tensor_engines[0])
    if want.safe:
        size = max(1.0, float(np.abs(features).max())) if features.dtype == np.float32 else 1.0
        matrix = oracle.normalized(want.matrix, normalization, True)
        near(first[0][0].numpy(), matrix @ values, near_in * size)
        near(first[1][0].numpy(), matrix.T @ cotangent, near_in * size)
        for others in found.values():
            for one, other in zip(first, others, strict=True):
                near(other[0].numpy(), one[0].numpy(), 10 * near_in * size)
    if features.dtype == np.float64 and np.abs(features).max() < 100:
        kernel = oracle.normalized(oracle.gaussian(features), normalization, True)
        out, of_values, _ = filtered(method="exact")
        near(out[0].numpy(), kernel @ values, 1e-9)
        near(of_values[0].numpy(), kernel.T @ cotangent, 1e-9)


def gradients_for_features_equal_finite_differences(rng, api):
    """Of gaussian_filter, along a random direction that crosses no simplex."""
    if api.torch is None:
        return
    torch, features = api.torch, random_features(rng, most=16).astype(np.float64)
    if not oracle.lattice(features, precision=1e-7).safe:
        return
    values, cotangent = (torch.from_numpy(rng.normal(size=(1, len(features), 2))) for _ in "ab")
    step = rng.normal(size=features.shape)
    step = torch.from_numpy(step / np.linalg.norm(step))[None]
    backend = one_of(rng, [name for name in api.tensor_engines if name != "numba"])
    normalization = one_of(rng, NORMALIZATIONS)

    def total(features):
        out = api(
            api.functional.gaussian_filter, values, features, backend=backend,
            normalization=normalization,
        )  # fmt: skip
        return (out * cotangent).sum()

    at = torch.from_numpy(features)[None].requires_grad_()
    slope = (torch.autograd.grad(total(at), at)[0] * step).sum().item()
    with torch.no_grad():
        difference = (total(at + 1e-7 * step) - total(at - 1e-7 * step)).item() / 2e-7
    near(np.array([difference]), np.array([slope]), 2e-5)


def losses_equal_their_dense_definition(rng, api):
    """DenseCRFLoss: value and gradient, exactly and on the lattice of every engine."""
    if api.torch is None:
        return
    torch, case = api.torch, random_case(rng)
    s = oracle.softmax(rng.normal(size=(int(rng.integers(2, 5)), *case.size)) * 2)
    image = case.image.astype(np.float64)
    if case.mask is not None and not case.mask.any():
        return
    xy, rgb = log_uniform(rng, 0.5, 50), log_uniform(rng, 0.3, 10) * max(1e-3, image.std())
    gated, normalization = bool(rng.random() < 0.5), one_of(rng, NORMALIZATIONS)
    labels = rng.integers(0, 2, case.size) * 255
    method = one_of(rng, ("lattice", "exact"))
    backends = ["auto"] if method == "exact" else [n for n in api.tensor_engines if n != "numba"]
    inside = np.ones(case.size, bool) if case.mask is None else case.mask
    features = oracle.pixel_features(image, xy, rgb, "xy", (1.0,) * len(case.size))
    features = features[inside.ravel()]
    if method == "lattice":
        built = oracle.lattice(features)
        if not built.safe:
            return
        kernel = built.matrix
    else:
        kernel = oracle.gaussian(features)
    kernel = oracle.normalized(kernel, normalization, True)
    q = s.reshape(len(s), -1)[:, inside.ravel()]
    gate = np.where(labels == 255, 1.0, 1 - s.max(0))[inside] if gated else np.ones(q.shape[1])
    value = -(gate * q * (q @ kernel.T)).sum()
    slope = np.zeros_like(s)
    slope[:, inside] = -(gate * (q @ kernel.T) + (gate * q) @ kernel)
    mask = None if case.mask is None else torch.from_numpy(case.mask[None])
    given_labels = torch.from_numpy(labels[None]) if gated else None
    for backend in backends:
        loss = api.losses.DenseCRFLoss(
            1.0, rgb, xy, 1, gate=gated, normalization=normalization, method=method,
            backend=backend,
        )  # fmt: skip
        at = torch.from_numpy(s[None]).requires_grad_()
        planes = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
        found = api(loss, at, planes, mask, given_labels)
        near(found.detach().numpy(), np.array(value), 1e-9)
        near(torch.autograd.grad(found, at)[0][0].numpy(), slope, 1e-9)


def points_equal_the_oracle_and_images_of_one_row(rng, api):
    """refine and mean_field with features=, and in the layer, without and with a mask."""
    features = random_features(rng, most=16)
    points, labels = len(features), int(rng.integers(1, 5))
    logits = (2 * rng.normal(size=(labels, points))).astype(features.dtype)
    params = CRFParams(
        w_bilateral=float(rng.uniform(0, 3)), self_term=bool(rng.random() < 0.7),
        normalization=one_of(rng, ("after", "before", "symmetric")),
        quality=one_of(rng, ("standard", "symmetric")),
    )  # fmt: skip
    mask = rng.random(points) < 0.7 if rng.random() < 0.4 else None
    keywords = {
        "iterations": int(rng.integers(0, 4)), "mask": mask, "backend": one_of(rng, api.engines),
        "multilabel": bool(rng.random() < 0.3),
    }  # fmt: skip
    refined = api.mean_field(logits, params=params, features=features, **keywords)
    q = api.refine(logits, params=params, features=features, **keywords)
    assert np.isfinite(refined).all() and refined.shape == q.shape == logits.shape
    inside = np.ones(points, bool) if mask is None else mask
    tolerance = 2e-3 if features.dtype == np.float32 else 1e-6
    binary = labels == 1 or keywords["multilabel"]
    if binary:
        near(1 / (1 + np.exp(-refined.astype(np.float64))), q, 1e-5)
    else:
        near(oracle.softmax(refined.astype(np.float64)), q, 1e-5)
    if inside.any() and features.dtype == np.float64:
        built = oracle.lattice(features[inside], params.quality)
        if built.safe:
            kernel = oracle.normalized(built.matrix, params.normalization, params.self_term)
            maps = [np.stack([0 * one, one]) for one in logits] if binary else [logits]
            size = len(maps[0])
            coupling = params.w_bilateral * (1 - np.eye(size))
            for number, rows in enumerate(maps):
                want = rows.copy()
                want[:, inside] = oracle.mean_field(
                    rows[:, inside], [kernel], [coupling], keywords["iterations"]
                )
                got = refined[number] if binary else refined
                near(got, want[1] - want[0] if binary else want, 1e-6)
    if api.torch is None:
        return
    torch = api.torch
    keywords["mask"] = None if mask is None else torch.from_numpy(mask[None])
    keywords["backend"] = one_of(rng, [n for n in api.tensor_engines if n != "numba"])
    tensors = torch.from_numpy(logits[None]), torch.from_numpy(features[None])
    got = api(
        api.functional.mean_field, tensors[0], params=params, features=tensors[1], **keywords
    )
    near(got[0].numpy(), refined, tolerance)


def calls_without_an_image_smooth_by_position_alone(rng, api):
    case = random_case(rng, api.threads, api.large).with_params(w_bilateral=0.0)
    q = api.refine(case.logits, case.image, case.params, **case.keywords())
    near(api.refine(case.logits, None, case.params, **case.keywords()), q, case.tolerance())
