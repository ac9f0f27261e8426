"""What must hold for every call. Each function draws a problem, makes calls and checks them.

`api` makes the calls and counts them; a property that does not apply to a problem returns.
"""

import pickle
from dataclasses import replace

import numpy as np

from densecrf_rnn import CRFParams, tiles

from . import oracle, parts
from .cases import log_uniform, one_of, random_case, random_features
from .compare import met_a_jump, near, recorded_relu, same_bits


# --- the lattice ---------------------------------------------------------------------------------


def filter_equals_the_dictionary_lattice(rng, api):
    features = random_features(rng)
    points, dims = features.shape
    quality = one_of(rng, ("standard", "symmetric") + ("filled",) * (dims < 4))
    threads = int(rng.integers(1, api.threads + 1))
    lattice = api.PermutohedralLattice(features, quality=quality, threads=threads)
    values = rng.normal(size=(points, int(rng.integers(1, 4)))).astype(features.dtype)
    got, adjoint = api(lattice.filter, values), api(lattice.filter, values, transpose=True)
    diagonal = api(lattice.self_response)
    assert np.isfinite(got).all() and np.isfinite(adjoint).all()
    again = api(pickle.loads(pickle.dumps(lattice)).filter, values)
    same_bits(again, got)
    want = oracle.lattice(features, quality)
    if not want.safe:
        return
    assert lattice.num_vertices == want.vertices
    size = max(1.0, float(np.abs(features).max())) if features.dtype == np.float32 else 1.0
    tolerance = (1e-5 if features.dtype == np.float32 else 1e-11) * size
    near(got, want.matrix @ values, tolerance)
    near(adjoint, want.matrix.T @ values, tolerance)
    near(diagonal, np.diag(want.matrix), tolerance)


def filter_is_linear_and_its_transpose_adjoint(rng, api):
    features = random_features(rng)
    lattice = api.PermutohedralLattice(features)
    x, y = rng.normal(size=(2, len(features), 2)).astype(features.dtype)
    tolerance = 1e-5 if features.dtype == np.float32 else 1e-12
    kx, ky = api(lattice.filter, x), api(lattice.filter, y, transpose=True)
    near(np.vdot(y, kx), np.vdot(ky, x), tolerance * len(features))
    near(api(lattice.filter, 2 * x + y), 2 * kx + api(lattice.filter, y), tolerance)


# --- the mean field ------------------------------------------------------------------------------


def mean_field_equals_the_oracle(rng, api):
    case = random_case(rng).with_params(spatial="lattice")
    finite = np.isfinite(case.logits).all()
    q = api.refine(case.logits, case.image, case.params, **case.keywords())
    assert np.isfinite(q).all()
    if not finite or case.logits.dtype == np.float32:  # rounding may choose another simplex
        return
    spacing = (1.0,) * len(case.size) if case.spacing is None else case.spacing
    inside = np.ones(case.size, bool) if case.mask is None else case.mask
    params, flat = case.params, case.logits.reshape(len(case.logits), -1)
    if case.multilabel:  # one binary problem for each map
        problems = [np.stack([np.zeros_like(row), row]) for row in flat]
    else:
        problems = [np.concatenate([np.zeros_like(flat), flat]) if len(flat) == 1 else flat]
    wants = [oracle.softmax(rows) for rows in problems]
    if inside.any():
        kernels = []
        for theta, guide in ((params.theta_alpha, params.theta_beta), (params.theta_gamma, None)):
            features = oracle.pixel_features(
                case.image, theta, guide, params.feature_order, spacing
            )[inside.ravel()]
            built = oracle.lattice(features, params.quality)
            if not built.safe:
                return
            kernels.append(oracle.normalized(built.matrix, params.normalization, params.self_term))
        labels = 2 if case.multilabel else case.labels
        mu = 1 - np.eye(labels) if case.compatibility is None else case.compatibility
        for number, (rows, want) in enumerate(zip(problems, wants, strict=True)):
            weights = [
                np.broadcast_to(w, len(flat))[number] if case.multilabel else w
                for w in (params.w_bilateral, params.w_spatial)
            ]
            refined = oracle.mean_field(
                rows[:, inside.ravel()], kernels,
                [mu * np.broadcast_to(w, labels) for w in weights], case.iterations,
            )  # fmt: skip
            want[:, inside.ravel()] = oracle.softmax(refined)
    single = case.multilabel or len(flat) == 1
    want = np.stack([want[-1] for want in wants]) if single else wants[0]
    near(q.reshape(want.shape), want, 1e-5)  # marginals are float32


