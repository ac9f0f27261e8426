"""`densecrf-rnn evaluate`: its scores against plain counts, what it writes, how it fails."""

import importlib.util
import json
import re

import numpy as np
import pytest

from densecrf_rnn import files, metrics
from densecrf_rnn.cli import main

pytest.importorskip("tqdm")
needs_plots = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra cli"
)
LABELS = 4


@pytest.fixture
def folders(tmp_path):
    """truth, before and after: three images of awkward sizes; after is nearer to the truth."""
    rng = np.random.default_rng(0)
    for name in ("truth", "before", "after"):
        (tmp_path / name).mkdir()
    for stem, size in (("a", (13, 17)), ("b", (1, 9)), ("c", (8, 8))):
        truth = rng.integers(0, LABELS, size).repeat(2, 1)[:, : size[1]]
        truth[rng.random(size) < 0.1] = 255
        save(tmp_path / "truth" / stem, truth)
        for name, wrong in (("before", 0.5), ("after", 0.2)):
            random = rng.integers(0, LABELS, size)
            right = np.where(truth == 255, random, truth)
            save(tmp_path / name / stem, np.where(rng.random(size) < wrong, random, right))
    return tmp_path


def save(path, labels):
    np.save(path.with_suffix(".npy"), labels.astype(np.uint8))


def load(folder, name):
    return [np.load(path) for path in sorted((folder / name).glob("*.npy"))]


def evaluate(folders, *arguments):
    """The exit status, with folders by their names."""
    known = {path.name for path in folders.iterdir()}
    return main(["evaluate", *(str(folders / a) if a in known else a for a in arguments)])


def facts(folders, *arguments):
    """What --json wrote."""
    assert evaluate(folders, *arguments, "--json", str(folders / "out.json")) == 0
    return json.loads((folders / "out.json").read_text())


def one_sentence(capsys):
    err = capsys.readouterr().err.strip()
    assert err.startswith("densecrf-rnn evaluate: ") and "\n" not in err
    return err


def row(out, start):
    """The numbers of the line that begins so."""
    line = next(line for line in out.splitlines() if line.strip().startswith(start))
    return [float(word) for word in re.findall(r"[-+]?\d+\.\d", line)]


# --- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_all_pixels_together(folders):
    found = facts(folders, "before", "after", "truth", "--trimap", "2,1")
    truth = np.concatenate([t.ravel() for t in load(folders, "truth")])
    assert found["images"] == 3 and found["pixels"] == (truth != 255).sum()
    assert found["trimap_widths"] == [1, 2]
    for column in found["predictions"]:
        maps = load(folders, column["name"])
        confusion = metrics.confusion_matrix(
            truth, np.concatenate([p.ravel() for p in maps]), LABELS
        )
        np.testing.assert_array_equal(column["confusion"], confusion)
        assert column["mean_iu"] == metrics.mean_iu(confusion)
        assert column["class_iu"] == metrics.class_iu(confusion).tolist()
        assert column["pixel_accuracy"] == metrics.pixel_accuracy(confusion)
        assert column["mean_accuracy"] == metrics.mean_accuracy(confusion)
        assert column["frequency_weighted_iu"] == metrics.frequency_weighted_iu(confusion)
        bands = sum(
            metrics.trimap_confusions(t, p, (1, 2), LABELS)
            for t, p in zip(load(folders, "truth"), maps, strict=True)
        )
        assert column["trimap_mean_iu"] == [metrics.mean_iu(band) for band in bands]


def test_the_table_shows_percent_and_the_gain(folders, capsys):
    found = facts(folders, "before", "after", "truth")
    out = capsys.readouterr().out
    before, after = (column["mean_iu"] for column in found["predictions"])
    assert row(out, "mean IU ") == [round(100 * before, 1), round(100 * after, 1)]
    assert row(out, "gain over before") == [round(100 * (after - before), 1)]
    low, high = found["predictions"][1]["gain_interval"]
    assert 0 < low <= after - before <= high
    assert "before" in out and "after" in out and "within N pixels" in out


def test_intervals_are_those_of_the_seed(folders):
    first, again, other = (
        facts(folders, "before", "truth", "--seed", seed, "--resamples", "5")
        for seed in ("3", "3", "4")
    )
    first, again, other = (
        found["predictions"][0]["mean_iu_interval"] for found in (first, again, other)
    )
    assert first == again != other


def test_one_image_is_said_to_have_no_interval(folders, capsys):
    assert evaluate(folders, str(folders / "before/a.npy"), str(folders / "truth/a.npy")) == 0
    assert "with one image they have no width" in capsys.readouterr().out


def test_logits_and_marginals_are_scored_by_their_greatest(folders):
    (folders / "scores").mkdir()
    rng = np.random.default_rng(1)
    for stem, labels in zip("abc", load(folders, "before"), strict=True):
        scores = rng.random((LABELS, *labels.shape)) + 2 * np.eye(LABELS)[:, labels]
        if stem == "b":  # a batch of one
            scores = scores[None]
        np.save(folders / "scores" / stem, scores.astype(np.float32))
    found = facts(folders, "before", "scores", "truth")
    before, scores = (column["confusion"] for column in found["predictions"])
    assert before == scores


