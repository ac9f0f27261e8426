"""Traps in training: what would go wrong in silence is noticed, and named with a way out."""

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN  # noqa: E402
from densecrf_rnn.inference import grid  # noqa: E402
from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD, collate_padded  # noqa: E402
from densecrf_rnn.nn.losses import robust_log_likelihood  # noqa: E402


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def wrapped(**options):
    torch.manual_seed(0)
    return CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, params=make.small_params(), **options)


def photograph(*size, batch=1, seed=0):
    """A picture in 0..255 that is smooth, but for a little noise."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return (torch.stack([x, y, x * y]) * 235 + 10 + 2 * noise).clamp(0, 255)


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_robust_loss_of_one_logit_is_that_of_the_pair(reduction):
    logits = make.problem(0, 5, 6, batch=2, labels=1)[0].requires_grad_()
    target = torch.randint(0, 2, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    target[0, :2] = 255
    found = robust_log_likelihood(logits, target, reduction=reduction)
    pair = torch.cat([torch.zeros_like(logits), logits], 1)
    wanted = robust_log_likelihood(pair, target, reduction=reduction)
    assert torch.equal(found, wanted) and found.sum() > 0
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert (grad[1] != 0).all() and (grad[0, :, :2] == 0).all()


# --- values that suggest a mistake ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("labels", [2, 3, 21, 150])
def test_a_softmax_before_the_head_is_noticed_in_any_precision(dtype, labels):
    logits, image = make.problem(0, 24, 25, labels=labels, dtype=torch.float32)
    with pytest.warns(UserWarning, match="sum to 1 over the labels.*remove the softmax before"):
        CRFRNN(labels)((3 * logits).softmax(1).to(dtype), image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("labels", [1, 3])
def test_a_sigmoid_before_the_head_is_noticed_in_any_precision(dtype, labels):
    logits, image = make.problem(0, 24, 25, labels=labels, dtype=torch.float32)
    with pytest.warns(UserWarning, match="0..1.* remove the sigmoid"):
        CRFRNN(labels, multilabel=labels > 1)((3 * logits).sigmoid().to(dtype), image)
    if labels > 1:
        with pytest.warns(UserWarning, match="pass multilabel=True and remove the sigmoid"):
            CRFRNN(labels)((3 * logits).sigmoid().to(dtype), image)


MEAN = 123.68
WRONG = {
    "0..255 less a mean": (lambda x: x - MEAN, {}, {"scale": 1, "mean": MEAN}),
    "0..255": (lambda x: x, {}, {"scale": 1}),
    "0..255 with ImageNet's": (lambda x: x, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
                               {"scale": 1}),
    "statistics in 0..255": (lambda x: (x - MEAN) / 58.4, {"mean": MEAN, "std": 58.4},
                             {"scale": 1, "mean": MEAN, "std": 58.4}),
    "statistics left out": (lambda x: (x / 255 - 0.485) / 0.229, {},
                            {"mean": 0.485, "std": 0.229}),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_image_far_outside_of_its_scale_is_noticed_once_and_the_way_out_is_one(case):
    normalised, wrong, right = WRONG[case]
    image = normalised(photograph(40, 41))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = wrapped(**wrong)
        model(image)
        model(image)
    assert sum("far outside of 0..255" in str(w.message) for w in seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = wrapped(**right)
        model(image)
    torch.testing.assert_close(model._guide(image), photograph(40, 41), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("noise", [0, 25])
def test_images_within_their_scale_cause_no_warning(noise, silent):
    image = photograph(40, 41)
    image = image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(t)[:, None, None] for t in (IMAGENET_MEAN, IMAGENET_STD))
    wrapped(mean=IMAGENET_MEAN, std=IMAGENET_STD)((image / 255 - mean) / std)
    wrapped()(image / 255)
    wrapped(scale=1)(image)


@pytest.mark.parametrize("padding", [-100.0, float("nan")])
def test_padding_outside_of_the_mask_is_not_judged_and_the_image_is(padding):
    model, raw = wrapped(), photograph(20, 21, batch=2)
    mask = torch.ones(2, 20, 21, dtype=torch.bool)
    mask[:, 15:] = False
    image = (raw / 255).where(mask[:, None], padding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(image, mask=torch.zeros_like(mask))  # decides nothing
        model(image, mask=mask)
    with pytest.warns(UserWarning, match="far outside of 0..255"):
        wrapped()(image * 255, mask=mask)


def test_a_constant_image_decides_nothing_and_the_next_one_is_judged():
    model = wrapped()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.zeros(1, 3, 40, 41))
    with pytest.warns(UserWarning, match="far outside of 0..255"):
        model(photograph(40, 41))


@pytest.mark.parametrize("name", ["kernel_weights", "compatibility"])
@pytest.mark.parametrize("value, message", [
    (1.3e37, "times the compatibility is .*e.37"), (float("nan"), "contains NaN"),
    (float("inf"), "contains infinity"),
])
def test_parameters_that_diverged_name_the_learning_rate(name, value, message):
    crf = CRFRNN(3)
    with torch.no_grad():
        getattr(crf, name)[0, 1] = value
    with pytest.raises(ValueError, match=f"{message}.*learning rate is too large: see CRFRNN.par"):
        crf(*make.problem(0, 5, 6, dtype=torch.float32))


# --- another image as the guide ------------------------------------------------------------------


def test_a_guide_takes_the_place_of_the_image_in_the_head_alone():
    model, raw = wrapped(mean=0.5, std=0.25), photograph(20, 21, batch=2)
    image = (raw / 255 - 0.5) / 0.25
    erased = image.clone()
    erased[..., 5:15, 5:15] = 0
    wanted = model.crf(model.backbone(erased), raw)
    assert torch.equal(model(erased, guide=raw), wanted)
    assert not torch.equal(model(erased), wanted)
    refined, outputs = model(erased, guide=raw, return_outputs=True)
    assert torch.equal(refined, wanted)
    assert torch.equal(model.refine(outputs, erased, guide=raw), wanted)
    torch.testing.assert_close(model(image, guide=raw), model(image), rtol=1e-4, atol=1e-4)


def test_a_guide_of_another_size_is_refused_and_gradients_reach_it():
    model, raw = wrapped(), photograph(20, 21)
    with pytest.raises(ValueError, match="image is 20 x 20 but logits is 20 x 21"):
        model(raw / 255, guide=raw[..., 1:])
    guide = raw.clone().requires_grad_()
    model(raw / 255, guide=guide).square().sum().backward()
    assert (guide.grad != 0).any()


# --- images of several sizes ---------------------------------------------------------------------

SIZES = ((17, 20), (23, 11), (8, 24))


def samples(sizes=SIZES, **options):
    found = []
    for seed, size in enumerate(sizes):
        image = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))
        target = (image.sum(0) > 1.5).long()
        found.append((image, target))
    return found


@pytest.mark.parametrize("changes", [{}, {"theta_gamma": 3.0, "spatial": "lattice"}])
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("sizes", [SIZES, ((3, 9, 7), (4, 5, 8)), ((6, 7),)])
def test_padded_batches_equal_each_image_alone(sizes, multiple, changes):
    given = samples(sizes)
    conv = torch.nn.Conv2d if len(sizes[0]) == 2 else torch.nn.Conv3d
    torch.manual_seed(0)
    model = CRFRNN.wrap(conv(3, 2, 1), 2, params=make.small_params(**changes)).double()
    images, targets, mask = collate_padded(
        [(image.double(), target) for image, target in given], multiple=multiple
    )
    assert all(n % multiple == 0 for n in images.shape[2:])
    refined = model(images, mask=mask)
    loss = torch.nn.functional.cross_entropy(refined, targets, ignore_index=255, reduction="sum")
    alone = 0
    for found, inside, label, (image, target) in zip(refined, mask, targets, given, strict=True):
        part = tuple(slice(n) for n in target.shape)
        one = model(image[None].double())
        torch.testing.assert_close(found[(slice(None), *part)], one[0], rtol=1e-6, atol=1e-6)
        assert inside[part].all() and inside.sum() == target.numel()
        assert torch.equal(label[part], target) and (label[~inside] == 255).all()
        alone = alone + torch.nn.functional.cross_entropy(one, target[None], reduction="sum")
    torch.testing.assert_close(loss, alone, rtol=1e-6, atol=1e-6)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(alone, parameters),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_padding_moves_the_cells_of_the_grid_by_less_than_its_accuracy():
    """The grid of 40 pixels, alone and as a part of longer ones: both near the Gaussian."""
    sigma, pixels = 3.0, 40
    steps = np.arange(pixels)
    gauss = np.exp(-0.5 * (steps[:, None] - steps) ** 2 / sigma**2)
    alone = grid.matrix(grid.axis(pixels, sigma))
    for padded in range(pixels + 1, pixels + 9):
        within = grid.matrix(grid.axis(padded, sigma))[:pixels, :pixels]
        assert np.abs(within - gauss).max() < 0.02 and np.abs(alone - gauss).max() < 0.02
        assert 1e-6 < np.abs(within - alone).max()


def test_padded_batches_are_what_a_data_loader_yields():
    given = [{"image": image, "target": target, "name": str(n)}
             for n, (image, target) in enumerate(samples())]
    (batch,) = torch.utils.data.DataLoader(given, batch_size=3, collate_fn=collate_padded)
    wanted = collate_padded(samples())
    assert batch["name"] == ["0", "1", "2"]
    for name, tensor in zip(("image", "target", "mask"), wanted, strict=True):
        assert torch.equal(batch[name], tensor)
    images, targets, _ = collate_padded(samples(), fill=-7, ignore_index=-1)
    assert (images[0, :, -1] == -7).all() and (targets[0, -1] == -1).all()


def test_a_mask_of_a_sample_stays_and_padding_is_added_to_it():
    given = [{"image": image, "target": target, "mask": image[0] > 0.5}
             for image, target in samples()]
    found = collate_padded(given)["mask"]
    _, _, there = collate_padded(samples())
    assert not found[~there].any()
    for mask, sample in zip(found, given, strict=True):
        height, width = sample["mask"].shape
        assert torch.equal(mask[:height, :width], sample["mask"])


def test_integer_images_are_padded_with_what_they_can_hold():
    given = [((image * 255).to(torch.uint8), target) for image, target in samples()]
    images, _, mask = collate_padded(given, fill=127)
    assert images.dtype == torch.uint8 and (images.permute(0, 2, 3, 1)[~mask] == 127).all()
    with pytest.raises(ValueError, match=r"uint8, which cannot hold fill 0.5; convert it"):
        collate_padded(given, fill=0.5)


SAMPLE = {"image": torch.zeros(3, 4, 5), "target": torch.zeros(4, 5).long()}


@pytest.mark.parametrize("given, error, message", [
    ([], ValueError, "samples is empty"),
    ([torch.zeros(3, 4, 5)], TypeError, "a sample is Tensor; it must be a pair"),
    ([{"image": 1, "mask": 2}], TypeError, "a sample is dict with 'image', 'mask'; it must be"),
    ([(1, 2)], TypeError, "an image is int; it must be a tensor"),
    ([(torch.zeros(3, 4, 5), torch.zeros(5, 4))], ValueError, r"\(3, 4, 5\) and its target \(5, 4"),
    ([(torch.zeros(3, 4, 5), torch.zeros(4, 5)), (torch.zeros(1, 4, 5), torch.zeros(4, 5))],
     ValueError, r"images have shapes \(3, 4, 5\) and \(1, 4, 5\)"),
    ([(torch.zeros(3, 4, 5), torch.zeros(4, 5).bool())], ValueError,
     r"a target has dtype torch.bool, which cannot hold ignore_index 255.*\(target.long\(\)\)"),
    ([(torch.zeros(3, 4, 5), torch.zeros(4, 5).to(torch.int8))], ValueError, "int8, which cannot"),
    ([SAMPLE, {**SAMPLE, "name": 1}], ValueError,
     "differ in their entries: 'image', 'target' and 'image', 'name', 'target'"),
    ([SAMPLE, tuple(SAMPLE.values())], ValueError, "'image', 'target' and a pair"),
    ([{**SAMPLE, "mask": torch.ones(4, 5)}], ValueError, r"a mask has dtype torch.float32.*bool"),
    ([{**SAMPLE, "mask": torch.ones(1, 4, 5) > 0}], ValueError, r"shape \(1, 4, 5\), and its tar"),
])
def test_samples_that_cannot_be_joined_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        collate_padded(given)


# --- memory --------------------------------------------------------------------------------------


def kept(run, given):
    """Bytes of what autograd keeps, other than the arguments."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(*given)
    return sum(n for at, n in seen.items()
               if at not in {t.untyped_storage().data_ptr() for t in given})


def test_a_budget_lowers_what_is_kept_and_checkpointing_bounds_it():
    logits = make.problem(0, 64, 65, labels=21, dtype=torch.float32)[0].requires_grad_()
    # Engine "cpu" reserves memory that it may leave untouched, so its size tells nothing.
    crf = CRFRNN(21, iterations=10, params=CRFParams(theta_beta=60), backend="torch")
    image = photograph(64, 65)
    low = copy.deepcopy(crf)
    low.memory_budget = 1
    checkpointed = kept(
        lambda *given: torch.utils.checkpoint.checkpoint(crf, *given, use_reentrant=False),
        (logits, image),
    )
    assert checkpointed == 0 < kept(low, (logits, image)) < kept(crf, (logits, image))
