"""Score published weights by inference alone, and build the networks that they belong to."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from densecrf_rnn import CRFParams, CRFRNN
from densecrf_rnn.files import replaced
from densecrf_rnn.metrics import bootstrap_interval, class_iu, mean_iu

from . import datasets, digests, evaluation, weights
from .config import Config
from .design import stored
from .networks import FCNCRF, VGG16FCN
from .pictures import Pictures, check_masks
from .training import machine, make_crf
from .voc import PAPER_COUNTS

SIZE = 500  # rows and columns that the released CRF-RNN pads images to
ITERATIONS = 10  # T of the published numbers
PART = 16  # images whose confusion matrices are stored at a time
# Published mean IU, Table 1: without and with COCO.
PUBLISHED = {"plain": "61.3 / 68.3", "disconnected": "63.7 / 69.5", "end-to-end": "69.6 / 72.9"}
# Settings of the released CRF-RNN, under which its weights were learned.
RELEASED = {"theta_alpha": 160.0, "theta_beta": 3.0, "theta_gamma": 3.0, "w_bilateral": 5.0,
            "w_spatial": 3.0}
# Mean, in the order BGR, that the demos of the CRF-RNN release and of crfasrnn_pytorch subtract;
# the FCN release subtracts `CAFFE_MEAN`.
CRFRNN_MEAN = (103.939, 116.779, 123.68)


def build(path: str | Path, iterations: int = ITERATIONS) -> tuple[FCNCRF, weights.Loaded]:
    """Return the network of a published file, with its CRF if it has one, in eval().

    Labels, stride and numbers of channels are those of the file. The head has full weight
    matrices, filters both kernels by lattices and sees the image as in the released code.

    Parameters
    ----------
    path : str or Path
        A .caffemodel of the FCN authors or of CRF-RNN, or a model of crfasrnn_pytorch.
    iterations : int
        Of the mean field.

    Raises
    ------
    ValueError
        It is another file, or VGG-16 without scores.
    """
    named, crf = weights.read_published(path)
    missing = [n for n in ("conv1_1", "fc7", "score_fr")
               if not {f"{n}.weight", f"{n}.bias"} <= named.keys()]
    if missing:
        raise ValueError(
            f"{path} has no layer {', '.join(missing)}, so it labels no pixels; give a published "
            "FCN or CRF-RNN, or train with it as --init"
        )
    if any(name.startswith("scale_pool") for name in named):
        raise ValueError(
            f"{path} is a net trained at once, which scales pool3 and pool4; give the FCN that was "
            "trained in stages (fcn8s-heavy-pascal.caffemodel)"
        )
    labels = np.shape(named["score_fr.bias"])[-1]
    stride = next((s for s, name in ((8, "score_pool3"), (16, "score_pool4"))
                   if f"{name}.weight" in named), 32)
    fc = np.shape(named["fc7.bias"])[-1]
    head = None
    if crf:
        head = CRFRNN(labels, params=CRFParams(**RELEASED, spatial="lattice"),
                      kernel_weights="full", eval_iterations=iterations)
    fcn = VGG16FCN(labels, stride, width=min(max(1, 4096 // max(1, fc)), 64))
    if crf:
        fcn.mean.copy_(torch.tensor(CRFRNN_MEAN).view(3, 1, 1))
    model = FCNCRF(fcn, head, as_published=True)
    report = weights.load_published(model, named, crf, path)
    # Deconvolutions that a file leaves out interpolate bilinearly, as the published ones do.
    if absent := [n for n in report.left if not n.removeprefix("fcn.").startswith("upscore")]:
        raise ValueError(f"{path} lacks {', '.join(absent)}, or they have other shapes; give a "
                         "complete FCN or CRF-RNN")
    return model.eval(), report


@dataclass
class Scoring:
    """Scores of published nets on the reduced validation list of VOC 2012.

    Parameters
    ----------
    data, out : str or Path
        Folder of VOC and SBD; folder for results, in which an interrupted call continues.
    iterations : int
        T of the mean field.
    search : bool
        Search for the CRF of the disconnected row on training images; else it is the released one.
    size : int or None
        As in `evaluation.padded`.
    limit : int, optional
        Score only the first images.
    device, command : str
    """

    data: str | Path
    out: str | Path
    iterations: int = ITERATIONS
    search: bool = True
    size: int | None = SIZE
    limit: int | None = None
    device: str = "cpu"
    command: str = ""
    parts: dict = field(init=False)

    def __post_init__(self):
        if self.iterations < 1:
            raise ValueError(f"--iterations is {self.iterations}; give at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit is {self.limit}; score at least one image")
        if self.size is not None and self.size < 1:
            raise ValueError(f"--size is {self.size}; give a number of pixels, or 0 for none")
        self.out = Path(self.out)
        self.parts = datasets.load("voc", self.data)
        report = self.parts["report"]
        self.report = report.part(report.items[: self.limit], "the first") if self.limit else report
        self.note = list_note(self.report)
        if self.note:
            print(self.note)
        check_masks(self.report)

    def rows(self, path: Path) -> list[dict]:
        """Return the rows of Table 1 that a file gives: two of an FCN, three of a CRF-RNN."""
        model, report = build(path, self.iterations)
        print(report)
        labels = len(self.report.classes)
        if model.fcn.labels != labels:
            raise ValueError(
                f"{path} has {model.fcn.labels} labels, but {self.report.name} {labels}; "
                "give a net that was trained on VOC"
            )
        made_of = [digests.of_file(path), digests.of_pictures(self.report), self.size]
        folder = self.out / Path(path).stem
        folder.mkdir(parents=True, exist_ok=True)
        as_paper = self.iterations == ITERATIONS and model.fcn.stride == 8
        if model.crf is not None:
            counts = sorted({0, 5, self.iterations})
            found = self.confusions(model, folder / "crf-rnn", made_of, counts)
            return [
                self.row(f"CRF-RNN, end to end, T = {count}" if count else
                         "the same network without its CRF",
                         "end-to-end" if as_paper and count == ITERATIONS else None, path,
                         found[:, i], {"T": count}) for i, count in enumerate(counts)
            ]
        found = self.confusions(model, folder / "plain", made_of, (None,))
        name = f"FCN-{model.fcn.stride}s"
        key = "plain" if model.fcn.stride == 8 else None
        rows = [self.row(name, key, path, found[:, 0], {})]
        settings = self.crf_settings(model, path, folder)
        config = self.head(**settings)
        model.crf = make_crf(config, labels).eval()
        found = self.confusions(model, folder / "disconnected",
                                [*made_of, settings, self.iterations, config.spatial], (None,))
        key = "disconnected" if as_paper else None
        return [*rows, self.row(f"{name} and CRF, disconnected", key, path, found[:, 0],
                                {**settings, "T": self.iterations})]

    def crf_settings(self, model, path: Path, folder: Path) -> dict:
        """Return the settings of the CRF behind a network that was trained without one."""
        if not self.search:
            return RELEASED
        select = self.parts["select"]
        check_masks(select)
        config = self.head()
        made_of = [digests.of_file(path), digests.of_pictures(select), self.size, self.iterations,
                   config.spatial,
                   json.loads(json.dumps(evaluation.SEARCH))]
        return stored(folder / "crf.json", made_of, lambda: evaluation.choose_crf(
            model.fcn, config, select, self.device, size=self.size)[0])

    def head(self, **settings) -> Config:
        """Return the configuration of the disconnected CRF: filters as in the released code."""
        return Config(backbone="vgg16", eval_iterations=self.iterations, spatial="lattice",
                      **settings)

    def confusions(self, model, path: Path, made_of, iterations) -> np.ndarray:
        """Return confusion matrices [images, iterations, L, L], stored a few images at a time."""
        arrays = []
        for first in range(0, len(self.report), PART):
            part = self.report.part(self.report.items[first : first + PART], f"{first + 1} on")
            about = json.dumps([made_of, digests.of_pictures(part), iterations])
            arrays.append(evaluation.stored_confusions(
                path.with_name(f"confusions-{path.name}-{first:05d}.npz"), about,
                partial(evaluation.confusions, model, part, iterations, self.device,
                        size=self.size)))
        return np.concatenate(arrays)[:, :, 0]

    def row(self, text: str, key: str | None, path: Path, array, settings: dict) -> dict:
        """Return a row of the table: its score, its interval over images and its origin."""
        total = array.sum(0, dtype=np.int64)
        low, high = (None, None)
        if len(array) > 1:
            low, high = (100 * x for x in bootstrap_interval(array, mean_iu, resamples=500))
        ious = dict(zip(self.report.classes, (100 * class_iu(total)).tolist(), strict=True))
        return {"row": text, "mean IU": 100 * mean_iu(total), "interval": [low, high],
                "published": PUBLISHED.get(key, ""), "file": Path(path).name,
                "settings": settings, "IU": {k: None if v != v else v for k, v in ious.items()}}


def list_note(report: Pictures) -> str:
    """Return how the images that are scored differ from the paper's list; empty if they do not."""
    count = PAPER_COUNTS["reduced validation"]
    reduced = "reduced val" in report.name
    if reduced and len(report) == count:
        return ""
    why = "" if reduced else "The published nets were trained on SBD, which has images of val. "
    return (f"These are not the {count} images of the paper's reduced list but {len(report)} of "
            f"{report.name}. {why}The numbers are not comparable with the published ones.")


