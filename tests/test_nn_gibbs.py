"""GibbsCRF: its gradient is the likelihood's, its chains persist, and it learns repulsion."""

import os
import pickle
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gibbs_problems import OFFSETS, SMALL, Enumerated, model  # noqa: E402
from processes import results_of_two  # noqa: E402

from densecrf_rnn import CRFRNN, CRFParams, GibbsCRF, gibbs  # noqa: E402
from densecrf_rnn.gibbs import schedules  # noqa: E402
from densecrf_rnn.nn import ChainStore  # noqa: E402
from densecrf_rnn.nn.gibbs.crf import Method  # noqa: E402


def crf_of(tables, offsets=OFFSETS, **options):
    crf = GibbsCRF(tables.shape[1], offsets, **options)
    with torch.no_grad():
        crf.tables.copy_(torch.from_numpy(tables))
    return crf


def small(name="3 x 3, L = 3", images=1, backend="auto"):
    """A CRF, logits [B, L, H, W] that are leaves, and the truth."""
    logits, tables = model(*SMALL[name])
    batch = torch.from_numpy(logits).repeat(images, 1, 1, 1).requires_grad_()
    return crf_of(tables, backend=backend), batch, Enumerated(*SMALL[name])


# --- the gradient --------------------------------------------------------------------------------


def test_gradient_is_one_hot_and_pair_differences_exactly(backend):
    crf, logits, truth = small(images=3, backend=backend)
    target = torch.randint(0, 3, (3, 3, 3))
    chains = ChainStore().chains([0, 1, 2], logits)
    crf.loss(logits, target, chains, reduction="sum").backward()
    one_hot = [torch.nn.functional.one_hot(y.long(), 3).movedim(-1, 1).float()
               for y in (chains.labels, target)]  # fmt: skip
    torch.testing.assert_close(logits.grad, one_hot[0] - one_hot[1], rtol=0, atol=0)
    pairs = [
        sum(gibbs.statistics(y.numpy(), 3, OFFSETS) for y in labels.int())
        for labels in (chains.labels, target)
    ]
    np.testing.assert_array_equal(crf.tables.grad.numpy(), pairs[0] - pairs[1])


