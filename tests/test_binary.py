"""Two labels: the native engine filters the difference of their marginals, where it can.

The refined logits, whose softmax the marginals are, need both: `mean_field` filters each.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import noisy_logits, picture, softmax

from densecrf_rnn import CRFParams, engines, mean_field, refine

PROBLEMS = {
    "size": st.sampled_from(((1, 1), (1, 70), (65, 3), (31, 37), (5, 9, 11))),
    "seed": st.integers(0, 2**32 - 1),
    "dtype": st.sampled_from((np.float16, np.float32, np.float64)),
    "normalization": st.sampled_from(("none", "before", "after", "symmetric")),
    "spatial": st.sampled_from(("grid", "lattice")),
    "quality": st.sampled_from(("standard", "symmetric", "filled")),
    "theta_gamma": st.sampled_from((0.7, 1.0, 3.0)),
    "weight": st.sampled_from((0.5, 3.0, 30.0)),
    "share": st.sampled_from((None, 0.1, 0.9)),
    "penalty": st.sampled_from((None, "symmetric", "asymmetric", "attractive")),
}
PENALTIES = {
    None: None,
    "symmetric": np.array([[-0.3, 0.7], [0.7, -0.3]]),
    "asymmetric": np.array([[0.1, 0.7], [0.4, 0.0]]),
    "attractive": np.array([[0.0, -0.2], [-0.2, 0.0]]),
}


@pytest.fixture(autouse=True)
def needs_native_module():
    reason = engines.why_unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)


@settings(max_examples=150, deadline=None)
@given(**PROBLEMS)
def test_marginals_and_labels_are_those_of_the_refined_logits(
    size, seed, dtype, normalization, spatial, quality, theta_gamma, weight, share, penalty
):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (2, *size)).astype(dtype)
    image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    params = CRFParams(
        4, 40, theta_gamma, weight, weight, normalization=normalization, spatial=spatial,
        quality=quality,
    )  # fmt: skip
    mask = None if share is None else rng.random(size) < share
    if mask is not None:
        mask.flat[0] = True
    options = {
        "compatibility": PENALTIES[penalty], "mask": mask, "iterations": 4, "backend": "cpu",
    }  # fmt: skip
    refined = mean_field(logits, image, params, **options)
    q = refine(logits, image, params, **options)
    # Unnormalised kernels give large messages, whose rounding repels or attracts
    apart = np.abs(refined).max()
    tolerance = 2e-5 if dtype == np.float64 else 2e-5 + 4e-7 * apart
    assert np.abs(q - softmax(refined)).max() < tolerance
    labels = refine(logits, image, params, labels=True, **options)
    sure = np.abs(refined[0] - refined[1]) > 1e-5 * apart
    assert np.array_equal(labels[sure], refined.argmax(0)[sure])
    assert np.array_equal(labels[sure], q.argmax(0)[sure])


def test_result_does_not_depend_on_the_number_of_threads():
    image = picture(300, 411)
    logits = noisy_logits(2, image)
    one = refine(logits, image, backend="cpu", threads=1)
    assert np.array_equal(refine(logits, image, backend="cpu", threads=2), one)


def test_excluded_label_stays_excluded():
    logits = np.zeros((2, 9, 70), np.float32)
    logits[0, :, ::3] = -np.inf
    logits[1, :, 1::3] = -np.inf
    image = np.random.default_rng(0).integers(0, 255, (9, 70, 3)).astype(np.uint8)
    q = refine(logits, image, backend="cpu")
    assert (q[0, :, ::3] == 0).all() and (q[1, :, ::3] == 1).all() and (q[1, :, 1::3] == 0).all()
