"""Transforms for MONAI, and the layer with the arguments of its CRF.

Where MONAI is not installed, stand-ins of the few names that the transforms use take its place;
tests/integration/test_monai.py runs them in MONAI's own chains.
"""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from densecrf_rnn import CRFParams, PermutohedralLattice, refine  # noqa: E402

MONAI = importlib.util.find_spec("monai") is not None
PARAMS = CRFParams(theta_alpha=4, theta_beta=0.3, theta_gamma=2)


class Placed(torch.Tensor):
    """A tensor with an affine, as MONAI's MetaTensor."""

    @staticmethod
    def of(tensor, affine):
        found = tensor.as_subclass(Placed)
        found.affine = affine
        return found


def to_kind(source, target, dtype):
    """As MONAI's function: the values of one array as the kind of another, with its metadata."""
    if isinstance(target, np.ndarray):
        return source.astype(dtype), None, None
    found = torch.from_numpy(source.astype(dtype)).to(target.device)
    return (Placed.of(found, target.affine) if isinstance(target, Placed) else found), None, None


class MapTransform:
    def __init__(self, keys, allow_missing_keys=False):
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self.allow_missing_keys = allow_missing_keys

    def key_iterator(self, data):
        for key in self.keys:
            if key in data:
                yield key
            elif not self.allow_missing_keys:
                raise KeyError(key)


