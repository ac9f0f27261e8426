"""Tiles on dask: the same marginals whatever the chunks, and whatever becomes of the workers."""

import contextlib
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import noisy_logits, picture, random_problem

from densecrf_rnn import CRFParams, refine, refine_dask, refine_tiled

da = pytest.importorskip("dask.array", reason="dask is not installed")

SMALL = CRFParams(theta_alpha=2, theta_beta=20, theta_gamma=1.9, w_bilateral=2, w_spatial=1)


def lazy(array, chunks):
    return da.from_array(array, chunks=chunks)


def problem(labels=3, size=(61, 53), dtype=np.float64):
    image = picture(*size)
    return noisy_logits(labels, image, dtype), image


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40))
    | st.sampled_from([(7, 9, 8), (1, 5, 30)]),
    cuts=st.lists(st.integers(1, 39), max_size=3),
    labels=st.sampled_from((1, 2, 5)),
    iterations=st.integers(0, 2),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_chunks_of_any_size_are_tiles(size, cuts, labels, iterations, masked, seed):
    logits, image = random_problem(labels, size, channels=2, seed=seed)
    ends = [[0, *sorted({cut for cut in cuts if cut < n}), n] for n in size]
    chunks = tuple(tuple(np.diff(end).tolist()) for end in ends)
    mask = np.random.default_rng(seed).random(size) < 0.8 if masked else None
    options = {"iterations": iterations, "spacing": (1.5, 1, 1)[-len(size) :]}
    q = refine_dask(
        lazy(logits, (1, *chunks)), lazy(image, -1), SMALL, halo="exact",
        mask=None if mask is None else lazy(mask, 5), **options,
    )  # fmt: skip
    assert q.shape == logits.shape and q.dtype == np.float32
    found = q.compute(scheduler="sync")
    assert found.dtype == np.float32
    want = refine(logits, image, SMALL, mask=mask, **options)
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-7)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("halo", [None, 0, 5, (0, 7)])
def test_equal_chunks_give_what_equal_tiles_give(halo, labels):
    logits, image = problem(size=(60, 48))
    options = {"halo": halo, "iterations": 3, "labels": labels}
    want = refine_tiled(logits, image, SMALL, tile=(20, 16), **options)
    q = refine_dask(lazy(logits, (1, 20, 16)), lazy(image, (7, 7, 1)), SMALL, **options)
    assert q.chunks[-2:] == ((20, 20, 20), (16, 16, 16)) and q.dtype == want.dtype
    np.testing.assert_array_equal(q.compute(scheduler="sync"), want)


def test_chunks_narrower_than_the_halo_are_joined():
    logits, image = problem(size=(60, 48))
    q = refine_dask(lazy(logits, (3, 10, 48)), lazy(image, 10), SMALL, halo=25, iterations=1)
    assert min(q.chunks[1]) >= 25 and sum(q.chunks[1]) == 60
    wide = refine_dask(lazy(logits, (3, 10, 48)), lazy(image, 10), SMALL, halo=1000)
    assert wide.npartitions == 1


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_any_scheduler_gives_the_same_bits(scheduler):
    logits, image = problem()
    q = refine_dask(lazy(logits, (3, 20, 20)), lazy(image, (20, 20, 3)), SMALL, iterations=2)
    want = q.compute(scheduler="sync")
    np.testing.assert_array_equal(q.compute(scheduler=scheduler, num_workers=2), want)


def test_nothing_is_computed_before_it_is_asked_for():
    def unread(block):
        raise AssertionError("read")

    logits, image = problem()
    unread_logits = lazy(logits, 20).map_blocks(unread, dtype=float, meta=logits[:0, :0, :0])
    q = refine_dask(unread_logits, lazy(image, 20), SMALL)
    assert q.shape == logits.shape
    pickle.dumps(refine_dask(lazy(logits, 20), lazy(image, 20), SMALL))


