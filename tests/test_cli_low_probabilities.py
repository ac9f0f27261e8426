"""`evaluate` of probabilities that are near 0 all over an image, beside those of other images."""

import json

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from densecrf_rnn import files  # noqa: E402
from densecrf_rnn.cli import main  # noqa: E402


def low_probabilities(folder, write):
    """An image with the object and one without, of which a network is sure: 0 and 1/255."""
    truth = np.zeros((12, 14), np.uint8)
    truth[3:7, 2:9] = 1
    faint = np.random.default_rng(0).integers(0, 2, truth.shape).astype(np.uint8)
    for name in ("truth", "probabilities"):
        (folder / name).mkdir()
    for stem, true, p in (("a", truth, np.where(truth, 230, 9)), ("b", 0 * truth, faint)):
        files.write_labels(folder / f"truth/{stem}.png", true)
        write(folder / f"probabilities/{stem}", p.astype(np.uint8))
    return truth


@pytest.mark.filterwarnings("ignore:.*the largest value of the probabilities is 1")
@pytest.mark.parametrize("write", [
    lambda path, p: Image.fromarray(p).save(path.with_suffix(".png")),
    lambda path, p: np.save(path.with_suffix(".npy"), p),
    lambda path, p: np.save(path.with_suffix(".npy"), p[None]),
    lambda path, p: files.write_saliency(path.with_suffix(".png"), p / 255),
], ids=["png", "npy", "npy of maps", "saliency"])  # fmt: skip
def test_an_image_of_low_probabilities_is_no_label_map(tmp_path, write):
    truth = low_probabilities(tmp_path, write)
    arguments = ["evaluate", str(tmp_path / "probabilities"), str(tmp_path / "truth"), "--kind",
                 "probabilities", "--json", str(tmp_path / "scores.json")]  # fmt: skip
    assert main(arguments) == 0
    found = json.loads((tmp_path / "scores.json").read_text())["predictions"][0]["confusion"]
    assert found == [[2 * truth.size - int(truth.sum()), 0], [0, int(truth.sum())]]


def test_a_saliency_map_alone_is_no_label_map(tmp_path):
    low_probabilities(tmp_path, lambda path, p: files.write_saliency(f"{path}.png", p / 255))
    paths = [str(tmp_path / name / "b.png") for name in ("probabilities", "truth")]
    arguments = ["--kind", "probabilities", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", *paths, *arguments]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())["predictions"][0]["confusion"]
    assert found == [[168]]


def test_label_maps_beside_probabilities_are_still_label_maps(tmp_path):
    truth = low_probabilities(tmp_path, lambda path, p: Image.fromarray(p).save(f"{path}.png"))
    (tmp_path / "refined").mkdir()
    for stem in "ab":
        Image.fromarray(truth * (stem == "a")).save(tmp_path / f"refined/{stem}.png")
    places = [str(tmp_path / name) for name in ("probabilities", "refined", "truth")]
    arguments = ["--kind", "probabilities", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", *places, *arguments]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())["predictions"]
    assert found[0]["confusion"] == found[1]["confusion"]


def test_label_maps_of_more_labels_than_some_truths_have_are_still_label_maps(tmp_path):
    labels = np.arange(168, dtype=np.uint8).reshape(12, 14) % 5
    for name in ("truth", "labels"):
        (tmp_path / name).mkdir()
    for stem, true in (("a", labels % 2), ("b", labels)):
        Image.fromarray(true).save(tmp_path / f"truth/{stem}.png")
        Image.fromarray(true).save(tmp_path / f"labels/{stem}.png")
    places = [str(tmp_path / name) for name in ("labels", "truth")]
    arguments = ["--kind", "probabilities", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", *places, *arguments]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())["predictions"][0]["confusion"]
    assert np.trace(found) == np.sum(found)


def test_an_absent_region_of_low_probabilities_is_absent(tmp_path):
    truth = np.zeros((12, 14), np.uint8)
    truth[3:7, 2:9] = 1
    faint = np.random.default_rng(0).integers(0, 2, truth.shape) / 255
    for name in ("truth", "maps"):
        (tmp_path / name).mkdir()
    for index, (true, p) in enumerate(((truth, truth * 0.9), (0 * truth, faint))):
        Image.fromarray(true).save(tmp_path / f"truth/a_{index}.png")
        files.write_saliency(tmp_path / f"maps/a_{index}.png", p)
    arguments = ["--kind", "regions", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", str(tmp_path / "maps"), str(tmp_path / "truth"), *arguments]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())["predictions"][0]
    assert found["iu"] == [1.0, None]