def test_value_is_the_score_of_the_sample_less_that_of_the_target(backend):
    crf, logits, _ = small(images=2, backend=backend)
    target = torch.randint(0, 3, (2, 3, 3))
    chains = ChainStore().chains([4, 5], logits)
    loss = crf.loss(logits, target, chains)
    tables = crf.tables.detach().numpy()
    arrays = logits.detach().numpy()
    scores = [
        sum(gibbs.score(x, y.numpy(), tables, OFFSETS) for x, y in zip(arrays, labels.int()))
        for labels in (chains.labels, target)
    ]
    assert loss.item() == pytest.approx((scores[0] - scores[1]) / target.numel(), abs=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_expected_gradient_is_that_of_the_log_likelihood(name):
    """64 chains, 100 gradients each: within five standard errors of the enumerated gradient."""
    chains_count = 64
    crf, logits, truth = small(name, images=chains_count)
    y = truth.labellings[len(truth.labellings) // 3]
    target = torch.from_numpy(y.astype(np.int64)).repeat(chains_count, 1, 1)
    marginals, pairs = truth.expectations(logits[0].detach().numpy(), crf.tables.detach().numpy())
    exact = [
        marginals - truth.one_hot[truth.number(y)],
        pairs - truth.pairs[truth.number(y)],
    ]
    chains = ChainStore().chains(range(chains_count), logits)
    for _ in range(20):  # burn-in
        crf.loss(logits, target, chains)
    found = np.zeros((100, *exact[1].shape))
    for draw in range(100):
        loss = crf.loss(logits, target, chains, reduction="sum")
        loss.backward()
        found[draw] = crf.tables.grad.numpy() / chains_count
        crf.tables.grad = None
    each = logits.grad.numpy() / 100  # of each chain
    for mean, error, wanted in (
        (each.mean(0), each.std(0, ddof=1) / 8, exact[0]),
        # Draws of one chain are correlated; ten batches of ten stand further apart.
        (found.mean(0), found.reshape(10, 10, -1).mean(1).std(0, ddof=1).reshape(exact[1].shape)
         / np.sqrt(10), exact[1]),
    ):  # fmt: skip
        assert error.max() < 0.03
        assert (np.abs(mean - wanted) <= 5 * error + 0.01).all()


@pytest.mark.parametrize("name", SMALL)
def test_learning_reaches_the_enumerated_maximum_of_the_likelihood(name):
    """Within 0.01 nats per labelling of what exact gradient ascent by enumeration reaches."""
    truth = Enumerated(*SMALL[name])
    logits, tables = model(*SMALL[name], spread=0.7)
    rng = np.random.default_rng(1)
    images = 300
    drawn = rng.choice(len(truth.labellings), images, p=truth.probabilities(logits, tables))
    target = torch.from_numpy(truth.labellings[drawn].astype(np.int64))

    def mean_log_likelihood(crf):
        p = truth.probabilities(logits, crf.tables.detach().numpy())
        return float(np.log(p[drawn]).mean())

    exact = GibbsCRF(len(logits), OFFSETS)
    data = truth.pairs[drawn].mean(0)
    for _ in range(600):  # convex, so plain ascent finds the maximum
        _, pairs = truth.expectations(logits, exact.tables.detach().numpy())
        with torch.no_grad():
            exact.tables += 0.1 * torch.from_numpy(data - pairs)
    best = mean_log_likelihood(exact)

    crf, store = GibbsCRF(len(logits), OFFSETS), ChainStore()
    at_first = mean_log_likelihood(crf)
    batch = torch.from_numpy(logits).repeat(images, 1, 1, 1)
    chains = store.chains(range(images), batch)
    pixels, steps = target[0].numel(), 400
    average = torch.zeros_like(crf.tables)
    for step in range(steps):
        crf.tables.grad = None
        (crf.loss(batch, target, chains) * pixels).backward()
        with torch.no_grad():
            crf.tables -= 0.1 * crf.tables.grad
            average += crf.tables * (step >= steps // 2) / (steps // 2)
    crf.tables.data = average  # the mean of the second half, in which noise cancels
    assert at_first < best - 0.2  # there is something to learn
    assert best - 0.01 < mean_log_likelihood(crf) <= best + 1e-4
    assert crf.statistics_gap(target, chains).max() < 0.05


def test_network_learns_through_the_loss_and_alone_when_frozen():
    """End to end and separate, the paper's two ways."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    crf, store = GibbsCRF(3, OFFSETS), ChainStore()
    image, target = torch.randn(2, 1, 6, 7), torch.randint(0, 3, (2, 6, 7))
    for separate in (False, True):
        network.zero_grad()
        crf.zero_grad()
        logits = network(image)
        chains = store.chains([0, 1], logits)
        crf.loss(logits.detach() if separate else logits, target, chains).backward()
        assert (network.weight.grad is None) == separate
        assert (crf.tables.grad != 0).any()


def test_ignored_and_masked_pixels_have_no_gradient(backend):
    crf, logits, _ = small(images=2, backend=backend)
    target = torch.randint(0, 3, (2, 3, 3))
    target[0, 1] = 255
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[1, :, 2] = False
    target[1, 0, 2] = 99  # whatever stands where the mask is False
    chains = ChainStore().chains([0, 1], logits)
    before = chains.labels.clone()
    crf.loss(logits, target, chains, mask=mask, sweeps=3).backward()
    out = ~mask | (target == 255)
    assert (logits.grad.movedim(1, -1)[out] == 0).all()
    assert torch.equal(chains.labels[out], before[out])
    assert torch.isfinite(logits.grad).all()
    nothing = torch.zeros_like(mask)
    assert crf.loss(logits, target, chains, mask=nothing).item() == 0


# --- inference -----------------------------------------------------------------------------------


def test_marginals_are_those_of_numpy_whatever_the_batch(backend):
    crf, logits, _ = small(images=2, backend=backend)
    with torch.no_grad():
        logits[1] += torch.randn(3, 3, 3)
    for chains in (1, 3):
        q = crf.marginals(logits, sweeps=30, burn_in=4, chains=chains, seed=9)
        for image in range(2):
            wanted = gibbs.marginals(
                logits[image].detach().numpy(), crf.tables.detach().numpy(), OFFSETS, sweeps=30,
                burn_in=4, chains=chains, seed=9,
            )  # fmt: skip
            np.testing.assert_array_equal(q[image].numpy(), wanted)
        assert not q.requires_grad
        crf.sweeps, crf.burn_in = 30, 4
        assert torch.equal(crf(logits, seed=9, chains=chains), q)
        assert torch.equal(crf.decode(logits, seed=9, chains=chains), q.argmax(1))
    crf.chains = 3
    assert torch.equal(crf(logits, seed=9), q)


def test_a_module_pickled_before_it_had_chains_uses_one():
    crf, logits, _ = small()
    wanted = crf.marginals(logits)
    del crf.__dict__["chains"]
    assert torch.equal(crf.marginals(logits), wanted) and "chains=1" in repr(crf)


def test_chains_without_a_target_are_a_number():
    crf, logits, _ = small()
    with pytest.raises(TypeError, match="chains is"):
        crf(logits, None, ChainStore().chains(range(len(logits)), logits))
    with pytest.raises(ValueError, match="chains is 0"):
        crf.decode(logits, chains=0)
    with pytest.raises(ValueError, match="chains is 0"):
        GibbsCRF(3, OFFSETS, chains=0)


def test_samples_are_those_of_numpy(backend):
    crf, logits, _ = small(images=2, backend=backend)
    tables = crf.tables.detach().numpy()
    found = crf.sample(logits, sweeps=3, seed=2)
    for chain in range(2):
        array = logits[chain].detach().numpy()
        labels = gibbs.start(array, seed=2, chain=chain)
        labels, _ = gibbs.sweep(
            array, labels, tables, OFFSETS, sweeps=3, first_sweep=1, seed=2, chain=chain
        )
        np.testing.assert_array_equal(found[chain].numpy(), labels)


@pytest.mark.parametrize("method", get_args(Method))
def test_decoding_finds_the_likely_labels_and_leaves_masked_ones(method, backend):
    logits, tables = model(3, 3, 3, seed=3)
    truth = Enumerated(3, 3, 3)
    crf = crf_of(3 * tables, backend=backend)
    batch = torch.from_numpy(logits)[None]
    sweeps = {} if method == "icm" else {"sweeps": 400}
    found = crf.decode(batch, method=method, **sweeps)[0].numpy()
    if method == "icm":
        p = gibbs.conditional(logits, found, 3 * tables, OFFSETS)
        np.testing.assert_array_equal(p.argmax(0), found)
    elif method == "annealed":
        p = truth.probabilities(logits, 3 * tables)
        np.testing.assert_array_equal(found, truth.labellings[p.argmax()])
    else:
        marginals, _ = truth.expectations(logits, 3 * tables)
        np.testing.assert_array_equal(found, marginals.argmax(0))
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 0] = True
    found = crf.decode(batch, method=method, mask=mask)
    assert torch.equal(found[:, 1:], batch.argmax(1)[:, 1:])


@pytest.mark.parametrize(
    ("method", "name"),
    [("annealed", "burn_in"), ("annealed", "chains"), ("icm", "sweeps"), ("icm", "burn_in"),
     ("icm", "chains")],
)  # fmt: skip
def test_decoding_refuses_what_its_method_does_not_use(method, name):
    words = f"{name} is given, but method='{method}' has none; leave it out"
    with pytest.raises(ValueError, match=words):
        GibbsCRF(3, OFFSETS).decode(torch.zeros(1, 3, *SIZE[-2:]), method=method, **{name: 2})


def test_decoding_runs_the_schedules_of_the_numpy_interface(monkeypatch):
    """One change to a schedule reaches both."""
    logits, tables = model(4, 9, 8, seed=1)
    crf, batch = crf_of(tables), torch.from_numpy(logits)[None]

    def annealed():
        ours = gibbs.annealed(logits, tables, OFFSETS, sweeps=5, seed=2)
        np.testing.assert_array_equal(
            crf.decode(batch, method="annealed", sweeps=5, seed=2)[0].numpy(), ours
        )
        return ours

    def icm():
        ours = gibbs.icm(logits, logits.argmax(0), tables, OFFSETS)
        np.testing.assert_array_equal(crf.decode(batch, method="icm")[0].numpy(), ours)
        return ours

    before = annealed(), icm()
    monkeypatch.setattr(schedules, "GREEDY", np.full(1, 0.1, np.float32))
    after = annealed(), icm()
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_an_unknown_method_of_decoding_is_refused():
    with pytest.raises(ValueError, match="method is 'icn'; choose from 'marginals', 'annealed'"):
        GibbsCRF(3, OFFSETS).decode(torch.zeros(SIZE), method="icn")


def test_empty_batches_are_empty():
    crf = GibbsCRF(3, OFFSETS)
    assert crf.marginals(torch.zeros(0, 3, 4, 5)).shape == (0, 3, 4, 5)
    assert crf.decode(torch.zeros(0, 3, 4, 5)).shape == (0, 4, 5)


# --- chains --------------------------------------------------------------------------------------


def after(crf, logits, target, store, batches):
    """Labels and sweeps of all chains after some batches."""
    for index in batches:
        chains = store.chains(index, logits[index])
        crf.loss(logits[index], target[index], chains)
        store.keep(chains)
    everyone = store.chains(range(len(logits)), logits)
    return everyone.labels, everyone.sweeps


def problem(images=4):
    crf, logits, _ = small(images=images)
    return crf, logits.detach(), torch.zeros(images, 3, 3).long()


def test_chains_do_not_depend_on_batches():
    crf, logits, target = problem()
    at_once = after(crf, logits, target, ChainStore(3), [[0, 1, 2, 3], [0, 1, 2, 3]])
    mixed = after(crf, logits, target, ChainStore(3), [[3, 1], [0, 2], [2], [1, 0, 3]])
    assert torch.equal(at_once[0], mixed[0]) and at_once[1] == mixed[1] == [3, 3, 3, 3]


def test_chains_go_on_after_saving_and_loading(tmp_path):
    crf, logits, target = problem()
    store, straight = ChainStore(3), ChainStore(3)
    after(crf, logits, target, store, [[0, 1], [2, 3]])
    store.save(tmp_path / "chains.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["chains.pt"]  # nothing half-written
    found = after(crf, logits, target, ChainStore.load(tmp_path / "chains.pt"), [[0, 1, 2, 3]])
    wanted = after(crf, logits, target, straight, [[0, 1], [2, 3], [0, 1, 2, 3]])
    assert torch.equal(found[0], wanted[0]) and found[1] == wanted[1]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    crf, logits, target = problem()
    store = ChainStore()
    store.save(tmp_path / "chains.pt")
    before = (tmp_path / "chains.pt").read_bytes()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.save(tmp_path / "chains.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["chains.pt"]
    assert (tmp_path / "chains.pt").read_bytes() == before


def test_a_stored_labelling_takes_one_byte_a_pixel():
    store, logits = ChainStore(), torch.zeros(2, 5, 30, 40)
    store.keep(store.chains([0, 1], logits))
    sizes = [labels.untyped_storage().nbytes() for labels in store._labels.values()]
    assert sizes == [30 * 40, 30 * 40]


def test_store_and_module_survive_pickling_and_state_dicts():
    crf, logits, target = problem()
    store = ChainStore(3)
    after(crf, logits, target, store, [[0, 1]])
    other = pickle.loads(pickle.dumps(store))
    assert other._sweeps == store._sweeps
    twin = GibbsCRF(3, OFFSETS)
    twin.load_state_dict(crf.state_dict())
    assert torch.equal(twin.marginals(logits, 3, 0), crf.marginals(logits, 3, 0))


WORKER = """
from densecrf_rnn.nn import ChainStore
from test_nn_gibbs import problem

crf, logits, target = problem()
model, store = DistributedDataParallel(crf), ChainStore(3)
for index in ([2 * rank, 2 * rank + 1], [1 - rank, 3 - rank]):  # shuffled between the epochs
    crf.zero_grad()
    chains = store.chains(index, logits[index])
    model(logits[index], target[index], chains).backward()
    store.keep(chains)
    store.synchronize()
everyone = store.chains(range(4), logits)
torch.save([crf.tables.grad, everyone.labels, everyone.sweeps], result)
"""


def test_two_processes_learn_as_one(tmp_path):
    results = results_of_two(WORKER, tmp_path)
    crf, logits, target = problem()
    store = ChainStore(3)
    after(crf, logits, target, store, [[0, 1, 2, 3]])
    chains = store.chains(range(4), logits)
    crf.loss(logits, target, chains).backward()
    for gradient, labels, sweeps in results:
        torch.testing.assert_close(gradient, crf.tables.grad)
        assert torch.equal(labels, chains.labels) and sweeps == chains.sweeps


# --- what it can learn that mean field with Gaussian kernels cannot ------------------------------


def bodies(count, seed, size=(12, 24), half=5):
    """A body of two parts, left (1) and right (2), whose logits tell body from background alone."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(count, *size, dtype=torch.long)
    for y in target:
        top, left = (int(torch.randint(1, n, (1,), generator=generator)) for n in (3, 12))
        y[top : top + 8, left : left + half] = 1
        y[top : top + 8, left + half : left + 2 * half] = 2
    evidence = (target > 0) * 4.0 - 2 + torch.randn(target.shape, generator=generator)
    logits = torch.stack([torch.zeros_like(evidence), evidence, evidence], 1)
    return logits, target


def accuracy(labels, target):
    """Of the pixels of parts, as the paper scores."""
    parts = target > 0
    return float((labels == target)[parts].float().mean())


def test_gibbs_crf_learns_the_order_of_parts_that_a_crfrnn_cannot_tell():
    """Left and right parts have equal logits everywhere, and a Gaussian kernel looks both ways.

    Mirror a picture, and a CRF-RNN's logits mirror too, whatever it has learned: at the two pixels
    that change places it says the same label, where the truth has two. So half is its best.
    """
    logits, target = bodies(24, seed=0)
    held_out = bodies(16, seed=1)
    torch.manual_seed(0)
    crf, store = GibbsCRF(3, [(0, 1), (1, 0), (0, 5)]), ChainStore()
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.1)
    for _ in range(150):
        chains = store.chains(range(24), logits)
        optimizer.zero_grad()
        crf.loss(logits, target, chains).backward()
        optimizer.step()
        store.keep(chains)
    ours = accuracy(crf.decode(held_out[0], sweeps=100, burn_in=100), held_out[1])

    params = CRFParams(theta_alpha=3, theta_beta=60, theta_gamma=3, w_bilateral=1, w_spatial=1)
    theirs = CRFRNN(3, params=params, kernel_weights="full", method="exact")
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.05)

    def refined(logits):
        return theirs(logits, logits[:, 1:2] * 60)

    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(refined(logits[:8]), target[:8]).backward()
        optimizer.step()
    with torch.no_grad():
        found = refined(held_out[0])
        mirrored = refined(held_out[0].flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, found, rtol=1e-3, atol=1e-3)
    assert ours > 0.9
    assert accuracy(found.argmax(1), held_out[1]) < 0.6
    # The table of the offset between the parts: right of a left part stands a right one.
    across = crf.tables[2].detach()
    assert across[1, 2] > max(across[1, 1], across[2, 1], across[2, 2])


def test_the_example_of_the_document_runs():
    document = Path(__file__).parents[1] / "docs" / "gibbs.md"
    if not document.is_file():
        pytest.skip("the documents are not installed with the package")
    (block,) = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    names = {}
    exec(compile(block, "docs/gibbs.md", "exec"), names)
    assert names["labels"].shape == (8, 24, 32)
    assert (names["crf"].tables != 0).any() and len(names["store"]) == 8


# --- bad input -----------------------------------------------------------------------------------

SIZE = (2, 3, 4, 5)


def call(**given):
    """`loss` with one argument that is bad."""
    crf = given.get("crf") or GibbsCRF(3, OFFSETS)
    good = torch.zeros(SIZE)
    logits = given.get("logits", good)
    target = given.get("target", torch.zeros(2, 4, 5).long())
    chains = given["chains"] if "chains" in given else ChainStore().chains([0, 1], good)
    options = {k: v for k, v in given.items() if k not in ("crf", "logits", "target", "chains")}
    return crf.loss(logits, target, chains, **options)


def filled(value):
    logits = torch.zeros(SIZE)
    logits[1, 2, 3, 4] = value
    return logits


def wrecked():
    crf = GibbsCRF(3, OFFSETS)
    crf.tables.data[0, 0, 0] = float("nan")
    return crf


OTHER_SIZE = ChainStore().chains([0, 1], torch.zeros(2, 3, 5, 4))
NINE_LABELS = torch.zeros(2, 9, 4, 5) + 99 * torch.eye(9)[8, :, None, None]
OTHER_LABELS = ChainStore().chains([0, 1], NINE_LABELS)
LABELS = torch.zeros(2, 4, 5).long()
LOSSES = {
    "NaN": ({"logits": filled(float("nan"))}, ValueError, r"logits contains NaN \(1 entry\)"),
    "infinity": ({"logits": filled(-float("inf"))}, ValueError, "logits contains infinity"),
    "double": ({"logits": torch.zeros(SIZE).double()}, TypeError, r"float64; .*\.float\(\)"),
    "volume": ({"logits": torch.zeros(2, 3, 4, 5, 6)}, ValueError, "takes images"),
    "array": ({"logits": np.zeros(SIZE)}, TypeError, "must be a tensor"),
    "other labels": ({"logits": torch.zeros(2, 4, 4, 5)}, ValueError, "4 labels but this GibbsCRF"),
    "small image": ({"crf": GibbsCRF(3, [(0, 5)])}, ValueError, r"\(0, 5\) but the image is"),
    "huge": ({"logits": filled(1e31)}, ValueError, "rescale"),
    "NaN table": ({"crf": wrecked()}, ValueError, "tables contains NaN"),
    "wide": ({"crf": GibbsCRF(3, OFFSETS).double()}, TypeError, "tables are torch.float64"),
    "target size": ({"target": LABELS.mT}, ValueError, "target is 2 x 5 x 4 but"),
    "target label": ({"target": LABELS + 3}, ValueError, "the label 3 but there are 3"),
    "target below": ({"target": LABELS - 1}, ValueError, "the label -1"),
    "float target": ({"target": LABELS.float()}, TypeError, "target has dtype float32"),
    "other chains": ({"chains": OTHER_SIZE}, ValueError, "labels is 2 x 5 x 4 but logits is 2 x 4"),
    "labels of another": ({"chains": OTHER_LABELS}, ValueError, "labels holds the label 8 but"),
    "no chains": ({"chains": LABELS}, TypeError, r"chains is Tensor; .*ChainStore\(\)"),
    "mask": ({"mask": LABELS[..., 1:] > 0}, ValueError, "mask is 2 x 4 x 4 but"),
    "float mask": ({"mask": LABELS.float()}, TypeError, "mask has dtype float32"),
    "ignored label": ({"ignore_index": 2}, ValueError, "ignore_index is 2, which is one"),
    "half an index": ({"ignore_index": 1.5}, TypeError, "ignore_index is float; it must"),
    "no index": ({"ignore_index": None}, TypeError, "ignore_index is None"),
    "reduction": ({"reduction": "none"}, ValueError, "reduction is 'none'"),
    "no sweeps": ({"sweeps": 0}, ValueError, "sweeps is 0"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_bad_input_of_the_loss_is_refused_in_one_sentence(case):
    given, error, message = LOSSES[case]
    with pytest.raises(error, match=message) as caught:
        call(**given)
    assert "\n" not in str(caught.value)


def test_one_logit_per_pixel_is_refused_with_the_pair_that_it_stands_for():
    x = torch.randn(2, 1, 4, 5)
    with pytest.raises(ValueError, match=r"num_classes is 1, .* GibbsCRF\(2\).*zeros_like\(x\)"):
        GibbsCRF(1)
    for call in (GibbsCRF(2, OFFSETS), lambda logits: ChainStore().chains([0, 1], logits)):
        with pytest.raises(ValueError, match="one label, .*zeros_like") as caught:
            call(x)
    way_out = str(caught.value).split("pass ")[1].split(" to a")[0]
    pair = eval(way_out, {"torch": torch, "logits": x})
    found = GibbsCRF(2, OFFSETS, sweeps=1).decode(pair, method="icm")
    assert torch.equal(found, (x[:, 0] > 0).long())


def test_statistics_gap_counts_what_the_loss_counts():
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[:, :, :3] = True
    target = LABELS.where(mask, 99)  # no label, outside
    logits = torch.zeros(SIZE)
    logits[:, 0] = 50  # draws the target
    crf, chains = GibbsCRF(3, OFFSETS), ChainStore().chains([0, 1], torch.zeros(SIZE))
    crf.loss(logits, target, chains, mask=mask)
    assert (chains.labels != 0).any()  # outside the mask, where they were
    assert (crf.statistics_gap(target, chains, mask=mask) == 0).all()
    ignored = target.where(mask, -1)
    assert (crf.statistics_gap(ignored, chains, ignore_index=-1) == 0).all()


GAPS = {
    "no chains": ({"chains": None}, TypeError, "chains is NoneType; it must be Chains"),
    "array": ({"target": np.zeros((2, 4, 5), int)}, TypeError, "target is ndarray; it must be a t"),
    "other size": ({"target": LABELS.mT}, ValueError, "target is 2 x 5 x 4 but"),
    "labels of another": ({"chains": OTHER_LABELS}, ValueError, "labels holds the label 8 but"),
    "small image": ({"crf": GibbsCRF(3, [(0, 5)])}, ValueError, r"\(0, 5\) but the image is"),
    "mask": ({"mask": LABELS[..., 1:] > 0}, ValueError, "mask is 2 x 4 x 4 but"),
    "ignored label": ({"ignore_index": 2}, ValueError, "ignore_index is 2, which is one"),
}


@pytest.mark.parametrize("case", GAPS)
def test_bad_input_of_the_statistics_gap_is_refused_in_one_sentence(case):
    given, error, message = GAPS[case]
    usual = {"crf": GibbsCRF(3, OFFSETS), "target": LABELS,
             "chains": ChainStore().chains([0, 1], torch.zeros(SIZE))}  # fmt: skip
    given = {**usual, **given}
    with pytest.raises(error, match=message) as caught:
        given.pop("crf").statistics_gap(**given)
    assert "\n" not in str(caught.value)


def test_loss_needs_chains_with_a_target():
    with pytest.raises(ValueError, match="target is given without chains"):
        GibbsCRF(3, OFFSETS)(torch.zeros(SIZE), torch.zeros(2, 4, 5).long())


@pytest.mark.parametrize(
    ("index", "message"),
    [(0, "index is int"), ([0], "1 numbers but logits 2"), ([1, 1], "twice"), ([0, -1], "is -1")],
)
def test_bad_numbers_of_images_are_refused(index, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ChainStore().chains(index, torch.zeros(SIZE))


def test_what_is_no_tensor_or_no_chains_is_refused():
    with pytest.raises(TypeError, match="logits is ndarray; it must be a tensor"):
        ChainStore().chains([0, 1], np.zeros(SIZE, np.float32))
    with pytest.raises(TypeError, match="chains is NoneType"):
        ChainStore().keep(None)


def test_a_chain_of_another_size_is_refused():
    store = ChainStore()
    store.keep(store.chains([0, 1], torch.zeros(SIZE)))
    with pytest.raises(ValueError, match="chain of image 1 is 4 x 5 but its logits are 5 x 5"):
        store.chains([1], torch.zeros(1, 3, 5, 5))
    with pytest.raises(ValueError, match="seed 1 but the store 0"):
        store.keep(ChainStore(1).chains([0], torch.zeros(1, 3, 4, 5)))


def test_a_file_without_chains_is_refused(tmp_path):
    torch.save({"tables": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"seed": 0, "sweeps": {0: 1}, "labels": 3}, tmp_path / "half.pt")
    torch.save({"seed": 0, "sweeps": {0: 1}, "labels": {0: [1]}}, tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no chains")
    for name in ("other.pt", "half.pt", "list.pt", "text.pt"):
        with pytest.raises(ValueError, match="does not hold chains"):
            ChainStore.load(os.fspath(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        ChainStore.load(tmp_path / "nothing.pt")


def test_low_precision_is_computed_with_under_autocast_alone():
    crf, low = GibbsCRF(3, OFFSETS), torch.zeros(SIZE, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert crf.marginals(low, 2, 0).dtype == torch.float32
    with pytest.raises(TypeError, match="logits has dtype bfloat16"):
        crf.marginals(low)
