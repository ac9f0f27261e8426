"""Logits as they are stored, read without a copy, and label maps that are written directly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_problem

from densecrf_rnn import CRFParams, engines, mean_field, refine
from densecrf_rnn.postprocess import label_dtype, most_probable

SOFT = CRFParams(theta_alpha=8, theta_beta=20, theta_gamma=2, w_bilateral=2, w_spatial=1)
SIZES = ((1, 1), (1, 13), (7, 11), (9, 70), (2, 3, 5))
LABELS = (1, 2, 3, 4, 5, 8, 9, 21, 33, 300)


def channels_last(logits):
    """The same logits as a view of scores [*S, L]."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(logits, 0, -1)), -1, 0)


# --- labels --------------------------------------------------------------------------------------


@given(
    labels=st.sampled_from(LABELS), size=st.sampled_from(SIZES), masked=st.booleans(),
    iterations=st.integers(0, 2), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_labels_are_the_argmax_of_the_refined_logits(
    backend, dtype, labels, size, masked, iterations, seed
):
    logits, image = random_problem(labels, size, dtype=dtype, seed=seed)
    mask = np.random.default_rng(seed).random(size) < 0.6 if masked else None
    options = {"iterations": iterations, "mask": mask, "backend": backend}
    refined = mean_field(logits, image, SOFT, **options)
    for call in (refine, mean_field):
        found = call(logits, image, SOFT, labels=True, **options)
        assert found.dtype == label_dtype(labels) and found.shape == size
        np.testing.assert_array_equal(found, most_probable(refined, 0))


def test_of_equally_probable_labels_the_lowest_is_returned(backend):
    logits = np.zeros((6, 3, 40), np.float32)
    logits[4:] = 1
    image = np.zeros((3, 40, 3), np.uint8)
    assert np.all(refine(logits, image, SOFT, labels=True, backend=backend) == 4)
    assert np.all(refine(logits[4:], image, SOFT, labels=True, backend=backend) == 0)


@pytest.mark.parametrize(("labels", "kind"), [(256, np.uint8), (257, np.uint16)])
def test_labels_have_the_smallest_dtype_that_holds_them(backend, labels, kind):
    logits = np.zeros((labels, 2, 3), np.float32)
    logits[-1] = 1
    found = refine(logits, np.zeros((2, 3, 3), np.uint8), SOFT, labels=True, backend=backend)
    assert found.dtype == kind and np.all(found == labels - 1)


def test_a_pixel_of_several_labels_has_no_label(backend):
    logits, image = random_problem(3)
    with pytest.raises(ValueError, match="labels is True but multilabel is True"):
        refine(logits, image, labels=True, multilabel=True, backend=backend)
    with pytest.raises(TypeError, match="labels is int; it must be True or False"):
        refine(logits, image, labels=1, backend=backend)


# --- logits --------------------------------------------------------------------------------------


@given(
    labels=st.sampled_from(LABELS), size=st.sampled_from(SIZES), masked=st.booleans(),
    kind=st.sampled_from(("half", "byte", "last", "half last", "byte last", "reversed", "cut")),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_logits_of_any_dtype_and_layout_give_what_their_float32_copy_gives(
    backend, labels, size, masked, kind, seed
):
    plain, image = random_problem(labels, size, dtype=np.float32, seed=seed)
    options = {"mask": np.random.default_rng(seed).random(size) < 0.6 if masked else None}
    quantization = None
    if "half" in kind:
        stored = plain.astype(np.float16)
        plain = stored.astype(np.float32)
    elif "byte" in kind:
        quantization = (0.05, 120)
        stored = (plain / 0.05 + 120).clip(0, 255).astype(np.uint8)
        plain = (stored.astype(np.float32) - np.float32(120)) * np.float32(0.05)
    elif kind == "reversed":
        stored = np.ascontiguousarray(plain[::-1, ..., ::-1])[::-1, ..., ::-1]
    elif kind == "cut":
        stored = np.pad(plain, [(0, 2)] * plain.ndim)[tuple(slice(n) for n in plain.shape)]
    else:
        stored = plain
    if "last" in kind:
        stored = channels_last(stored)
    before = stored.copy()
    for labels_only in (False, True):
        both = {"iterations": 2, "labels": labels_only, "backend": backend, **options}
        got = mean_field(stored, image, SOFT, quantization=quantization, **both)
        want = mean_field(plain, image, SOFT, **both)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    np.testing.assert_array_equal(stored, before)


def test_every_half_is_read_as_it_is(backend):
    bits = np.arange(2**16, dtype=np.uint16)
    every = bits.view(np.float16)
    every = every[np.isfinite(every)]
    logits = np.stack([every, np.zeros_like(every)])[:, None]
    off = CRFParams(w_bilateral=0, w_spatial=0)
    image = np.zeros((1, len(every), 1), np.uint8)
    got = mean_field(logits, image, off, iterations=1, backend=backend)
    np.testing.assert_array_equal(got, logits.astype(np.float32))


def test_values_that_no_logit_may_have_are_found_in_any_dtype(backend):
    image = np.zeros((3, 4, 3), np.uint8)
    for value, message in ((np.nan, "NaN"), (np.inf, "infinity")):
        for kind in (np.float16, np.float32):
            logits = np.zeros((3, 4, 2), kind)
            logits[1, 2, 0] = value
            with pytest.raises(ValueError, match=message):
                mean_field(np.moveaxis(logits, -1, 0), image, SOFT, backend=backend)
    excluded = np.zeros((2, 3, 4), np.float16)
    excluded[1] = -np.inf
    assert np.all(refine(excluded, image, SOFT, backend=backend)[0] == 1)


@pytest.mark.parametrize("kind", ["half", "byte", "last", "plain"])
def test_the_native_engine_reads_logits_where_they_are(monkeypatch, kind):
    if engines.why_unavailable("cpu") is not None:
        pytest.skip(engines.why_unavailable("cpu"))
    logits, image = random_problem(5, (6, 7), dtype=np.float32)
    stored = {
        "half": logits.astype(np.float16), "byte": logits.astype(np.uint8),
        "last": channels_last(logits), "plain": logits,
    }[kind]  # fmt: skip
    native, seen = engines.engine("cpu"), []
    run = native.mean_field
    monkeypatch.setattr(native, "mean_field", lambda p, *rest: seen.extend(p) or run(p, *rest))
    quantization = (1.0, 0) if kind == "byte" else None
    mean_field(stored, image, SOFT, labels=True, quantization=quantization, backend="cpu")
    assert np.shares_memory(seen[0].logits, stored)
    assert seen[0].refined.size == 0 and seen[0].label_map is not None


@pytest.mark.parametrize(
    ("kind", "quantization", "error", "message"),
    [
        (np.uint8, None, TypeError, "logits has dtype uint8; it must be float32 or float64"),
        (np.float32, (1, 0), TypeError, "logits has dtype float32; it must be uint8, which stands"),
        (np.uint8, 0.1, ValueError, r"quantization is 0.1; it must be \(scale, zero_point\)"),
        (np.uint8, (1, 2, 3), ValueError, r"it must be \(scale, zero_point\)"),
        (np.uint8, (0, 0), ValueError, "the scale of quantization is 0; it must be positive"),
        (np.uint8, (1, np.inf), ValueError, "the zero point of quantization is inf"),
    ],
)
def test_a_quantization_that_does_not_fit_is_refused(kind, quantization, error, message):
    logits, image = np.zeros((3, 4, 5), kind), np.zeros((4, 5, 3), np.uint8)
    for call in (refine, mean_field):
        with pytest.raises(error, match=message):
            call(logits, image, quantization=quantization)


def test_a_quantization_of_probabilities_is_refused():
    image = np.zeros((4, 5, 3), np.uint8)
    for p in (np.full((2, 4, 5), 127, np.uint8), np.full((2, 4, 5), 0.5, np.float32)):
        with pytest.raises(ValueError, match="quantization is given but kind is 'probabilities'"):
            refine(p, image, kind="probabilities", quantization=(1, 0))
