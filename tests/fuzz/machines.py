"""State machines of hypothesis: sequences of operations on one object, compared with a model."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from densecrf_rnn import CRFParams, refine
from densecrf_rnn.cli import main
from densecrf_rnn.compat.pydensecrf import densecrf

from . import oracle

SIZE, LABELS = (4, 6), 3  # a multiple of four pixels: pydensecrf's interface pads to that
seeds = st.integers(0, 5)
thetas = st.sampled_from([0.7, 2.3, 11.1])
stems = st.sampled_from(["a", "b"])


class DenseCRFMachine(RuleBasedStateMachine):
    """A CRF in pydensecrf's interface against the oracle: kernels, energies, steps in any order."""

    def __init__(self):
        super().__init__()
        self.crf = densecrf.DenseCRF2D(SIZE[1], SIZE[0], LABELS)
        self.energy, self.kernels, self.couplings = None, [], []
        self.running = None  # the state of startInference, and the model's

    @rule(seed=seeds)
    def set_unary(self, seed):
        energy = np.random.default_rng(seed).normal(size=(LABELS, SIZE[0] * SIZE[1]))
        self.energy, self.running = energy.astype(np.float32), None
        self.crf.setUnaryEnergy(self.energy)

    @precondition(lambda self: len(self.kernels) < 4)
    @rule(theta=thetas, weight=st.sampled_from([0.5, 2.0]))
    def add_gaussian(self, theta, weight):
        self.crf.addPairwiseGaussian(sxy=theta, compat=weight)
        self._add(np.zeros((*SIZE, 1)), theta, None, weight)

    @precondition(lambda self: len(self.kernels) < 4)
    @rule(theta=thetas, seed=seeds, weight=st.sampled_from([0.5, 2.0]))
    def add_bilateral(self, theta, seed, weight):
        image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        self.crf.addPairwiseBilateral(sxy=theta, srgb=31.0, rgbim=image, compat=weight)
        self._add(image, theta, 31.0, weight)

    def _add(self, image, theta, theta_image, weight):
        features = oracle.pixel_features(image, theta, theta_image, "xy", (1, 1))
        built = oracle.lattice(features, precision=np.finfo(np.float32).eps)
        self.kernels.append(built if built.safe else None)
        self.couplings.append(weight * (1 - np.eye(LABELS)))
        self.running = None

    @precondition(lambda self: self.energy is not None)
    @rule(iterations=st.integers(0, 4))
    def infer(self, iterations):
        q = np.asarray(self.crf.inference(iterations))
        assert np.isfinite(q).all() and np.abs(q.sum(0) - 1).max() < 1e-4
        if None not in self.kernels:
            assert np.abs(q - self._model(iterations)).max() < 5e-3

    @precondition(lambda self: self.energy is not None)
    @rule()
    def start(self):
        self.running = (self.crf.startInference(), 0)

    @precondition(lambda self: self.running is not None)
    @rule()
    def step(self):
        (q, *temporary), done = self.running
        self.crf.stepInference(q, *temporary)
        self.running = (q, *temporary), done + 1
        if None not in self.kernels:
            assert np.abs(np.asarray(q) - self._model(done + 1)).max() < 5e-3

    def _model(self, iterations):
        matrices = [oracle.normalized(k.matrix, "symmetric", True) for k in self.kernels]
        logits = -self.energy.astype(np.float64)
        return oracle.softmax(oracle.mean_field(logits, matrices, self.couplings, iterations))


class ResumeMachine(RuleBasedStateMachine):
    """`densecrf-rnn refine`, run again after any change, leaves what a first run would write."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        for name in ("logits", "images"):
            (self.folder / name).mkdir()
        self.theta = 3.0
        for stem in ("a", "b"):
            self.change_logits(stem, 0)
            self.change_image(stem, 0)

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(stem=stems, seed=seeds)
    def change_logits(self, stem, seed):
        logits = np.random.default_rng(seed).normal(size=(LABELS, *SIZE)).astype(np.float32)
        np.save(self.folder / "logits" / f"{stem}.npy", logits)

    @rule(stem=stems, seed=seeds)
    def change_image(self, stem, seed):
        image = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        np.save(self.folder / "images" / f"{stem}.npy", image)

    @rule(theta=thetas)
    def change_parameter(self, theta):
        self.theta = theta

    @rule(stem=stems)
    def delete_output(self, stem):
        (self.folder / "out" / f"{stem}.npz").unlink(missing_ok=True)

    @rule(stem=stems, size=st.integers(0, 300))
    def cut_output(self, stem, size):
        path = self.folder / "out" / f"{stem}.npz"
        if path.exists() and path.stat().st_size > size:
            path.write_bytes(path.read_bytes()[:size])

    @rule(size=st.integers(0, 2000))
    def cut_record(self, size):
        """As a process that was killed while it wrote its journal."""
        record = self.folder / "out" / "refine.json"
        if record.exists():
            lines = record.read_text().replace("\n", "") + "\n"
            (self.folder / "out" / "refine.jsonl").write_text(lines[:size])
            record.unlink()

    @rule()
    def run(self):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            status = main([
                "refine", str(self.folder / "logits"), str(self.folder / "images"),
                "--out", str(self.folder / "out"), "--write", "marginals", "--dtype", "float32",
                "--theta-alpha", str(self.theta), "--iterations", "1", "--workers", "1",
            ])  # fmt: skip
        assert status == 0
        for stem in "ab":
            logits = np.load(self.folder / "logits" / f"{stem}.npy")
            image = np.load(self.folder / "images" / f"{stem}.npy")
            params = CRFParams(self.theta, 5, 3, 3, 3)
            want = refine(logits, image, params, iterations=1)
            got = np.load(self.folder / "out" / f"{stem}.npz")["marginals"]
            assert np.array_equal(got, want)

    @invariant()
    def no_leftovers(self):
        assert not list(self.folder.glob("out/.part-*"))