# --- a cluster -----------------------------------------------------------------------------------


def slow(block, folder):
    """The block, after a while; leaves a note of who was asked for it."""
    process = os.getpid()
    Path(folder, f"{process}-{time.monotonic_ns()}").touch()
    time.sleep(0.2)
    return block


def notes(folder):
    """The process of each note."""
    return [int(path.name.split("-")[0]) for path in Path(folder).iterdir()]


def test_a_worker_that_is_killed_changes_nothing(tmp_path):
    """Two worker processes, of which one is killed with tiles done and tiles to do."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    import dask

    logits, image = problem(size=(100, 80), dtype=np.float32)
    want = refine_tiled(logits, image, SMALL, tile=20, halo=9, iterations=2)
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 10}))
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
                silence_logs=50, local_directory=str(tmp_path / "spill"),
            )
        )  # fmt: skip
        client = stack.enter_context(distributed.Client(cluster))
        seen = tmp_path / "seen"
        seen.mkdir()
        slow_logits = lazy(logits, (3, 20, 20)).map_blocks(
            slow, folder=str(seen), dtype=logits.dtype, meta=logits[:0, :0, :0]
        )
        q = refine_dask(slow_logits, lazy(image, (20, 20, 3)), SMALL, halo=9, iterations=2)
        tiles_in_all = q.npartitions
        assert tiles_in_all == 5 * 4
        future = client.compute(q)
        deadline = time.monotonic() + 120
        while len(set(notes(seen))) < 2 or len(notes(seen)) < tiles_in_all // 3:
            assert time.monotonic() < deadline and future.status == "pending"
            time.sleep(0.02)
        victim = notes(seen)[0]
        assert future.status == "pending"
        os.kill(victim, signal.SIGKILL)
        found = future.result(timeout=120)
        asked = notes(seen)
    np.testing.assert_array_equal(found, want)
    assert len(asked) > tiles_in_all, "nothing that the worker held was lost with it"


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"logits": np.zeros((2, 3, 4))}, TypeError, "logits is ndarray; it must be a dask array"),
        ({"image": [1]}, TypeError, "image is list; it must be a dask array"),
        ({"image": da.zeros((30, 30, 3))}, ValueError, "image is 30 x 30 but logits is 30 x 31"),
        ({"mask": np.ones((30, 31), bool)}, TypeError, "mask is ndarray"),
        ({"mask": da.ones((30, 31))}, TypeError, "mask has dtype float64"),
        ({"halo": -1}, ValueError, "halo is -1"),
        ({"labels": 1}, TypeError, "labels is int"),
        ({"iterations": 2.5}, TypeError, "iterations is float"),
        ({"params": 3}, TypeError, "params is int"),
        ({"compatibility": np.eye(2)}, ValueError, "compatibility has shape (2, 2)"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(options, kind, message):
    given = {"logits": da.zeros((3, 30, 31)), "image": da.zeros((30, 31, 3))} | options
    with pytest.raises(kind) as caught:
        refine_dask(**given)
    assert message in str(caught.value)


def test_chunks_of_unknown_size_are_refused():
    logits, image = da.zeros((3, 30, 31), chunks=10), da.zeros((30, 31, 3), chunks=10)
    unknown = image[image[:, 0, 0] >= 0]
    with pytest.raises(ValueError, match="call image.compute_chunk_sizes"):
        refine_dask(logits, unknown)


def test_a_value_that_cannot_be_is_refused_with_its_place():
    logits, image = problem()
    logits[1, 50, 3] = np.nan
    q = refine_dask(lazy(logits, (3, 20, 20)), lazy(image, 20), SMALL, halo=2)
    with pytest.raises(ValueError, match=r"logits contains NaN .*\(in rows 38..60, columns 0..2"):
        q.compute(scheduler="sync")


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"refine_dask needs dask.*densecrf-rnn\[dask\]"):
        refine_dask(None, None)
