"""Measure the mean IU of the samples before and after refinement: README's parameter table."""

from dataclasses import replace

import numpy as np
import pytest
from measure import ROWS, Row
from problems import WIDE

from densecrf_rnn import CRFParams, metrics, refine, samples
from densecrf_rnn.params import SPATIAL_FILTERS

ITERATIONS = 10
PARAMS = {
    "README's, 30/5, weights 3 and 3": CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3),
    "defaults, 160/3, weights 5 and 3": CRFParams(),
    "pydensecrf's, 80/13, weights 10 and 3": WIDE,
}
CASE = f"mean IU of the samples, T={ITERATIONS}"


def pairs():
    pytest.importorskip("skimage")
    loaded = map(samples.load, samples.names())
    return [sample for sample in loaded if sample.truth is not None]


def score(labels):
    """Return the mean IU in percent, given one label map per sample."""
    total = sum(
        metrics.confusion_matrix(sample.truth, own, len(samples.CLASS_NAMES), samples.IGNORE)
        for sample, own in zip(pairs(), labels, strict=True)
    )
    return 100 * metrics.mean_iu(total)


def test_network_alone():
    alone = score([sample.logits.argmax(0) for sample in pairs()])
    ROWS.append(Row(CASE, "the network alone", note=f"{alone:.1f}"))
    assert 60 < alone < 80


@pytest.mark.parametrize("name", PARAMS)
def test_refined(name):
    params = PARAMS[name]
    labels = {
        spatial: [
            refine(s.logits, s.image, replace(params, spatial=spatial), iterations=ITERATIONS)
            .argmax(0)
            for s in pairs()
        ]
        for spatial in SPATIAL_FILTERS
    }  # fmt: skip
    differ = np.mean([(a != b).mean() for a, b in zip(*labels.values(), strict=True)])
    grid, lattice = map(score, labels.values())
    note = f"{grid:.1f} (spatial='lattice': {lattice:.1f}, {differ:.2%} of labels differ)"
    ROWS.append(Row(CASE, name, note=note))
    assert abs(grid - lattice) < 1