def test_marginals_of_some_labels_are_scored_by_their_numbers(folders):
    """`refine --classes 3,1 --write marginals` names the rows in an array beside them."""
    (folders / "scores").mkdir()
    for stem, labels in zip("abc", load(folders, "truth"), strict=True):
        q = np.stack([labels == 3, labels == 1]).astype(np.float16)
        files.write_marginals(folders / "scores" / f"{stem}.npz", q, classes=np.array([3, 1]))
    found = facts(folders, "scores", "truth", "--key", "marginals")
    assert found["predictions"][0]["class_iu"][1] == 1
    assert found["predictions"][0]["class_iu"][2] == 0


def test_keys_pick_arrays_from_files_of_several(folders):
    for name, key in (("before", "labels"), ("truth", "annotation")):
        for path in list((folders / name).glob("*.npy")):
            np.savez(path.with_suffix(".npz"), other=np.zeros(3), **{key: np.load(path)})
            path.unlink()
    found = facts(folders, "before", "after", "truth", "--key", "labels", "--truth-key",
                  "annotation")  # fmt: skip
    assert found["images"] == 3


def test_volumes_are_scored_voxel_by_voxel(tmp_path):
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, (2, 4, 5, 6))
    for name, array in (("truth", truth), ("prediction", prediction)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "brain.npy", array)
    found = facts(tmp_path, "prediction", "truth", "--trimap", "1")
    np.testing.assert_array_equal(
        found["predictions"][0]["confusion"], metrics.confusion_matrix(truth, prediction, 3)
    )
    band = metrics.trimap_confusions(truth, prediction, (1,), 3)[0]
    assert found["predictions"][0]["trimap_mean_iu"] == [metrics.mean_iu(band)]


def test_nifti_label_maps_and_scores_are_read_as_x_y_z(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 5, 6))
    scores = rng.random((3, 4, 5, 6)).astype(np.float32)  # [L, D, H, W]
    for name, array in (("truth", truth.astype(np.uint8).T), ("scores", scores.T)):
        (tmp_path / name).mkdir()
        # .T makes [x, y, z] and [x, y, z, label] of these
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name / "brain.nii.gz")
    found = facts(tmp_path, "scores", "truth", "--trimap", "1", "--kind", "logits")
    np.testing.assert_array_equal(
        found["predictions"][0]["confusion"],
        metrics.confusion_matrix(truth, scores.argmax(0), 3),
    )


def test_palette_pictures_are_scored_by_their_indices(folders):
    image = pytest.importorskip("PIL.Image")
    (folders / "pictures").mkdir()
    for stem, labels in zip("abc", load(folders, "before"), strict=True):
        picture = image.fromarray(labels, mode="P")
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        picture.save(folders / "pictures" / f"{stem}.png")
    found = facts(folders, "before", "pictures", "truth")
    before, pictures = (column["confusion"] for column in found["predictions"])
    assert before == pictures


def test_another_label_is_ignored(folders):
    for name, ignored in (("truth", 255), ("before", None)):
        for path in (folders / name).glob("*.npy"):
            labels = np.load(path)
            labels[labels == ignored] = 9
            np.save(path, labels)
    found = facts(folders, "before", "truth", "--ignore", "9")
    assert len(found["classes"]) == LABELS  # 9 is none


def test_labels_that_only_a_later_image_has_grow_the_table(folders):
    truth = load(folders, "truth")[2]
    truth[0, 0] = 7
    save(folders / "truth" / "c", truth)
    found = facts(folders, "before", "truth")
    confusion = np.array(found["predictions"][0]["confusion"])
    assert confusion.shape == (8, 8) and confusion[7].sum() == 1
    assert found["predictions"][0]["class_iu"][5] is None  # 5 occurs nowhere


def test_labels_fixes_how_many_there_are(folders):
    found = facts(folders, "before", "truth", "--labels", "21")
    assert len(found["classes"]) == 21


def test_the_mean_is_over_the_labels_asked_for(folders, capsys):
    (folders / "names.txt").write_text("sky\nroad\ncar\ntree\nboat\n")
    by_name = facts(
        folders, "before", "truth", "--classes", str(folders / "names.txt"),
        "--mean-over", "road, 2,boat",
    )  # fmt: skip
    confusion = np.array(by_name["predictions"][0]["confusion"])
    want = metrics.class_iu(confusion)[[1, 2]].mean()
    assert by_name["predictions"][0]["mean_iu"] == pytest.approx(want)
    assert by_name["mean_over"] == [1, 2, 4]
    out = capsys.readouterr().out
    assert "mean IU over 3 labels" in out
    assert "Not in the truth, so excluded from the mean: boat" in out
    assert "tree" in out and "boat  " not in out  # rows are for what occurs