def labels_may_be_permuted(rng, api):
    case = random_case(rng, api.threads, api.large)
    if len(case.logits) == 1:  # which has no second label to exchange
        return
    order = rng.permutation(len(case.logits))
    weights = {
        name: tuple(np.array(w)[order]) if isinstance(w, tuple) else w
        for name, w in (("w_bilateral", case.params.w_bilateral),
                        ("w_spatial", case.params.w_spatial))
    }  # fmt: skip
    mu = case.compatibility
    mu = None if mu is None else mu[np.ix_(order, order)]
    q = api.refine(case.logits, case.image, case.params, **case.keywords())
    permuted = api.refine(
        case.logits[order], case.image, replace(case.params, **weights),
        **case.keywords(compatibility=mu),
    )  # fmt: skip
    near(permuted, q[order], case.tolerance())


def constants_may_be_added_to_the_logits_of_a_pixel(rng, api):
    case = random_case(rng, api.threads, api.large)
    if len(case.logits) == 1 or case.multilabel:
        return
    constant = rng.normal(size=case.size) * 5
    q = api.refine(case.logits, case.image, case.params, **case.keywords())
    moved = (case.logits + constant).astype(case.logits.dtype)
    near(
        api.refine(moved, case.image, case.params, **case.keywords()), q, case.tolerance(5e-3, 1e-7)
    )


def image_and_bandwidth_may_be_scaled_together(rng, api):
    case = random_case(rng, api.threads, api.large)
    image = case.image.astype(np.float64)
    power = 2.0 ** int(rng.integers(-6, 7))  # exact in floating point
    q = api.refine(case.logits, image, case.params, **case.keywords())
    scaled = case.scaled_params("theta_beta", power)
    same_bits(api.refine(case.logits, image * power, scaled, **case.keywords()), q)
    spacing = (1.0,) * len(case.size) if case.spacing is None else case.spacing
    wider = replace(case, params=case.scaled_params("theta_alpha", power))
    wider = wider.scaled_params("theta_gamma", power)
    spacing = tuple(power * s for s in spacing)
    same_bits(api.refine(case.logits, image, wider, **case.keywords(spacing=spacing)), q)


def turned_over(theta):
    return theta[::-1] if isinstance(theta, tuple) else theta


def images_may_be_transposed_with_their_feature_order(rng, api):
    case = random_case(rng)
    if case.logits.dtype == np.float32:  # rounding may choose another simplex
        return
    turned = replace(
        case,
        logits=np.ascontiguousarray(case.logits.transpose(0, *range(len(case.size), 0, -1))),
        image=np.ascontiguousarray(
            case.image.transpose(*range(len(case.size) - 1, -1, -1), len(case.size))
        ),
        mask=None if case.mask is None else np.ascontiguousarray(case.mask.T),
        spacing=None if case.spacing is None else case.spacing[::-1],
    ).with_params(
        feature_order={"xy": "yx", "yx": "xy"}[case.params.feature_order],
        theta_alpha=turned_over(case.params.theta_alpha),
        theta_gamma=turned_over(case.params.theta_gamma),
    )
    q = api.refine(case.logits, case.image, case.params, **case.keywords())
    got = api.refine(turned.logits, turned.image, turned.params, **turned.keywords())
    near(got.transpose(0, *range(len(case.size), 0, -1)), q, 1e-5)


def a_mask_of_a_corner_equals_a_crop(rng, api):
    # Without a grid, whose cells are aligned with the whole image.
    case = random_case(rng).with_params(spatial="lattice")
    corner = tuple(slice(0, int(rng.integers(1, n + 1))) for n in case.size)
    mask = np.zeros(case.size, bool)
    mask[corner] = True
    q = api.refine(case.logits, case.image, case.params, **case.keywords(mask=mask))
    crop = api.refine(
        np.ascontiguousarray(case.logits[(slice(None), *corner)]), case.image[corner].copy(),
        case.params, **case.keywords(mask=None),
    )  # fmt: skip
    near(q[(slice(None), *corner)], crop, case.tolerance(float64=1e-6))