@pytest.fixture
def compat(monkeypatch):
    """The package densecrf_rnn.compat.monai."""
    if not MONAI:
        parts = {"monai": ModuleType("monai")}
        parts["monai.transforms"] = SimpleNamespace(Transform=object, MapTransform=MapTransform)
        parts["monai.utils"] = SimpleNamespace(convert_to_dst_type=to_kind)
        for name, module in parts.items():
            monkeypatch.setitem(sys.modules, name, module)
    names = [name for name in sys.modules if name.startswith("densecrf_rnn.compat.monai")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    found = importlib.import_module("densecrf_rnn.compat.monai")
    found.blocks = importlib.import_module("densecrf_rnn.compat.monai.blocks")
    yield found
    for name in [name for name in sys.modules if name.startswith("densecrf_rnn.compat.monai")]:
        monkeypatch.delitem(sys.modules, name, raising=False)


def problem(*size, labels=3, channels=2, seed=0):
    """Scores [L, *S] and an image [C, *S] in 0..1."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(labels, *size)).astype(np.float32)
    return scores, rng.random((channels, *size), np.float32)


def test_without_monai_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setitem(sys.modules, "monai.transforms", None)
    for name in [name for name in sys.modules if name.startswith("densecrf_rnn.compat.monai")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="compat.monai needs monai.*pip install monai"):
        importlib.import_module("densecrf_rnn.compat.monai")


@pytest.mark.parametrize("size", [(7, 5), (4, 5, 3)])
def test_the_transform_is_refine_and_returns_the_kind_that_it_got(compat, size):
    scores, image = problem(*size)
    wanted = refine(scores, np.moveaxis(image, 0, -1), PARAMS, iterations=3)
    crf = compat.CRF(PARAMS, iterations=3)
    found = crf(scores, image)
    assert type(found) is np.ndarray and np.array_equal(found, wanted)
    tensor = crf(torch.from_numpy(scores), torch.from_numpy(image))
    assert type(tensor) is torch.Tensor and np.array_equal(tensor, wanted)
    half = torch.from_numpy(scores).bfloat16()
    narrow = crf(half, image)
    assert narrow.dtype is torch.float32
    assert np.array_equal(narrow, crf(half.float().numpy(), image))


def test_the_affine_gives_the_spacing_and_the_result_keeps_it(compat):
    scores, image = problem(4, 5, 3)
    affine = torch.tensor([[0, -2.0, 0, 7], [1.5, 0, 0, 1], [0, 0, 3, 2], [0, 0, 0, 1]])
    placed = Placed.of(torch.from_numpy(scores), affine)
    wanted = refine(scores, np.moveaxis(image, 0, -1), PARAMS, spacing=(1.5, 2, 3))
    crf = compat.CRF(PARAMS)
    for one, other in ((placed, image), (scores, Placed.of(torch.from_numpy(image), affine))):
        assert np.array_equal(crf(one, other), wanted)
    if not MONAI:  # else its own class is tested elsewhere
        assert crf(placed, image).affine is affine
    plain = refine(scores, np.moveaxis(image, 0, -1), PARAMS)
    assert np.array_equal(compat.CRF(PARAMS, spacing=None)(placed, image), plain)
    assert not np.array_equal(plain, wanted)
    given = compat.CRF(PARAMS, spacing=(1.5, 2, 3))
    assert np.array_equal(given(scores, image), wanted)


def test_of_an_image_the_first_columns_of_a_larger_affine_count(compat):
    scores, image = problem(7, 5)
    affine = torch.diag(torch.tensor([2.0, 0.5, 9, 1]))
    found = compat.CRF(PARAMS)(Placed.of(torch.from_numpy(scores), affine), image)
    wanted = refine(scores, np.moveaxis(image, 0, -1), PARAMS, spacing=(2, 0.5))
    assert np.array_equal(found, wanted)


def test_scores_and_image_on_different_grids_are_refused(compat):
    scores, image = (torch.from_numpy(x) for x in problem(4, 5, 3))
    flipped = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match="on different grids: .*refine before Invertd"):
        compat.CRF(PARAMS)(Placed.of(scores, torch.eye(4)), Placed.of(image, flipped))


def test_the_dictionary_transform_replaces_its_keys_alone(compat):
    scores, image = problem(7, 5)
    mask = np.ones((1, 7, 5), np.uint8)
    mask[:, :3] = 0
    p = refine(scores, np.moveaxis(image, 0, -1), PARAMS, iterations=0)
    data = {"a": p, "b": p[::-1].copy(), "image": image, "mask": mask, "other": object()}
    crf = compat.CRFd(["a", "b"], "image", PARAMS, mask_key="mask", kind="probabilities")
    found = crf(data)
    assert found.keys() == data.keys() and data["a"] is p
    assert all(found[key] is data[key] for key in ("image", "mask", "other"))
    guide = np.moveaxis(image, 0, -1)
    wanted = refine(p, guide, PARAMS, kind="probabilities", mask=mask[0] > 0)
    assert np.array_equal(found["a"], wanted)
    assert not np.array_equal(wanted, refine(p, guide, PARAMS, kind="probabilities"))
    assert compat.CRFD is compat.CRFDict is compat.CRFd


def test_missing_keys_are_named(compat):
    scores, image = problem(7, 5)
    with pytest.raises(KeyError, match="image_key is 'image', which the data lack; .*'a'"):
        compat.CRFd("a", "image", PARAMS)({"a": scores})
    with pytest.raises(KeyError, match="mask_key is 'm'"):
        compat.CRFd("a", "image", PARAMS, mask_key="m")({"a": scores, "image": image})
    with pytest.raises(KeyError, match="b"):
        compat.CRFd(["a", "b"], "image", PARAMS)({"a": scores, "image": image})
    found = compat.CRFd(["a", "b"], "image", PARAMS, allow_missing_keys=True)(
        {"a": scores, "image": image}
    )
    assert set(found) == {"a", "image"}


@pytest.mark.parametrize("options, words", [
    ({"kind": "scores"}, "kind is 'scores'"),
    ({"spacing": "header"}, "spacing is 'header'; give 'affine', one number"),
    ({"labels": True}, "an option of CRF is 'labels'; choose from 'iterations'"),
    ({"params": {"theta_alpha": 3}}, "params is dict"),
])
def test_options_of_the_transform_that_make_no_sense_are_refused(compat, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        compat.CRF(**options)


# --- monai.networks.blocks.CRF -------------------------------------------------------------------


def normalised(values, features):
    """Filter rows [N, L] by a lattice and divide by what it makes of ones."""
    ones = np.ones((len(values), 1), values.dtype)
    found = PermutohedralLattice(features).filter(np.concatenate([values, ones], 1))
    return found[:, :-1] / found[:, -1:]


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def mean_field_of_monai(logits, image, factor=3.0, weights=(1.0, 1.0), thetas=(5.0, 0.5, 5.0),
                        matrix=None, iterations=5):  # fmt: skip
    """The loop of MONAI's layer for one image: logits [L, *S] and a reference [C, *S]."""
    size = logits.shape[1:]
    rows = logits.reshape(len(logits), -1).T
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).reshape(len(size), -1).T
    colours = image.reshape(len(image), -1).T
    bilateral = np.concatenate([grid / thetas[0], colours / thetas[1]], 1).astype(rows.dtype)
    gaussian = (grid / thetas[2]).astype(rows.dtype)
    q = softmax(rows)
    for _ in range(iterations):
        update = weights[0] * normalised(q, bilateral) + weights[1] * normalised(q, gaussian)
        if matrix is not None:
            update = update @ matrix
        q = softmax(rows + factor * update)
    return q.T.reshape(logits.shape)


