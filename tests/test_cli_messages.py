"""Messages of the command line name its options, not Python; following them works."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import densecrf_rnn
from densecrf_rnn import files
from densecrf_rnn.cli import _options, _parser, _remedies, main

pytest.importorskip("tqdm", reason="the commands need the extra cli")
Image = pytest.importorskip("PIL.Image")
PACKAGE = Path(densecrf_rnn.__file__).parent
LOGITS = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
IMAGE = np.random.default_rng(1).integers(0, 256, (8, 9, 3), np.uint8)
# What only a Python caller can write.
PYTHON = re.compile(
    r"np\.\w|torch\.|\.astype|newbyteorder|\.numpy\(|\.to\(|\.float\(|\[None\]|\[\.\.\.|\[b\]"
    r"|image \* 255|kind=|exif=|multilabel=|clip=|unaries|`key`|read_labels|float64 logits"
    r"|unsure=|num_labels=|theta_beta=|files\.normalized|ranges=|\[:, None\]|LabelValues|\bvoid="
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf_rnn.cli.refine.keep_memory", lambda most: None)
    np.save("image.npy", IMAGE)
    return tmp_path


def refine(*options, logits="logits.npy", image="image.npy"):
    return main(["refine", logits, image, "-o", "out", "--iterations", "1", *options])


def write_turned(name):
    """Write the image with EXIF data that say it is upside down."""
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[274] = 3
    image.fromarray(IMAGE).save(name, exif=exif)


def probabilities():
    p = np.exp(LOGITS)
    return p / p.sum(0)


# The array in logits.npy, that in image.npy, and options; then words of the advice, and the options
# or arrays by which it is followed.
ADVICE = {
    "probabilities": (
        probabilities(), IMAGE, [], "if they are, add --kind probabilities",
        {"options": ["--kind", "probabilities"]},
    ),
    "an image in 0..1": (
        LOGITS, IMAGE / np.float32(255), ["--theta-beta", "5"], "give --theta-beta 0.",
        {"options": ["--theta-beta", "0.02"]},
    ),
    "a sigmoid": (
        probabilities()[:1], IMAGE, [], "if they are, add --kind probabilities",
        {"options": ["--kind", "probabilities"]},
    ),
    "sigmoids that overlap": (
        probabilities()[[0, 1, 1]], IMAGE, [],
        "add --kind regions, or for one label per pixel --kind probabilities --clip",
        {"options": ["--kind", "probabilities", "--clip"]},
    ),
    "sigmoids that overlap, refined as such": (
        probabilities()[[0, 1, 1]], IMAGE, [], "add --kind regions",
        {"options": ["--kind", "regions"]},
    ),
    "sigmoids called logits of regions": (
        probabilities()[[0, 1, 1]], IMAGE, ["--kind", "region-logits"],
        "if they are, give --kind regions", {"options": ["--kind", "regions"]},
    ),
    "logits called regions": (
        LOGITS, IMAGE, ["--kind", "regions"], "for their logits give --kind region-logits",
        {"options": ["--kind", "region-logits"]},
    ),
    "regions that overshoot": (
        1.2 * probabilities(), IMAGE, ["--kind", "regions"], "are clipped with --clip",
        {"options": ["--kind", "regions", "--clip"]},
    ),
    "sigmoids called probabilities": (
        probabilities()[[0, 1, 1]], IMAGE, ["--kind", "probabilities"],
        "add --kind regions if the maps may overlap, or divide by the sum with --clip",
        {"options": ["--kind", "probabilities", "--clip"]},
    ),
    "scores above 1": (
        1.5 * probabilities(), IMAGE, ["--kind", "probabilities"],
        "clipped and divided by their sum with --clip",
        {"options": ["--kind", "probabilities", "--clip"]},
    ),
    "percentages": (
        100 * probabilities(), IMAGE, [], "save them divided by 100 and add --kind probabilities",
        {"logits": probabilities(), "options": ["--kind", "probabilities"]},
    ),
    "a mask of 0 and 255 called a logit": (
        255 * (LOGITS[:1] > 0).astype(np.float32), IMAGE, [],
        "save them in 0..1 and add --kind probabilities",
        {"logits": (LOGITS[:1] > 0).astype(np.float32), "options": ["--kind", "probabilities"]},
    ),
    "percentages in integers": (
        (100 * probabilities()[:1]).astype(np.uint8), IMAGE, ["--kind", "probabilities"],
        "if 100 stands for 1 here, save them divided by 100 as floating point (.npy, .tif)",
        {"logits": probabilities()[:1], "options": ["--kind", "probabilities"]},
    ),
    "a mask of 0 and 1 in integers": (
        (LOGITS[:1] > 0).astype(np.uint8), IMAGE, ["--kind", "probabilities"],
        "if 1 stands for 1 here, save them as floating point (.npy, .tif); for a mask or a label "
        "map add --kind labels",
        {"logits": (LOGITS[0] > 0).astype(np.uint8),
         "options": ["--kind", "labels", "--num-labels", "2"]},
    ),
    "integer probabilities": (
        (255 * probabilities()).astype(np.uint8), IMAGE, [], "add --kind probabilities",
        {"options": ["--kind", "probabilities"]},
    ),
    "logits called probabilities": (
        LOGITS, IMAGE, ["--kind", "probabilities"], "for logits give --kind logits",
        {"options": ["--kind", "logits"]},
    ),
    "labels last": (
        LOGITS.transpose(1, 2, 0), IMAGE, [], "add --labels-last",
        {"options": ["--labels-last"]},
    ),
    "labels first": (
        LOGITS, IMAGE, ["--labels-last"], "leave --labels-last out", {"options": []},
    ),
    "channels first": (
        LOGITS, IMAGE.transpose(2, 0, 1), [], "save it with its channels last", {"image": IMAGE},
    ),
    "coarse logits": (
        LOGITS[:, ::2, ::2], IMAGE, [], "--upsample {corners,centers}",
        {"options": ["--upsample", "corners"]},
    ),
    "a binary volume": (
        LOGITS[:1].repeat(5, 0), IMAGE[None].repeat(5, 0), [],
        "a volume of one logit per voxel is stored as [1, D, H, W]",
        {"logits": LOGITS[:1, None].repeat(5, 1)},
    ),
    "tiles of integers": (
        (255 * probabilities()).astype(np.uint8), IMAGE, ["--tile", "8"],
        "add --kind probabilities", {"options": ["--tile", "8", "--kind", "probabilities"]},
    ),
    "tiles with channels first": (
        LOGITS, IMAGE.transpose(2, 0, 1), ["--tile", "8"], "channels must come last in the file",
        {"image": IMAGE, "options": ["--tile", "8"]},
    ),
    "tiles with labels last": (
        LOGITS.transpose(1, 2, 0)[..., :2], IMAGE, ["--tile", "8"],
        "labels must come first in the file",
        {"logits": LOGITS, "options": ["--tile", "8"]},
    ),
    "tiles of labels in floating point": (
        LOGITS.argmax(0).astype(np.float32), IMAGE, ["--tile", "8"], "for a label map add --kind",
        {"options": ["--tile", "8", "--kind", "labels", "--num-labels", "3"]},
    ),
    "tiles with an unknown label": (
        np.full((8, 9), 7), IMAGE, ["--kind", "labels", "--num-labels", "3", "--tile", "8"],
        "not among those to keep (--classes or --num-labels); add --unsure 7 if it means unknown",
        {"options": ["--kind", "labels", "--num-labels", "3", "--unsure", "7", "--tile", "8"]},
    ),
    "tiles of a batch": (
        np.stack([LOGITS, LOGITS]), np.stack([IMAGE, IMAGE]), ["--tile", "8"],
        "save one file per image", {"logits": LOGITS, "image": IMAGE, "options": ["--tile", "8"]},
    ),
    "bandwidths too small for float32": (
        LOGITS, IMAGE, ["--theta-alpha", "0.000001"], "use larger bandwidths", {"options": []},
    ),
    "units in which no bandwidth is accepted": (
        LOGITS, IMAGE * 1e-9, [],
        "save the image times 1.1e+08, or add --normalize percentile, because a --theta-beta",
        {"image": IMAGE * 1e-9 * 1.1e8},
    ),
    "labels without a number": (
        LOGITS.argmax(0), IMAGE, ["--kind", "labels"], "give --num-labels L",
        {"options": ["--kind", "labels", "--num-labels", "3"]},
    ),
    "an unknown label": (
        np.full((8, 9), 7), IMAGE, ["--kind", "labels", "--num-labels", "3"], "add --unsure 7",
        {"options": ["--kind", "labels", "--num-labels", "3", "--unsure", "7"]},
    ),
    "a foreground of 255": (
        255 * (IMAGE[..., 0] > 99), IMAGE, ["--kind", "labels", "--num-labels", "2"],
        "add --label-values 0,255 if 255 is the foreground, or --unsure 255 if it means unknown",
        {"options": ["--kind", "labels", "--num-labels", "2", "--label-values", "0,255"]},
    ),
    "a value that is not listed": (
        np.minimum(IMAGE[..., 0], 1) * 7, IMAGE, ["--kind", "labels", "--label-values", "0,255"],
        "add --ignore 7 (TRUTH) or --unsure 7 (LOGITS)",
        {"options": ["--kind", "labels", "--label-values", "0,255", "--unsure", "7"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADVICE)
@pytest.mark.filterwarnings("ignore:numpy.core.numeric")
def test_advice_names_options_and_works(case, folder, capsys):
    logits, image, options, words, way_out = ADVICE[case]
    np.save("logits.npy", logits)
    np.save("image.npy", image)
    refine(*options)
    said = capsys.readouterr().err
    assert words in said
    assert not PYTHON.search(said)
    np.save("logits.npy", way_out.get("logits", logits))
    np.save("image.npy", way_out.get("image", image))
    assert refine(*way_out.get("options", options)) == 0
    assert words not in capsys.readouterr().err


GREY = IMAGE[..., 0]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"mask.png": IMAGE}, "holds colours; a mask has one channel, so save it in grey, with 0 "
         "for pixels to exclude"),
        ({"mask.jpg": GREY}, "but JPEG changes labels where they meet; save label maps and masks "
         "as PNG, from before they became JPEG or with a threshold"),
        ({"mask.png": np.dstack([IMAGE, GREY])}, "has transparent pixels; save a mask without "
         "alpha"),
        ({"mask.npy": GREY / 255}, "holds fractions; a mask holds integers"),
        ({"mask.npy": IMAGE}, "mask is 8 x 9 x 3 but logits is 8 x 9; make them equal"),
        ({"mask.txt": None}, "mask.txt: .txt cannot be read as a mask; choose from .npy"),
        ({"mask.png": "saliency"}, "holds probabilities of the foreground, not a mask; save where "
         "they exceed a threshold"),
        ({"mask.npz": {"a": GREY, "b": GREY}}, "'a', 'b'; save the mask in a file of its own"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_mask_helps_for_masks(mask, words, folder, capsys):
    """Options that say what label maps hold, such as --colours and --kind, do not read masks."""
    ((name, content),) = mask.items()
    if isinstance(content, str):
        files.write_saliency(name, GREY / 255)
    elif isinstance(content, dict):
        np.savez(name, **content)
    elif content is None:
        Path(name).touch()
    elif name.endswith(".npy"):
        np.save(name, content)
    else:
        Image.fromarray(content).save(name)
    np.save("logits.npy", LOGITS)
    assert refine("--mask", name) != 0
    said = capsys.readouterr().err
    assert words in said
    assert "--colours" not in said and "--kind" not in said and "--key" not in said
    assert not PYTHON.search(said)
    np.save("good.npy", GREY > 99)
    assert refine("--mask", "good.npy") == 0


def test_an_array_of_several_is_chosen_by_an_option(folder, capsys):
    np.savez("logits.npz", a=LOGITS, b=LOGITS)
    assert refine(logits="logits.npz") == 1
    assert "'a', 'b'; choose one by the option --key, --image-key or" in capsys.readouterr().err
    assert refine("--key", "b", logits="logits.npz") == 0


@pytest.mark.parametrize(
    ("logits", "image", "option"),
    [
        ("case_000", "case_000_0000", ["--image-suffix", "_0000"]),
        ("case_000-logits", "case_000", ["--logits-suffix=-logits"]),
        ("case_1", "case_10", None),
    ],
)
def test_the_suffix_that_is_suggested_pairs_files(logits, image, option, folder, capsys):
    for name, stem, array in (("logits", logits, LOGITS), ("images", image, IMAGE)):
        Path(name).mkdir()
        np.save(f"{name}/{stem}.npy", array)
    assert refine(logits="logits", image="images") == 2
    said = capsys.readouterr().err
    if option is None:
        assert f"the stems are such as '{logits}' and '{image}'; matching files need equal" in said
        return
    assert f"'{logits}' has no partner, but '{image}' exists; try {' '.join(option)}\n" in said
    assert refine(*option, logits="logits", image="images") == 0


def test_every_remedy_is_one_that_a_message_has(folder, capsys, monkeypatch):
    """Each pattern of the table occurs above: none is left of a message that has changed."""
    used = set()
    translate = _remedies.in_options

    def spy(message):
        used.update(p for p, _ in _remedies._COMPILED if p.search(message))
        return translate(message)

    for module in ("_remedies", "_messages"):
        monkeypatch.setattr(f"densecrf_rnn.cli.{module}.in_options", spy)
    for logits, image, options, _, _ in ADVICE.values():
        np.save("logits.npy", logits)
        np.save("image.npy", image)
        refine(*options)
    np.savez("logits.npz", a=LOGITS, b=LOGITS)
    refine(logits="logits.npz")
    Path("films/film1").mkdir(parents=True)
    refine(logits="films", image="films")
    Image.fromarray(IMAGE).save("labels.png")
    refine("--num-labels", "2", logits="labels.png")
    write_turned("image.png")
    refine("--key", "a", logits="logits.npz", image="image.png")
    nibabel = pytest.importorskip("nibabel")
    for name, size in (("logits.nii", (2, 2, 2, 3)), ("image.nii", (4, 4, 4))):
        nibabel.save(nibabel.Nifti1Image(np.zeros(size, np.float32), np.eye(4)), name)
    refine(logits="logits.nii", image="image.nii")
    raw = bytearray(Path("image.nii").read_bytes())
    raw[80:84], raw[252:256] = np.float32(np.nan).tobytes(), bytes(4)  # a voxel size, and no affine
    Path("image.nii").write_bytes(raw)
    np.save("volume.npy", np.zeros((2, 4, 4, 4), np.float32))
    refine(logits="volume.npy", image="image.nii")
    with monkeypatch.context() as small:
        small.setattr("densecrf_rnn._limits.INDEX_BITS", 5)
        np.save("logits.npy", LOGITS)
        np.save("image.npy", IMAGE)
        refine()
    with monkeypatch.context() as exact:
        numba = pytest.importorskip("densecrf_rnn.engines.numba")
        exact.setattr(numba.Numba, "prunes", False)
        refine("--prune", "0.01", "--backend", "numba")
    pytest.importorskip("optuna")
    np.save("pickled.npy", np.array([None]))
    np.save("truth.npy", LOGITS.argmax(0))
    np.save("logits.npy", LOGITS)
    np.save("image.npy", IMAGE)
    refine(logits="pickled.npy")
    with pytest.importorskip("h5py").File("gaps.h5", "w") as file:
        file.create_dataset("a", LOGITS.shape, np.float32)  # never written
    refine(logits="gaps.h5")
    refine("--strict", logits="gaps.h5")
    np.lib.format.open_memmap("huge.npy", "w+", np.float32, (2, 3000, 3000))  # sparse
    refine(logits="huge.npy")
    fixed = [word for name in ("theta-alpha", "theta-beta", "theta-gamma", "w-bilateral",
                               "w-spatial") for word in (f"--{name}", "3")]  # fmt: skip
    for options in (["--truth-key", "x"], ["--labels", "2"]):
        main(["evaluate", "truth.npy", "truth.npy", *options])
    for options in (["--folds", "2"], ["--theta-alpha", "9,3"], fixed):
        main(["tune", "logits.npy", "image.npy", "truth.npy", *options])
    np.save("image.npy", IMAGE / np.float32(255))
    main(["tune", "logits.npy", "image.npy", "truth.npy", "--trials", "1", "--iterations", "1"])
    assert "give --theta-beta" in capsys.readouterr().err
    unused = {pattern.pattern for pattern, _ in _remedies._COMPILED if pattern not in used}
    assert not unused


# Functions whose messages hold Python that the command line never shows, and why.
NOT_SHOWN = {
    "dtype": "it removes `torch.` from a name",
    "read_torch": "it names what the file must be",
    "array_kind": "it passes NumPy arrays alone",
    "same_device": "tensors",
    "unmasked": "no reader returns a masked array",
    "values": "lattices of one's own",
    "mask": "masks are read as bool, of the shape that `Inputs` compares",
    "_pickled": "how a file is saved is up to Python",
    "logits_from_labels": "`channels_of` has looked for foreign labels",
    "maps": "tensors of a filter or a loss",
    "filtered": "tensors of a filter",
    "from_queries": "no file holds queries",
    "_names": "`Inputs` asks for the number of labels",
    "_check_of_kind": "`Inputs` refuses such options",
    "check_clip": "`Inputs` refuses such options",
    "_check_multilabel": "`_regions.are_given` compares the options",
}


def test_python_in_a_message_is_in_the_table_or_never_shown():
    """A function that newly advises Python must be triggered above, or named with a reason."""
    shown = {
        "float_dtype", "logits", "image", "_size_hint", "_way_out_of_probabilities", "image_units",
        "_rescaled", "rescaling", "probability_range", "probability_sums", "choose",
        "stored_logits", "read_maps", "grey", "_unknown", "read_labels", "upright", "judge",
        "_of_labels", "_one_foreground",
    }  # fmt: skip
    paths = [*(PACKAGE / "checks").glob("*.py"), *(PACKAGE / "files").glob("*.py"),
             PACKAGE / "unaries.py", PACKAGE / "upsampling.py", PACKAGE / "params.py"]  # fmt: skip
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                texts = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)} - {doc}
                if any(isinstance(text, str) and PYTHON.search(text) for text in texts):
                    found.add(node.name)
    assert found - NOT_SHOWN.keys() == shown


@pytest.mark.parametrize("command", ["demo", "refine", "evaluate", "tune", "info"])
def test_help_says_what_every_option_does(command):
    required = {"refine": ["a", "b", "-o", "c"], "evaluate": ["a", "b"], "tune": ["a", "b", "c"]}
    parser = _parser([command]).parse_args([command, *required.get(command, [])]).parser
    for action in parser._actions:
        assert action.help and not PYTHON.search(action.help), action
    assert len(parser.format_help()) > 100
    assert _options.UNRECORDED.keys() <= {"refine", "tune"}
    assert files.PACKAGES