def exact_tiles_equal_the_whole(rng, api):
    case = random_case(rng, api.threads, api.large)
    tile = tuple(int(rng.integers(1, n + 1)) for n in case.size)
    if np.prod(np.ceil(np.array(case.size) / tile)) > 12:
        return
    keywords = case.keywords()
    q = api.refine(case.logits, case.image, case.params, **keywords)
    got = api(
        tiles.refine_tiled, case.logits, case.image, case.params, tile=tile, halo="exact",
        **keywords,
    )  # fmt: skip
    near(got, q, case.tolerance())


def threads_strides_and_arguments_do_not_matter(rng, api):
    case = random_case(rng, api.threads, api.large)
    before = case.logits.copy(), case.image.copy(), None if case.mask is None else case.mask.copy()
    q = api.refine(case.logits, case.image, case.params, **case.keywords(threads=1))
    parallel = case.keywords(threads=api.threads)
    same_bits(api.refine(case.logits, case.image, case.params, **parallel), q)
    strided = np.repeat(np.asfortranarray(case.logits), 2, -1)[..., ::2]
    picture = np.repeat(np.asfortranarray(case.image), 2, 0)[::2]
    same_bits(api.refine(strided, picture, case.params, **case.keywords()), q)
    refined = api.mean_field(case.logits, case.image, case.params, **case.keywords())
    if case.multilabel or len(refined) == 1:
        near(1 / (1 + np.exp(-refined.astype(np.float64))), q, 1e-5)
    else:
        near(oracle.softmax(refined.astype(np.float64)), q, 1e-5)
    for array, copy in zip((case.logits, case.image, case.mask), before, strict=True):
        assert array is None or np.array_equal(array, copy, equal_nan=array.dtype.kind == "f")


def pruning_loses_no_more_than_it_promises(rng, api):
    case = random_case(rng, api.threads, api.large)
    delta = log_uniform(rng, 1e-9, 0.9 / case.labels)
    given = (case.logits, case.image, case.params)
    q = api.refine(*given, **case.keywords(prune=delta))
    same_bits(api.refine(*given, **case.keywords(prune=delta, threads=1)), q)
    assert np.isfinite(q).all()
    if not (case.multilabel or len(case.logits) == 1):
        near(q.sum(0), np.ones(case.size), 1e-4)
        found = api.refine(*given, **case.keywords(prune=delta, labels=True))
        near(np.take_along_axis(q, found[None].astype(int), 0)[0], q.max(0), 1e-5)
    # In one iteration each label of a pixel loses `prune` at most, so that a message changes by no
    # more than the L labels' parts of the mass that a pixel receives, which is below 4.
    q, exact = (api.refine(*given, **case.keywords(iterations=1, prune=p)) for p in (delta, 0))
    weight = sum(np.abs(w).max() for w in (case.params.w_bilateral, case.params.w_spatial))
    coupling = 1 if case.compatibility is None else float(np.abs(case.compatibility).max())
    change = 4 * case.labels * delta * weight * coupling
    near(q, exact, np.expm1(min(2 * change, 20)) + delta + case.tolerance())


def probabilities_equal_their_logarithms(rng, api):
    case = random_case(rng)
    ends = np.where(np.isfinite(case.logits), case.logits, -9).clip(-9, 9).astype(np.float64)
    single = len(ends) == 1 or case.multilabel
    p = 1 / (1 + np.exp(-ends)) if single else oracle.softmax(ends)
    p = p.clip(1e-4, 1 - 1e-4) if single else (p + 1e-4) / (p + 1e-4).sum(0)
    logits = np.log(p) - np.log(1 - p) if single else np.log(p)
    q = api.refine(logits, case.image, case.params, **case.keywords())
    near(
        api.refine(p, case.image, case.params, **case.keywords(), kind="probabilities"), q, 5e-3
    )