def published(paths, scoring: Scoring) -> Path:
    """Write published.md and published.json: rows of Table 1 by inference alone."""
    for path in paths:
        weights.kind_of(path)  # a path that is wrong is named before hours of scoring
    rows = [row for path in paths for row in scoring.rows(Path(path))]
    about = {"command": scoring.command, "images": len(scoring.report),
             "list": scoring.report.name, "note": scoring.note, "padded to": scoring.size,
             "machine": machine(scoring.device), "rows": rows}
    with replaced(scoring.out / "published.json") as part:
        part.write_text(json.dumps(about, indent=1) + "\n")
    size = f"padded to {scoring.size} x {scoring.size}" if scoring.size else "of their own sizes"
    lines = ["# published", "", f"`{scoring.command}`", "",
             f"{scoring.report.name}, {len(scoring.report)} images, {size}; intervals: 95 %, "
             f"bootstrap over images. {about['machine']}.", "",
             "| | mean IU | interval | published, without / with COCO | file |",
             "| --- | --- | --- | --- | --- |"]
    if scoring.note:
        lines[5:5] = ["", scoring.note]
    for row in rows:
        low, high = row["interval"]
        between = "" if low is None else f"{low:.2f} to {high:.2f}"
        lines.append(f"| {row['row']} | {row['mean IU']:.2f} | {between} | {row['published']} | "
                     f"{row['file']} |")
    path = scoring.out / "published.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return path
