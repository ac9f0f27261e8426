"""The network that ships with the samples."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")

from densecrf_rnn import samples  # noqa: E402
from densecrf_rnn.nn import sample_network  # noqa: E402


@pytest.fixture(scope="module")
def network():
    return sample_network.SampleNetwork()


@pytest.mark.parametrize("name", ["2007_000033", "chelsea"])
def test_scores_are_those_that_the_samples_were_stored_with(network, name):
    sample = samples.load(name)
    found = network.scores(sample.image)
    assert found.shape == sample.logits.shape and found.dtype == np.float32
    assert np.mean(found.argmax(0) == sample.logits.argmax(0)) > 0.995
    assert np.abs(found - sample.logits).max() < 0.5  # the scores reach 20


def test_a_large_photograph_gets_the_labels_of_the_small_one(network):
    image = samples.load("2007_000033").image
    large = np.kron(image, np.ones((2, 2, 1), np.uint8))
    found, wanted = network.scores(large), network.scores(image)
    assert found.shape == (21, 2 * image.shape[0], 2 * image.shape[1])
    assert np.mean(found.argmax(0)[::2, ::2] == wanted.argmax(0)) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (513, 513), (514, 7)])
def test_scores_cover_photographs_of_any_size(network, size):
    found = network.scores(np.full((*size, 3), 90, np.uint8))
    assert found.shape == (21, *size) and np.isfinite(found).all()


@pytest.mark.parametrize("image", [
    np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3)),
    np.zeros((0, 5, 3), np.uint8),
])  # fmt: skip
def test_other_images_are_refused_in_a_sentence(network, image):
    with pytest.raises(ValueError, match="the sample network takes RGB in uint8"):
        network.scores(image)


def test_the_licence_of_the_network_lies_beside_it():
    folder = Path(samples.__file__).parent
    assert "Apache License" in (folder / "LICENSE.deeplabv3_mnv2").read_text()
    assert sample_network.WEIGHTS.stat().st_size < 4.5e6
    assert "deeplabv3_mnv2_voc.npz" in (folder / "README.md").read_text()