def engines_agree(rng, api):
    case = random_case(rng, api.threads, api.large)
    if "numba" not in api.engines or "cpu" not in api.engines:
        return
    given = (case.logits, case.image, case.params)
    q = api.refine(*given, **case.keywords(), backend="cpu")
    near(api.refine(*given, **case.keywords(), backend="numba"), q, case.tolerance())


def tensors_and_batches_equal_arrays(rng, api):
    if api.torch is None:
        return
    torch, case = api.torch, random_case(rng, api.threads, api.large)
    images = int(rng.integers(1, 4))
    logits = np.stack([np.roll(case.logits, n, -1) for n in range(images)])
    image = np.stack([np.roll(case.image, n, -2) for n in range(images)])
    mu = case.compatibility
    options = {
        "compatibility": None if mu is None else torch.from_numpy(mu.astype(logits.dtype)),
        "mask": None if case.mask is None else torch.from_numpy(np.stack([case.mask] * images)),
        "iterations": case.iterations, "spacing": case.spacing, "multilabel": case.multilabel,
    }  # fmt: skip
    planes = torch.from_numpy(np.moveaxis(image, -1, 1).copy())
    got = api(api.functional.mean_field, torch.from_numpy(logits), planes, case.params, **options)
    for n in range(images):
        want = api.mean_field(logits[n], image[n], case.params, **case.keywords())
        got_one, finite = got[n].numpy(), np.isfinite(want)
        near(got_one[finite], want[finite], case.tolerance())
        assert np.array_equal(np.isfinite(got_one), finite)


def gradients_agree_between_engines(rng, api):
    """The layer with random options, and its gradients, on every engine that takes tensors."""
    if api.torch is None:
        return
    torch, case = api.torch, random_case(rng)
    finite = np.where(np.isfinite(case.logits), case.logits, -9).astype(np.float64)
    if finite.size > 400:
        return
    labels = len(finite) if case.multilabel else case.labels
    options = {
        "iterations": case.iterations, "spacing": case.spacing, "multilabel": case.multilabel,
        "mask": None if case.mask is None else torch.from_numpy(case.mask[None]),
        "update": one_of(rng, ("softmax", "softmax", "relu")),
        "return_all": bool(rng.random() < 0.2),
        "memory_budget": int(one_of(rng, (1, 2**30))),
    }  # fmt: skip
    planes = np.moveaxis(case.image, -1, 0)[None].astype(np.float64)
    weights = rng.normal(size=(2, labels))
    seed, found = int(rng.integers(2**31)), {}
    slow = {"numba"} if rng.random() < 0.9 else set()
    for backend in (name for name in api.tensor_engines if name not in slow):
        inputs = [
            torch.tensor(array, requires_grad=True)
            for array in (finite[None], planes, weights)
        ]
        logits, image, kernel_weights = inputs
        if case.compatibility is not None:
            options["compatibility"] = torch.from_numpy(case.compatibility)
        with recorded_relu() as steps:
            out = api(
                api.functional.mean_field, logits, image, case.params, backend=backend,
                kernel_weights=kernel_weights, **options,
            )  # fmt: skip
        parts = out if options["return_all"] else [out]
        draw = np.random.default_rng(seed)
        total = sum(
            ((part * torch.from_numpy(draw.normal(size=part.shape))).sum() for part in parts),
            logits.sum() * 0,
        )
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        arrays = [p.detach() for p in parts] + [
            torch.zeros_like(x) if g is None else g
            for g, x in zip(gradients, inputs, strict=True)
        ]
        found[backend] = steps, arrays
    first_steps, first = found.pop(api.tensor_engines[0])
    for steps, others in found.values():
        if met_a_jump(steps, first_steps):
            continue
        for one, other in zip(first, others, strict=True):
            near(other.numpy(), one.numpy(), 1e-7)


# --- Gibbs sampling ------------------------------------------------------------------------------


