"""The values and colours of label maps: heeded where options name them, refused where unclear."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecrf_rnn import files
from densecrf_rnn.files.label_values import LabelValues
from densecrf_rnn.cli import main

pytest.importorskip("tqdm")
pytest.importorskip("PIL")
RNG = np.random.default_rng(17)
SHAPE = (12, 15)
TRUTH = (np.indices(SHAPE).sum(0) // 7 % 2).astype(np.uint8)  # 0 and 1
PREDICTION = np.where(RNG.random(SHAPE) < 0.2, 1 - TRUTH, TRUTH).astype(np.uint8)
COLOURS = np.array([[0, 0, 0], [64, 128, 64], [192, 0, 128], [128, 128, 128]], np.uint8)


def write(path, labels):
    """Write a label map in the format of the path."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".npz":
        np.savez(path, labels=labels)
    elif path.suffix == ".gz":
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(labels[None].T.astype(np.int16), np.eye(4)), path)
    elif path.suffix == ".tif":
        pytest.importorskip("tifffile").imwrite(path, labels)
    else:
        from PIL import Image

        Image.fromarray(labels).save(path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    return tmp_path


def evaluate(*arguments):
    """The scores that --json wrote."""
    assert main(["evaluate", *map(str, arguments), "--json", "scores.json"]) == 0
    with open("scores.json") as file:
        return json.load(file)


def confusion(*arguments):
    return np.array(evaluate(*arguments)["predictions"][0]["confusion"])


def refused(capsys, *arguments):
    """The sentence of a command that exits with 2."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert "IU" not in captured.out  # no score was reported
    (line,) = captured.err.splitlines()
    return line


EXPECTED = np.array([[((TRUTH == t) & (PREDICTION == p)).sum() for p in (0, 1)] for t in (0, 1)])


# --- 255 that may not be void --------------------------------------------------------------------


@pytest.mark.parametrize("end", [".png", ".npy", ".npz", ".tif", ".bmp", ".nii.gz"])
def test_an_all_black_prediction_on_a_truth_of_0_and_255_is_not_scored_100(end, folder, capsys):
    write(folder / "truth" / f"a{end}", TRUTH * np.uint8(255))
    write(folder / "black" / f"a{end}", TRUTH * 0)
    said = refused(capsys, "evaluate", "black", "truth")
    assert "truth holds only 0 and 255" in said
    assert "add --label-values 0,255 if 255 is the foreground, or --ignore 255 if it is" in said
    assert confusion("black", "truth", "--label-values", "0,255").tolist() == [
        [(TRUTH == 0).sum(), 0], [(TRUTH == 1).sum(), 0]
    ]  # fmt: skip
    assert main(["evaluate", "black", "truth", "--ignore", "255"]) == 0
    assert "holds no label but 0" in capsys.readouterr().err


def test_the_values_of_all_truths_count_together(folder, capsys):
    """One file may be void or background alone; with labels in another, nothing is unclear."""
    zeros, full = TRUTH * 0, np.full_like(TRUTH, 255)
    write(folder / "truth" / "a.png", zeros)
    write(folder / "truth" / "b.png", full)
    for stem in "abc":
        write(folder / "black" / f"{stem}.png", zeros)
    assert "truth holds only 0 and 255" in refused(capsys, "evaluate", "black", "truth")
    write(folder / "truth" / "c.png", TRUTH)
    assert main(["evaluate", "black", "truth"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1, 255], None), ([0, 15, 255], None), ([0, 1], None), ([0, 1, 2], None),
        ([255], "truth holds only 255"), ([0], "holds no label but 0"),
        ([1, 255], "holds no label but 1"), ([0, 128, 255], "add --label-values 0,128,255"),
        ([0, 85, 170, 255], "add --label-values 0,85,170,255"),
    ],
)  # fmt: skip
def test_warnings_are_for_values_that_say_little_and_not_for_usual_ones(
    values, words, folder, capsys
):
    truth = np.resize(np.array(values, np.uint8), SHAPE)
    write(folder / "truth" / "a.png", truth)
    write(folder / "same" / "a.png", np.where(truth == 255, 0, truth).astype(np.uint8))
    main(["evaluate", "same", "truth"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (words is not None)
    assert words is None or words in lines[0]


@pytest.mark.parametrize("true, predicted", [(1, 255), (255, 1), (255, 255), (1, 1)])
def test_masks_of_1_and_of_255_are_scored_alike_with_the_option(true, predicted, folder, capsys):
    write(folder / "truth" / "a.png", TRUTH * np.uint8(true))
    write(folder / "masks" / "a.png", PREDICTION * np.uint8(predicted))
    np.testing.assert_array_equal(
        confusion("masks", "truth", "--label-values", "0,255"), EXPECTED
    )
    if (true, predicted) != (1, 1):
        said = refused(capsys, "evaluate", "masks", "truth")
        assert "add --label-values 0,255 if 255 is the foreground" in said


def test_predictions_of_0_and_255_where_255_is_void_are_told_what_to_save(folder, capsys):
    truth = TRUTH.copy()
    truth[0] = 255
    write(folder / "truth" / "a.png", truth)
    write(folder / "masks" / "a.png", PREDICTION * np.uint8(255))
    said = refused(capsys, "evaluate", "masks", "truth")
    assert "in the truth 255 is void, so save predictions with the labels 0 and 1" in said
    write(folder / "masks" / "a.png", PREDICTION)
    assert confusion("masks", "truth").sum() == (truth != 255).sum()


# --- --label-values ------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 65535), min_size=2, max_size=6, unique=True),
    st.integers(0, 2**32 - 1),
)
def test_labels_come_back_from_the_values_they_are_stored_in(values, seed):
    labels = np.random.default_rng(seed).integers(0, len(values), (3, 4))
    mapping = files.LabelValues(values=tuple(values))
    np.testing.assert_array_equal(mapping.labels("a.png", mapping.stored(labels)), labels)


def test_files_of_labels_themselves_are_read_only_where_no_value_contradicts_it():
    zero, one = np.array([[0, 0]]), np.array([[0, 1]])
    assert files.LabelValues(values=(0, 255)).labels("a", one).tolist() == [[0, 1]]
    turned = files.LabelValues(values=(255, 0))
    assert turned.labels("a", zero).tolist() == [[1, 1]]
    with pytest.raises(ValueError, match=r"a: holds the value 1 \(1 pixel\), not among 255, 0"):
        turned.labels("a", one)
    with pytest.raises(ValueError, match=r"value 1 \(1 pixel\)"):  # both readings at once
        files.LabelValues(values=(0, 255)).labels("a", np.array([[0, 1, 255]]))


def test_void_is_void_whatever_its_value_and_never_a_label():
    stored = np.array([[7, 1, 9]])
    mapping = files.LabelValues(values=(7, 9), void=1)
    assert mapping.labels("a", stored).tolist() == [[0, mapping.void_label, 1]]
    assert mapping.void_label not in (0, 1)
    with pytest.raises(ValueError, match="7 is both void and the value of a label"):
        files.LabelValues(values=(7, 9), void=7)


def test_a_value_that_is_not_listed_is_named_with_its_file(folder, capsys):
    masks = PREDICTION * np.uint8(255)
    masks[0, 0] = 7
    write(folder / "truth" / "a.png", TRUTH * np.uint8(255))
    write(folder / "masks" / "a.png", masks)
    said = refused(capsys, "evaluate", "masks", "truth", "--label-values", "0,255")
    assert re.search(r"masks.a.png: holds the value 7 \(1 pixel\), not among 0, 255", said)
    assert "add --ignore 7 (TRUTH)" in said
    write(folder / "masks" / "a.png", RNG.integers(0, 256, SHAPE, np.uint8))
    said = refused(capsys, "evaluate", "masks", "truth", "--label-values", "0,255")
    assert "JPEG" in said


def test_an_ignored_value_that_is_listed_is_a_contradiction(folder, capsys):
    write(folder / "truth" / "a.png", TRUTH * np.uint8(255))
    said = refused(
        capsys, "evaluate", "truth", "truth", "--label-values", "0,255", "--ignore", "255"
    )
    assert "--ignore 255 is one of --label-values" in said


@pytest.fixture
def problem(folder):
    """Logits of two labels, an image and a truth of 0 and 255, in folders."""
    logits = 3 * np.eye(2, dtype=np.float32)[:, PREDICTION]
    image = np.repeat(TRUTH[..., None] * 150, 3, -1) + RNG.integers(0, 9, (*SHAPE, 3))
    (folder / "logits").mkdir()
    np.save("logits/a.npy", logits)
    write(folder / "images" / "a.png", image.astype(np.uint8))
    write(folder / "truth" / "a.png", TRUTH * np.uint8(255))
    write(folder / "masks" / "a.png", PREDICTION * np.uint8(255))
    return folder


def refine(source, *options):
    return main(["refine", source, "images", "-o", "out", "--iterations", "2", *options])


def stored(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def test_tune_refuses_a_truth_of_0_and_255_before_it_searches(problem, capsys):
    pytest.importorskip("optuna")
    command = ["tune", "logits", "images", "truth", "--trials", "1", "--iterations", "1"]
    said = refused(capsys, *command)
    assert "truth holds only 0 and 255" in said and not (problem / "params.json").exists()
    write(problem / "truth" / "a.png", TRUTH * np.uint16(65535))
    assert "add --label-values 0,65535 if 65535 is the foreground" in refused(capsys, *command)
    assert main([*command, "--label-values", "0,65535"]) == 0
    write(problem / "truth" / "a.png", TRUTH * np.uint8(255))
    capsys.readouterr()
    assert main([*command, "--label-values", "0,255"]) == 0
    out = capsys.readouterr().out
    expected = EXPECTED.diagonal() / (EXPECTED.sum(0) + EXPECTED.sum(1) - EXPECTED.diagonal())
    assert f"network alone     {100 * expected.mean():.2f}" in out
    (line,) = (line for line in out.splitlines() if line.startswith("  densecrf-rnn refine"))
    assert main(line.split()[1:]) == 0  # the command that it prints
    assert set(np.unique(stored("refined/a.png")[1])) == {0, 255}
    evaluate("refined", "truth", "--label-values", "0,255")


@pytest.mark.parametrize("source", ["logits", "masks"])
def test_what_refine_writes_has_the_values_that_files_have(source, problem):
    """Masks of 0 and 255 come out as such, in grey, and evaluate reads them with the option."""
    assert refine(source, "--label-values", "0,255") == 0
    mode, values = stored("out/a.png")
    assert mode == "L" and set(np.unique(values)) == {0, 255}
    found = confusion("out", "truth", "--label-values", "0,255")
    assert found[1, 1] == ((values == 255) & (TRUTH == 1)).sum() and found.sum() == TRUTH.size
    assert refine(source, "--label-values", "0,255", "--classes", "1,0", "--remove-small", "3") == 0
    assert set(np.unique(stored("out/a.png")[1])) == {0, 255}


def test_label_maps_are_the_same_problem_whatever_their_values(problem):
    write(problem / "plain" / "a.png", PREDICTION)
    for source, options in (
        ("plain", ["--num-labels", "2"]), ("masks", ["--label-values", "0,255"])
    ):  # fmt: skip
        assert refine(source, *options, "--write", "marginals", "--dtype", "float32") == 0
        with np.load("out/a.npz") as file:
            if source == "plain":
                expected = file["marginals"]
            else:
                np.testing.assert_array_equal(file["marginals"], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label-values", "0,128,255"], "a.npy: has 2 labels, but --label-values lists 3"),
        (["--label-values", "0,255", "--num-labels", "3"], "leave --num-labels out"),
        (["--label-values", "0,255", "--classes", "0,2"], "--label-values lists 2 labels, from 0"),
        (["--label-values", "0,255", "--unsure", "255"], "--unsure 255 is one of --label-values"),
        (["--label-values", "0,255", "--tile", "8"], "--label-values needs whole files"),
        (["--palette", "none", "--tile", "8"], "--palette needs whole files"),
        (["--write", "saliency", "--tile", "8"], "for --write saliency leave it out"),
        (["--colours", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--colours", "voc", "--num-labels", "257"], "but --colours lists 256 labels; list a"),
        (["--colours", "voc", "--classes", "0,256"], "--colours lists 256 labels, from 0"),
    ],
)
def test_options_that_contradict_the_files_or_each_other_are_refused(
    options, words, problem, capsys
):
    assert refine("logits", *options) in (1, 2)
    assert words in capsys.readouterr().err


def test_values_that_a_png_cannot_hold_are_refused_before_the_refinement(
    problem, capsys, monkeypatch
):
    (problem / "marked").mkdir()
    marked = np.where(np.arange(SHAPE[1]) < 3, 200, TRUTH).astype(np.uint8)
    files.write_labels("marked/a.png", marked, palette="none", nodata=200)
    with monkeypatch.context() as never:
        never.setattr("densecrf_rnn.cli._refining.refine", None)
        assert refine("logits", "--label-values", "0,70000") == 1
        said = capsys.readouterr().err
        assert "--label-values lists 70000, but its label map is written as PNG, which" in said
        assert refine("marked", "--label-values", "0,1,65535") == 1
        said = capsys.readouterr().err
        assert "lists 65535, but" in said and "values up to 65534 and one for no data" in said
        scores = np.load("logits/a.npy")
        write(problem / "inside" / "a.png", (np.arange(SHAPE[1]) > 2) * np.ones(SHAPE, np.uint8))
        np.save("logits/a.npy", np.where(np.arange(SHAPE[1]) > 2, scores, np.nan))
        assert refine("logits", "--label-values", "0,65535", "--mask", "inside") == 1
        assert "values up to 65534 and one for no data" in capsys.readouterr().err
        np.save("logits/a.npy", scores)
        order = ["--kind", "region-logits", "--regions-class-order"]
        assert refine("logits", *order, "1,70000") == 1
        assert "--regions-class-order lists 70000" in capsys.readouterr().err
    assert refine("logits", "--label-values", "0,65535") == 0
    assert set(np.unique(stored("out/a.png")[1])) == {0, 65535}
    assert refine("logits", "--label-values", "0,70000", "--write", "marginals") == 0


def test_unsure_pixels_of_a_map_of_0_and_255_stay_unsure(problem):
    masks = PREDICTION * np.uint8(255)
    masks[:2] = 1  # a value that would be a label if values were labels
    write(problem / "masks" / "a.png", masks)
    plain = PREDICTION.copy()
    plain[:2] = 77
    write(problem / "plain" / "a.png", plain)
    found = []
    for source, options in (
        ("masks", ["--label-values", "0,255", "--unsure", "1"]),
        ("plain", ["--num-labels", "2", "--unsure", "77"]),
    ):
        assert refine(source, *options) == 0
        found.append(stored("out/a.png")[1] > 0)
    np.testing.assert_array_equal(*found)


def test_a_hint_at_masks_of_0_and_255_never_says_unsure_alone(problem, capsys):
    assert refine("masks", "--num-labels", "2") == 1
    said = capsys.readouterr().err
    assert "add --label-values 0,255 if 255 is the foreground, or --unsure 255 if it" in said
    assert refine("masks", "--num-labels", "2", "--label-values", "0,255") == 0


# --- colours -------------------------------------------------------------------------------------

CLASS_DICT = "name,r,g,b\nVoid,0,0,0\nTree,64,128,64\nRoad,192,0,128\nSky,128,128,128\n"


@pytest.fixture
def colours(folder):
    (folder / "colours.txt").write_text(
        "# CamVid\n0 0 0 Void\n#408040 Tree\n192,0,128, Road\n128 128 128\tSky\n"
    )
    return "colours.txt"


LABELS = RNG.integers(0, 4, SHAPE).astype(np.uint8)


def palette_image(labels, palette):
    from PIL import Image

    image = Image.fromarray(labels, mode="P")
    image.putpalette(palette.tobytes())
    return image


def turned_palette():
    """Labels as indices of a palette in which they are in another order."""
    return palette_image(3 - LABELS, np.pad(COLOURS[::-1], [(0, 252), (0, 0)]))


def written_as(way, path):
    """Write LABELS in one of the ways in which label maps are found."""
    from PIL import Image

    rgb = Image.fromarray(COLOURS[LABELS])
    path.parent.mkdir(exist_ok=True)
    if way == "tiff":
        write(path.with_suffix(".tif"), COLOURS[LABELS])
    elif way == "palette":
        turned_palette().save(path)
    elif way == "voc":  # as this command writes labels by default
        files.write_labels(path, LABELS)
    elif way == "labels":
        write(path, LABELS)
    elif way == "npy":
        np.save(path.with_suffix(".npy"), LABELS)
    else:
        rgb.convert(way).save(path)


WAYS = ["RGB", "RGBA", "tiff", "palette", "voc", "labels", "npy"]


@pytest.mark.parametrize("way", WAYS)
def test_colours_are_labels_however_they_are_stored(way, folder, colours):
    written_as("RGB", folder / "truth" / "a.png")
    written_as(way, folder / "maps" / "a.png")
    found = evaluate("maps", "truth", "--colours", colours)
    assert found["predictions"][0]["confusion"] == np.diag(np.bincount(LABELS.ravel())).tolist()
    assert found["classes"] == ["Void", "Tree", "Road", "Sky"]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=6, unique=True),
    st.sampled_from(["RGB", "RGBA", "P", ".tif", ".bmp"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_colours_come_back_as_labels_from_any_file(tmp_path_factory, colours, way, seed):
    from PIL import Image

    rng, colours = np.random.default_rng(seed), np.array(colours, np.uint8)
    labels = rng.integers(0, len(colours), (3, 4))
    path = tmp_path_factory.mktemp("maps") / f"a{way if way[0] == '.' else '.png'}"
    if way == "P":  # indices in an order of their own
        order = rng.permutation(len(colours))
        palette = np.pad(colours[order], [(0, 256 - len(colours)), (0, 0)])
        palette_image(np.argsort(order)[labels].astype(np.uint8), palette).save(path)
    elif way in ("RGB", "RGBA"):
        Image.fromarray(colours[labels]).convert(way).save(path)
    else:
        write(path, colours[labels])
    found = files.read_labels(path, values=files.LabelValues(colours=colours))
    np.testing.assert_array_equal(found, labels)


def test_the_ignored_label_of_colours_is_a_line_of_their_file(folder, colours):
    written_as("RGB", folder / "truth" / "a.png")
    found = evaluate("truth", "truth", "--colours", colours, "--ignore", "0")
    assert found["pixels"] == (LABELS > 0).sum()


def test_voc_is_a_palette_in_which_255_is_void(folder):
    from densecrf_rnn.samples import palette

    labels = np.where(LABELS == 3, 255, LABELS)
    write(folder / "truth" / "a.png", palette()[labels])
    assert evaluate("truth", "truth", "--colours", "voc")["pixels"] == (LABELS < 3).sum()


@pytest.mark.parametrize("text", [CLASS_DICT, "\n".join(CLASS_DICT.splitlines()) + "\n\n"])
def test_a_csv_of_classes_is_a_list_of_colours(text, folder):
    (folder / "class_dict.csv").write_text(text)
    found = files.read_label_colours("class_dict.csv")
    np.testing.assert_array_equal(found.colours, COLOURS)
    assert found.names == ("Void", "Tree", "Road", "Sky")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 0\n1 2\n", "'1 2' (label 1) is no colour; write R G B"),
        ("0 0 0\n\n1 2 3\n", "'' (label 1) is no colour"),
        ("0 0 0\n1 2 256\n", "'1 2 256' (label 1) is no colour"),
        ("0 0 0\n0 0 0\n", "must be at least two, each once"), ("", "must be at least two"),
        ("name,r,g,b\nVoid,0,0\n", "'Void,0,0' (label 0) is no colour"),
    ],
)
def test_a_list_of_colours_that_is_none_is_refused(text, words, folder, capsys):
    (folder / "colours.txt").write_text(text)
    write(folder / "truth" / "a.png", LABELS)
    said = refused(capsys, "evaluate", "truth", "truth", "--colours", "colours.txt")
    assert "colours.txt: " in said and words in said


def test_unknown_colours_are_named_and_counted(folder, colours, capsys):
    pixels = COLOURS[LABELS]
    pixels[0, :2] = 1, 2, 3
    write(folder / "truth" / "a.png", pixels)
    said = refused(capsys, "evaluate", "truth", "truth", "--colours", colours)
    assert "truth/a.png: holds 1 colour of no label, such as #010203 (2 pixels)" in said
    write(folder / "lossy" / "a.jpg", COLOURS[LABELS])
    said = refused(capsys, "evaluate", "lossy", "lossy", "--colours", colours)
    assert "compression such as JPEG's" in said
    said = refused(capsys, "evaluate", "truth", "truth")
    assert "holds colours; a label map has one channel" in said and "--colours FILE" in said


@pytest.mark.parametrize("way", ["RGB", "palette", "voc"])
def test_refine_gives_maps_of_colours_back_in_these_colours(way, problem, colours):
    from PIL import Image

    written_as(way, problem / "maps" / "a.png")
    options = ["--colours", colours, "--iterations", "0", "--confidence", "0.9"]
    assert refine("maps", *options) == 0
    with Image.open("out/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), LABELS)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), COLOURS[LABELS])
    written_as("RGB", problem / "truth" / "a.png")
    assert evaluate("out", "truth", "--colours", colours)["predictions"][0]["mean_iu"] == 1
    assert refine("maps", *options) == 0  # resumes, as the file of colours is the same
    (problem / "colours.txt").write_text("0 0 0\n#408040\n192 0 128\n128 128 128\n9 9 9")
    assert refine("maps", *options) == 0
    with Image.open("out/a.png") as image:
        assert image.getpalette()[12:15] == [9, 9, 9]


@pytest.mark.parametrize("option", ["--colours", "--palette"])
def test_a_list_without_a_colour_for_each_label_is_refused_before_the_refinement(
    option, problem, capsys
):
    """A label without a colour would come out black, as the background."""
    np.save("logits/a.npy", RNG.normal(size=(3, *SHAPE)).astype(np.float32))
    (problem / "two.txt").write_text("0 0 0\n255 0 0")
    assert refine("logits", option, "two.txt") == 1
    said = capsys.readouterr().err
    assert f"a.npy: has 3 labels, but {option} lists 2; list a colour for each label" in said
    assert not (problem / "out" / "a.png").exists()
    assert refine("logits", option, "two.txt", "--classes", "0,1") == 0
    (problem / "two.txt").write_text("0 0 0\n255 0 0\n0 255 0\n0 0 255")
    assert refine("logits", option, "two.txt") == 0
    assert refine("logits", option, "voc") == 0


def test_the_colours_of_a_palette_are_those_of_the_labels_whatever_their_values(problem):
    (problem / "two.txt").write_text("9 9 9\n255 0 0")
    assert refine("logits", "--label-values", "0,255", "--palette", "two.txt") == 0
    assert set(np.unique(stored("out/a.png")[1])) == {0, 255}
    assert files.read_palette("out/a.png")[[0, 255]].tolist() == [[9, 9, 9], [255, 0, 0]]


# --- masks in grey -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("end", [".png", ".tif"])
def test_grey_masks_of_every_mode_are_masks(mode, end, problem):
    from PIL import Image

    inside = TRUTH > 0
    image = Image.fromarray(TRUTH * np.uint8(255))
    image = palette_image(TRUTH, COLOURS) if mode == "P" else image.convert(mode)
    (problem / "inside").mkdir()
    image.save(problem / "inside" / f"a{end}")
    np.testing.assert_array_equal(files.read_mask(problem / "inside" / f"a{end}"), inside)
    assert refine("logits", "--mask", "inside", "--iterations", "0") == 0


def test_a_transparent_pixel_is_no_label(folder):
    pixels = np.dstack([COLOURS[LABELS], np.full(SHAPE, 255, np.uint8)])
    pixels[0, 0, 3] = 0
    write(folder / "maps" / "a.png", pixels)
    for values in (None, files.LabelValues(colours=COLOURS)):
        with pytest.raises(ValueError, match="has transparent pixels; save a label map without"):
            files.read_labels("maps/a.png", values=values)


# --- palettes ------------------------------------------------------------------------------------


def test_palette_none_writes_what_opencv_reads_as_labels(problem, capsys):
    assert refine("logits") == 0
    assert stored("out/a.png")[0] == "P"
    labels = stored("out/a.png")[1]
    capsys.readouterr()
    assert refine("logits", "--palette", "none") == 0
    assert "done again: --palette was not given, is \"none\"" in capsys.readouterr().out
    mode, grey = stored("out/a.png")
    assert mode == "L"
    np.testing.assert_array_equal(grey, labels)
    (problem / "colours.txt").write_text("1 2 3\n4 5 6")
    assert refine("logits", "--palette", "colours.txt") == 0
    assert files.read_palette("out/a.png")[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert refine("logits", "--palette", "voc", "--label-values", "0,255") == 0
    assert stored("out/a.png")[0] == "P" and stored("out/a.png")[1].max() == 255


# --- probabilities in grey -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("end", [".png", ".tif"])
def test_grey_values_are_probabilities_of_the_foreground(dtype, end, problem):
    p = RNG.random(SHAPE)
    most = np.iinfo(dtype).max
    write(problem / "soft" / f"a{end}", np.rint(p * most).astype(dtype))
    found = files.read_logits(f"soft/a{end}", kind="probabilities")
    np.testing.assert_allclose(1 / (1 + np.exp(-found[0])), p, atol=1 / most)
    (problem / "arrays").mkdir()
    np.save("arrays/a.npy", np.rint(p * most).astype(dtype)[None])
    written = []
    for source in ("soft", "arrays"):
        assert refine(source, "--kind", "probabilities", "--write", "marginals") == 0
        with np.load("out/a.npz") as file:
            written.append(file["marginals"])
    np.testing.assert_array_equal(*written)


def test_saliency_is_the_marginal_of_the_foreground(problem, capsys):
    assert refine("logits", "--write", "marginals", "--dtype", "float32") == 0
    with np.load("out/a.npz") as file:
        expected = np.rint(255 * file["marginals"][1])
    (problem / "out" / "a.npz").unlink()
    for options in ([], ["--classes", "1,0"]):
        assert refine("logits", "--write", "saliency", *options) == 0
        mode, grey = stored("out/a.png")
        assert mode == "L"
        np.testing.assert_array_equal(grey, expected)
    labels = (expected > 127).astype(int)
    found = confusion("out", "truth", "--kind", "probabilities", "--label-values", "0,255")
    assert found[1, 1] == (labels & TRUTH).sum() and found.sum() == TRUTH.size
    said = refused(capsys, "evaluate", "out", "truth", "--label-values", "0,255")
    assert "holds probabilities of the foreground, not labels; add --kind probabilities" in said


def test_saliency_of_several_labels_is_refused(problem, capsys):
    np.save("logits/a.npy", np.zeros((3, *SHAPE), np.float32))
    assert refine("logits", "--write", "saliency") == 1
    assert "the marginals have 3 labels and 2 spatial axes; use --write marg" in (
        capsys.readouterr().err
    )


def test_grey_values_are_never_labels_of_two_kinds_in_silence(problem, capsys):
    write(problem / "soft" / "a.png", RNG.integers(0, 256, SHAPE, np.uint8))
    write(problem / "truth" / "a.png", TRUTH)
    assert "add --kind probabilities" in refused(capsys, "evaluate", "soft", "truth")
    assert confusion("soft", "truth", "--kind", "probabilities").sum() == TRUTH.size
    assert refine("soft", "--num-labels", "2") == 1
    assert "add --kind probabilities" in capsys.readouterr().err
    assert refine("soft", "--kind", "probabilities") == 0
    write(problem / "soft" / "a.png", COLOURS[LABELS])
    assert refine("soft", "--kind", "probabilities") == 1
    assert "holds colours; probabilities of the foreground are grey" in capsys.readouterr().err


def test_the_search_in_python_warns_of_a_truth_of_0_and_255():
    from densecrf_rnn import tuning
    from densecrf_rnn.samples import Sample

    image = np.zeros((*SHAPE, 3), np.uint8)
    logits = 3 * np.eye(2, dtype=np.float32)[:, PREDICTION]
    for truth, warned in (
        (TRUTH * np.uint8(255), True), (TRUTH, False), (TRUTH * 0, False),
        (np.where(LABELS == 3, 255, TRUTH), False),
    ):  # fmt: skip
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            tuning.confusions([Sample("one", image, logits, truth)], None, tuning.Task())
        assert len(found) == warned
        assert not warned or "if 255 is the foreground, pass truth // 255" in str(found[0].message)


def test_a_mask_that_is_called_something_else_is_noticed(problem, capsys):
    """Followed, each advice makes the same problem of it, without a warning."""
    assert refine("masks", "--label-values", "0,255", "--write", "marginals") == 0
    with np.load("out/a.npz") as file:
        expected = file["marginals"]
    assert "warning" not in capsys.readouterr().err
    for options, words, way_out in (
        (["--num-labels", "2", "--unsure", "255"], "give --label-values 0,255 in its place",
         ["--num-labels", "2", "--label-values", "0,255"]),
        (["--kind", "probabilities"], "by --kind labels --label-values 0,255",
         ["--kind", "labels", "--label-values", "0,255"]),
    ):  # fmt: skip
        assert refine("masks", *options) == 0
        assert words in capsys.readouterr().err
        assert refine("masks", *way_out, "--write", "marginals") == 0
        assert "warning" not in capsys.readouterr().err
        with np.load("out/a.npz") as file:
            np.testing.assert_array_equal(file["marginals"], expected)


def test_labels_that_jpeg_has_changed_are_refused_and_probabilities_are_not(problem, capsys):
    masks = np.kron(PREDICTION, np.ones((3, 3), np.uint8)) * np.uint8(255)
    write(problem / "lossy" / "a.jpg", masks)
    for read in (files.read_labels, files.read_mask):
        with pytest.raises(ValueError, match="JPEG changes labels where they meet; save label"):
            read("lossy/a.jpg")
    said = refused(capsys, "evaluate", "lossy", "lossy", "--label-values", "0,255")
    assert "JPEG changes labels" in said and "add --kind probabilities" in said
    assert files.read_logits("lossy/a.jpg", kind="probabilities").shape == (1, *masks.shape)


@pytest.mark.parametrize("dtype, most", [(np.uint8, 1), (np.uint16, 1), (np.uint16, 255)])
def test_probabilities_of_another_scale_are_noticed(dtype, most, problem, capsys):
    write(problem / "soft" / "a.png", (PREDICTION * most).astype(dtype))
    words = ["soft", "images", "-o", "out", "--iterations", "0", "--kind", "probabilities"]
    assert main(["refine", *words]) == 0
    said = capsys.readouterr().err
    full = f"{np.dtype(dtype)} {np.iinfo(dtype).max}"
    assert f"probabilities is {most}, but in {full} stands for" in said
    # `evaluate` knows the labels of the truth, so it takes the file for a label map
    words = ("soft", "truth", "--label-values", "0,255")
    found = confusion(*words, "--kind", "probabilities")
    np.testing.assert_array_equal(found, confusion(*words, "--kind", "labels"))
    assert refine("soft") == 2
    assert "grey images of probabilities: add --kind probabilities" in capsys.readouterr().err


@pytest.mark.parametrize("void", [None, 1, 9, 300])
def test_values_of_labels_and_void_are_those_that_were_read(void):
    values = LabelValues(values=(0, 255), void=void)
    stored = np.array([[0, 255, 0 if void is None else void]])
    found = values.stored(values.labels(Path("a.png"), stored))
    assert found.tolist() == stored.tolist() and found.dtype.kind == "u"
    with pytest.raises(ValueError, match="labels hold 2, but there are values for the labels 0..1"):
        values.stored(np.array([[2]]))