def test_what_has_no_partner_is_counted_and_said(folders, capsys):
    (folders / "before" / "a.npy").unlink()
    (folders / "after" / "b.npy").unlink()
    found = facts(folders, "before", "after", "truth")
    assert found["images"] == 1 and found["truth_without_prediction"] == 1
    out, err = capsys.readouterr()
    assert "1 label maps of the truth have no prediction and are not scored" in out
    assert "left out: " in err and "b.npy" in err


# --- what it writes ------------------------------------------------------------------------------


def test_nan_is_null_in_json(folders):
    for path in (folders / "truth").glob("*.npy"):
        np.save(path, np.full_like(np.load(path), 255))
    found = facts(folders, "before", "truth", "--ignore", "255")
    assert found["predictions"][0]["mean_iu"] is None
    assert found["predictions"][0]["mean_iu_interval"] == [None, None]


def test_columns_can_be_named(folders, capsys):
    found = facts(folders, "before", "after", "truth", "--names", "DeepLab,with CRF")
    assert [column["name"] for column in found["predictions"]] == ["DeepLab", "with CRF"]
    assert "gain over DeepLab" in capsys.readouterr().out


def test_folders_of_one_name_are_told_apart_by_their_paths(folders):
    other = folders / "other" / "before"
    other.mkdir(parents=True)
    for path in (folders / "before").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    found = facts(folders, "before", str(other), "truth")
    assert [c["name"] for c in found["predictions"]] == [str(folders / "before"), str(other)]


@needs_plots
def test_plots_are_drawn_for_each_prediction(folders):
    from matplotlib.image import imread

    assert evaluate(folders, "before", "after", "truth", "--plots", str(folders / "p/q")) == 0
    pictures = {path.name for path in (folders / "p/q").iterdir()}
    assert pictures == {"class_iu.png", "trimap.png", "confusion-1.png", "confusion-2.png"}
    for path in (folders / "p/q").iterdir():
        assert imread(path).std() > 0.01  # not blank


# --- how it fails --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["before", "nowhere"], "nowhere: no such file or folder"),
        (["before", "truth", "--labels", "2"], r"truth holds labels 0\.\.3; they must lie in"),
        (["before", "truth", "--classes", "no.txt"], "no.txt: No such file"),
        (["before", "truth", "--mean-over", "7"], "--mean-over names '7'; the 4 labels are 0, 1"),
        (["before", "truth", "--names", "a,b"], "--names has 2 for 1 predictions; give one each"),
        (["before", "after", "truth", "--names", "a,a"], "two predictions have the same name"),
        (["before", "truth", "--labels", "99999"], "99999 labels are more than the maximum"),
        (["before", "truth", "--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["before", "truth", "--json", "no/out.json"], "there is no folder no"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(arguments, message, folders, capsys):
    assert evaluate(folders, *arguments) == 2
    assert re.search(message, one_sentence(capsys))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "must hold one name per line"),
        ("a\n\nb\n", "must hold one name per line"),
        ("a\nb\na\n", "names 'a' twice"),
        ("a\nb\n", r"they must lie in 0\.\.1"),
    ],
)
def test_class_names_that_cannot_be_are_refused(names, message, folders, capsys):
    (folders / "names.txt").write_text(names)
    assert evaluate(folders, "before", "truth", "--classes", str(folders / "names.txt")) == 2
    assert re.search(message, one_sentence(capsys))


def test_classes_and_labels_that_contradict_are_refused(folders, capsys):
    (folders / "names.txt").write_text("a\nb\nc\nd\n")
    assert evaluate(folders, "before", "truth", "--classes", str(folders / "names.txt"),
                    "--labels", "5") == 2  # fmt: skip
    assert "--labels is 5 but --classes names 4" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 3), np.uint8), r"before/a.npy is 3 x 3, but .*truth/a.npy 13 x 17"),
        (np.full((13, 17), -1), r"prediction holds labels -1"),
        (np.full((13, 17), 0.5), "holds fractions"),
        (np.full((13, 17), 60000, np.uint16), "holds the label 60000; labels up to 1999 can be"),
        (np.zeros((1, 13, 17), np.float32), "one score per pixel; add --kind logits or"),
        (np.full((4, 13, 17), np.nan, np.float32), "holds NaN at 884 places"),
        (np.zeros((4, 13, 17), np.uint8), "is 4 x 13 x 17, but"),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_named(content, message, folders, capsys):
    np.save(folders / "before" / "a.npy", content)
    assert evaluate(folders, "before", "truth", "--json", str(folders / "out.json")) == 2
    sentence = one_sentence(capsys)
    assert "a.npy" in sentence and re.search(message, sentence)
    assert not (folders / "out.json").exists()


def test_a_file_in_place_of_the_plots_folder_is_refused(folders, capsys):
    pytest.importorskip("matplotlib")
    assert evaluate(folders, "before", "truth", "--plots", str(folders / "truth/a.npy")) == 2
    assert "is a file; name a folder" in one_sentence(capsys)


@pytest.mark.parametrize("words", ["1,,2", "0", "two"])
def test_widths_that_are_none_exit_with_2(words, folders):
    with pytest.raises(SystemExit) as stopped:
        evaluate(folders, "before", "truth", "--trimap", words)
    assert stopped.value.code == 2