def sweeps_do_not_depend_on_threads_or_engine(rng, api):
    labels = int(rng.integers(2, 6))
    size = one_of(rng, ((2, 2), (2, 7), (11, 9), (90, 120)))
    offsets = one_of(rng, ([(0, 1), (1, 0)], [(1, 1)], [(0, 1), (1, 0), (1, 1), (1, -1)]))
    logits = rng.normal(size=(labels, *size)).astype(np.float32)
    tables = rng.normal(size=(len(offsets), labels, labels)).astype(np.float32)
    start = rng.integers(0, labels, size).astype(np.uint8)
    options = {
        "sweeps": 2, "seed": int(rng.integers(2**63)), "temperature": float(rng.uniform(0, 2)),
        "mask": rng.random(size) < 0.8 if rng.random() < 0.3 else None,
    }  # fmt: skip
    sweep = api.gibbs.sweep
    found, changes = api(sweep, logits, start, tables, offsets, threads=1, **options)
    for backend in api.engines:
        other, changed = api(
            sweep, logits, start, tables, offsets, threads=api.threads, backend=backend, **options
        )
        same_bits(other, found)
        same_bits(changed, changes)
    assert found.max(initial=0) < labels


# --- pydensecrf's interface ----------------------------------------------------------------------


def pydensecrf_equals_refine(rng, api):
    case = random_case(rng)
    height, width = case.size[0], case.size[-1]
    labels = max(2, len(case.logits))
    logits = rng.normal(size=(labels, height, width)).astype(np.float32)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    thetas = [log_uniform(rng, 1, 50) for _ in range(3)]
    crf = api.densecrf.DenseCRF2D(width, height, labels)
    api(crf.setUnaryEnergy, -logits.reshape(labels, -1))
    api(crf.addPairwiseGaussian, sxy=thetas[0], compat=3)
    api(crf.addPairwiseBilateral, sxy=thetas[1], srgb=thetas[2], rgbim=image, compat=2)
    got = np.asarray(api(crf.inference, case.iterations)).reshape(labels, height, width)
    params = CRFParams(
        theta_alpha=thetas[1], theta_beta=thetas[2], theta_gamma=thetas[0], w_bilateral=2,
        w_spatial=3, normalization="symmetric", spatial="lattice",
    )  # fmt: skip
    q = api.refine(logits, image, params, iterations=case.iterations)
    assert np.isfinite(got).all() and np.abs(got.sum(0) - 1).max() < 1e-3
    # pydensecrf pads points to groups of four by points at the origin, which add vertices.
    if height * width % 4 == 0:
        near(got, q, 5e-3)


# --- bad input -----------------------------------------------------------------------------------


def bad_input_raises_one_clear_sentence(rng, api):
    case = random_case(rng)
    logits, image, keywords = case.logits.copy(), case.image, case.keywords()
    kind = int(rng.integers(9))
    if kind == 0:
        logits[(0, *(0,) * len(case.size))] = one_of(rng, (np.nan, np.inf))
        keywords |= {"mask": None}
    elif kind == 1:
        logits = logits.astype(one_of(rng, (np.int32, np.complex64, object, np.uint8)))
    elif kind == 2:
        image = image[..., None]
    elif kind == 3:
        image = image[:, :-1] if case.size[1] > 1 else image[:, :0]
    elif kind == 4:
        keywords |= {"iterations": one_of(rng, (-1, 1.5, None, "3"))}
    elif kind == 5:
        keywords |= {"spacing": one_of(rng, ((1.0,), (0.0,) * len(case.size), "ab", (np.nan,) * 2))}
    elif kind == 6:
        keywords |= {"compatibility": np.zeros((case.labels + 1, case.labels)), "iterations": 1}
    elif kind == 7:
        keywords |= {"mask": np.zeros((2, 2, 2, 2), bool)}
    else:
        keywords |= {"threads": one_of(rng, (0, -3, 2.5, "two"))}
    try:
        api.refine(logits, image, case.params, **keywords)
    except (TypeError, ValueError) as error:
        words = str(error)
        assert words and "\n" not in words and len(words) < 600, words
    else:
        raise AssertionError(f"bad input of kind {kind} was accepted")