@pytest.mark.parametrize("size", [(9, 7), (4, 5, 3)])
def test_the_layer_computes_the_mean_field_of_monai(compat, size):
    scores, image = (np.stack(x) for x in zip(problem(*size), problem(*size, seed=1)))
    scores, image = scores.astype(np.float64), image.astype(np.float64)
    matrix = np.random.default_rng(2).normal(size=(3, 3))
    names = {"bilateral_spatial_sigma": 3, "bilateral_color_sigma": 0.2,
             "gaussian_spatial_sigma": 2, "bilateral_weight": 1.5, "gaussian_weight": 0.7,
             "update_factor": 2.0, "iterations": 3}  # fmt: skip
    others = {"thetas": (3, 0.2, 2), "weights": (1.5, 0.7), "factor": 2.0, "iterations": 3}
    for given, mine in ((compat.blocks.CRF(), {}), (compat.blocks.CRF(**names), others), (
        compat.blocks.CRF(**names, compatibility_matrix=torch.from_numpy(matrix)),
        {**others, "matrix": matrix},
    )):  # fmt: skip
        found = given(torch.from_numpy(scores), torch.from_numpy(image))
        wanted = [mean_field_of_monai(u, x, **mine) for u, x in zip(scores, image)]
        np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_the_layer_has_gradients_for_scores_reference_and_matrix(compat):
    scores, image = (torch.from_numpy(x)[None] for x in problem(5, 4))
    matrix = torch.eye(3, requires_grad=True)
    crf = compat.blocks.CRF(compatibility_matrix=matrix)
    scores.requires_grad_()
    image.requires_grad_()
    crf(scores, image)[:, 0].square().sum().backward()
    assert all((x.grad != 0).any() for x in (scores, image, matrix))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_layer_computes_half_precision_in_float32(compat, dtype):
    scores, image = (torch.from_numpy(x)[None].to(dtype) for x in problem(5, 4))
    found = compat.blocks.CRF()(scores, image)
    wanted = compat.blocks.CRF()(scores.float(), image.float())
    assert found.dtype is dtype
    assert (found.float() - wanted).abs().max() < 2 * torch.finfo(dtype).eps


def test_the_layer_refuses_one_label_with_the_way_out(compat):
    crf = compat.blocks.CRF()
    with pytest.raises(ValueError, match="input_tensor has shape .*two labels or more .*torch.cat"):
        crf(torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 4, 5))
    with pytest.raises(TypeError, match="input_tensor is ndarray"):
        crf(np.zeros((1, 2, 4, 5)), torch.zeros(1, 1, 4, 5))
    with pytest.raises(TypeError, match="compatibility_matrix is list; it must be a tensor"):
        compat.blocks.CRF(compatibility_matrix=[[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"compatibility_matrix has shape \(3, 3\).*give \[2, 2\]"):
        compat.blocks.CRF(compatibility_matrix=torch.eye(3))(torch.zeros(1, 2, 4, 5), X)


X = torch.zeros(1, 1, 4, 5)


@pytest.mark.parametrize("scores, image, mask, words", [
    (X[0, 0], X[0], None, r"scores has shape \(4, 5\) and image \(1, 4, 5\); .*channels first"),
    (X[0], X[0, 0], None, r"image \(4, 5\); they must be \[L, \*S\] and \[C, \*S\]"),
    (X[None], X[None], None, r"no batches \(Decollated\)"),
    (X[0], X[0], X[0, 0], r"mask has shape \(4, 5\) but scores \(1, 4, 5\); give \[1, \*S\]"),
    (X[0], X[0], X[0].expand(2, 4, 5), r"mask has shape \(2, 4, 5\).*mask\[:1\]"),
])
def test_scores_images_and_masks_of_other_axes_are_refused(compat, scores, image, mask, words):
    with pytest.raises(ValueError, match=words):
        compat.CRF(PARAMS)(scores, image, mask)
