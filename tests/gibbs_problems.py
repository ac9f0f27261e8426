"""Small grid CRFs, and what they truly are by enumeration of every labelling."""

import itertools

import numpy as np

from densecrf_rnn.engines.gibbs import GibbsProblem, gibbs_engine
from densecrf_rnn.gibbs.neighbourhood import colouring

# Small enough to enumerate: 3^9 = 19,683 and 2^10 = 1,024 labellings.
SMALL = {"3 x 3, L = 3": (3, 3, 3), "2 x 5, L = 2": (2, 2, 5)}
OFFSETS = np.array([[0, 1], [1, 0], [1, -1]], np.int32)


def model(labels, height, width, offsets=OFFSETS, spread=1.0, seed=0):
    """Logits and tables of a random grid CRF."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(labels, height, width))
    tables = spread * rng.normal(size=(len(offsets), labels, labels))
    return logits.astype(np.float32), tables.astype(np.float32)


class Enumerated:
    """All labellings of a grid, and their scores under one model, all in float64."""

    def __init__(self, labels, height, width, offsets=OFFSETS):
        every = itertools.product(range(labels), repeat=height * width)
        self.labellings = np.array(list(every), np.int8).reshape(-1, height, width)
        self.labels, self.offsets = labels, offsets
        y = self.labellings
        self.one_hot = (y[:, None] == np.arange(labels)[:, None, None]).astype(np.float64)
        self.pairs = np.zeros((len(y), len(offsets), labels, labels))
        for c, (down, right) in enumerate(np.asarray(offsets).tolist()):
            for i in itertools.product(range(height), range(width)):
                j = i[0] + down, i[1] + right
                if 0 <= j[0] < height and 0 <= j[1] < width:
                    ends = y[(slice(None), *i)], y[(slice(None), *j)]
                    np.add.at(self.pairs, (np.arange(len(y)), c, *ends), 1)

    def probabilities(self, logits, tables):
        """p(y) of every labelling."""
        scores = np.tensordot(self.one_hot, logits.astype(np.float64), 3)
        scores += np.tensordot(self.pairs, tables.astype(np.float64), 3)
        p = np.exp(scores - scores.max())
        return p / p.sum()

    def expectations(self, logits, tables):
        """The true marginals [L, H, W] and the expected statistics [C, L, L]."""
        p = self.probabilities(logits, tables)
        return np.tensordot(p, self.one_hot, 1), np.tensordot(p, self.pairs, 1)

    def number(self, labelling):
        """Which of the labellings it is."""
        place = self.labels ** np.arange(labelling.size)[::-1]
        return int((np.ravel(labelling) * place).sum())

    def log_likelihood(self, labelling, logits, tables):
        return float(np.log(self.probabilities(logits, tables)[self.number(labelling)]))


def run(name, logits, labels, tables, offsets, threads=1, sweeps=1, **options):
    """What an engine makes of a batch: labels, marginal sums and changes."""
    images, count = logits.shape[:2]
    given = {
        "seed": 5,
        "chains": np.arange(images, dtype=np.uint64),
        "first_sweep": np.zeros(images, np.uint64),
        "inverse_temperature": np.ones(sweeps, np.float32),
        **options,
    }
    sums = np.zeros((*labels.shape, count))
    changes = np.full((images, len(given["inverse_temperature"])), -1, np.int64)
    labels = labels.astype(np.int32)
    problem = GibbsProblem(
        logits=logits, labels=labels, tables=tables, offsets=offsets,
        colouring=colouring(offsets), marginals=sums, changes=changes, **given,
    )  # fmt: skip
    gibbs_engine(name).gibbs_sweep(problem, threads)
    return labels, sums, changes