def bad_tensors_raise_the_sentence_of_arrays(rng, api):
    """One bad value, on a random path of the layer and on any engine that takes tensors."""
    case = random_case(rng)
    if api.torch is None or case.logits[0].size > 100:
        return
    torch, dtype = api.torch, case.logits.dtype
    inside = np.argwhere(np.ones(case.size, bool) if case.mask is None else case.mask)
    if not len(inside):
        return
    here, labels = tuple(one_of(rng, inside)), len(case.logits) if case.multilabel else case.labels
    logits, image = case.logits.copy(), case.image.astype(one_of(rng, (np.float32, np.float64)))
    weights = rng.uniform(0, 2, (2, labels) if rng.random() < 0.5 else 2).astype(dtype)
    mu = None if case.multilabel else (1 - np.eye(labels)).astype(dtype)
    kind = int(rng.integers(5))
    if kind == 0:
        logits[(int(rng.integers(len(logits))), *here)] = one_of(rng, (np.nan, np.inf))
    elif kind == 1 and len(logits) > 1 and not case.multilabel:
        logits[(slice(None), *here)] = -np.inf
    elif kind == 2:
        image[here + (0,)] = one_of(rng, (np.nan, np.inf, -np.inf, 1e31, -3e38))
    elif kind == 3:
        where = int(rng.integers(weights.size))
        weights.flat[where] = one_of(rng, (np.nan, np.inf, np.finfo(dtype).max))
    elif kind == 4 and mu is not None:
        mu[0, 1] = one_of(rng, (np.nan, -np.inf))
    else:
        return
    given = {"kernel_weights": weights, "compatibility": mu}
    try:
        api.mean_field(logits, image, case.params, **case.keywords(**given))
    except ValueError as error:
        expected = str(error)
    else:
        raise AssertionError(f"a bad value of kind {kind} was accepted")
    options = {
        "iterations": case.iterations, "spacing": case.spacing, "multilabel": case.multilabel,
        "mask": None if case.mask is None else torch.from_numpy(case.mask[None]),
        "backend": one_of(rng, api.tensor_engines),
        **one_of(rng, (
            {}, {"update": "relu"}, {"return_all": True}, {"tied": False}, {"method": "exact"},
        )),
    }  # fmt: skip
    if options.get("method") == "exact":
        options["backend"] = "auto"
    if not options.get("tied", True):
        options["iterations"] = max(1, case.iterations)
        weights = np.stack([weights] * options["iterations"])
        mu = None if mu is None else np.stack([mu] * options["iterations"])
    planes = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
    options["kernel_weights"] = torch.from_numpy(weights)
    options["compatibility"] = None if mu is None else torch.from_numpy(mu)
    given = (torch.from_numpy(logits[None]), planes, case.params)
    try:
        api(api.functional.mean_field, *given, **options)
    except ValueError as error:
        # The largest weight that is named depends on the number of labels that are refined at once,
        # and only tensors are trained.
        ends = ("; use weights", "; if training moved them")
        found, wanted = (
            str(e).partition(ends[0])[0].partition(ends[1])[0] for e in (error, expected)
        )
        assert found == wanted, (found, wanted)
    else:
        raise AssertionError(f"a bad value of kind {kind} was accepted with {options}")


PROPERTIES = (
    filter_equals_the_dictionary_lattice,
    filter_is_linear_and_its_transpose_adjoint,
    parts.filters_of_tensors_equal_the_dictionary_lattice,
    parts.gradients_for_features_equal_finite_differences,
    parts.losses_equal_their_dense_definition,
    mean_field_equals_the_oracle,
    labels_may_be_permuted,
    constants_may_be_added_to_the_logits_of_a_pixel,
    image_and_bandwidth_may_be_scaled_together,
    images_may_be_transposed_with_their_feature_order,
    a_mask_of_a_corner_equals_a_crop,
    exact_tiles_equal_the_whole,
    threads_strides_and_arguments_do_not_matter,
    pruning_loses_no_more_than_it_promises,
    probabilities_equal_their_logarithms,
    engines_agree,
    tensors_and_batches_equal_arrays,
    gradients_agree_between_engines,
    parts.points_equal_the_oracle_and_images_of_one_row,
    parts.calls_without_an_image_smooth_by_position_alone,
    sweeps_do_not_depend_on_threads_or_engine,
    pydensecrf_equals_refine,
    bad_input_raises_one_clear_sentence,
    bad_tensors_raise_the_sentence_of_arrays,
)
