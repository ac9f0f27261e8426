"""Label images with a trained or a published network, also for VOC's evaluation server."""

import json
import tarfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from tqdm import tqdm

from densecrf_rnn.files import Settings, replaced, write_labels, write_settings

from . import digests, evaluation, figures, published, weights
from .networks import FCNCRF
from .pictures import image_of, read_image, read_names
from .training import load_trained
from .voc import required_folder

ABOUT = "predict.json"
REMEMBERED = 5.0  # seconds between two writings of ABOUT, which lists all results
CRF = "crf.json"  # settings of the head, for densecrf-rnn refine --params
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
YEARS = (2010, 2011, 2012)  # VOC's test lists that the paper reports
VOC_LABELS = 21
# "comp6": training data beyond VOC's own, such as SBD's and ImageNet's.
SERVER = "results/VOC{year}/Segmentation/comp6_test_cls"


def load(path: str | Path, iterations: int | None = None) -> FCNCRF:
    """Return the model of a checkpoint of ours or of a published file, in eval().

    Parameters
    ----------
    path : str or Path
    iterations : int, optional
        T of its head; default that of the checkpoint, or 10.
    """
    if weights.kind_of(path) == "torch" and {"config", "model"} <= weights.read_torch(path).keys():
        model, _ = load_trained(path)
    else:
        model, report = published.build(path)
        print(report)
    evaluation.check_iterations(model, iterations)
    if iterations is not None and model.crf is not None:
        model.crf.eval_iterations = iterations
    return model


def head_settings(model: FCNCRF) -> Settings | None:
    """Return the head's settings as `densecrf-rnn refine --params` takes them, or None.

    It takes neither full weight matrices nor untied iterations nor ReLU, and has no head to start
    with if the network has none.
    """
    crf = model.crf
    if crf is None or not crf.tied or crf.update != "softmax" or crf.kernel_weights.dim() > 2:
        return None
    bilateral, spatial = (
        tuple(w.tolist()) if w.dim() else w.item() for w in crf.kernel_weights.detach().double())
    params = replace(crf.params, w_bilateral=bilateral, w_spatial=spatial)
    compatibility = crf.compatibility.detach().double().cpu().numpy()
    return Settings(params, crf.eval_iterations, compatibility)


@dataclass
class Predicting:
    """Label images, one after the other; what an earlier call has written is kept.

    Parameters
    ----------
    checkpoint : str or Path
        A last.pt of ours, a .caffemodel or a model of crfasrnn_pytorch.
    out : str or Path
        Takes NAME.png for each image, and NAME.npy with `logits`.
    logits : bool
        Also write the network's logits before the CRF, float32 [L, H, W], and the settings of the
        head in crf.json if `head_settings` has any.
    iterations : int, optional
        See `load`.
    size : int, optional
        See `evaluation.padded`; 0: no padding. Default 500 for a published net, else 0.
    device : str

    Raises
    ------
    ValueError
        `out` holds predictions of another network or with other settings, or label images would
        overwrite other files, or the labels of another image of the same name.
    """

    checkpoint: str | Path
    out: str | Path
    logits: bool = False
    iterations: int | None = None
    size: int | None = None
    device: str = "cpu"
    # Of each PNG file that is ours: "from", its image; "labels" and "logits", the digest of the
    # image that each of its two files was made of, None if it is still to be made.
    done: dict[str, dict] = field(init=False)
    own: bool = field(init=False)  # whether `out` was made by an earlier call

    def __post_init__(self):
        if self.size is not None and self.size < 0:
            raise ValueError(f"--size is {self.size}; give a number of pixels, or 0 for none")
        self.out = Path(self.out)
        self.model = load(self.checkpoint, self.iterations).to(self.device)
        if self.size is None and self.model.as_published:
            self.size = published.SIZE
        iterations = None if self.model.crf is None else self.model.crf.eval_iterations
        made_of = [digests.of_file(self.checkpoint), iterations, self.size or None]
        known = digests.known(self.out / ABOUT)
        if known.get("made_of", made_of) != made_of:
            raise ValueError(
                f"{self.out} holds predictions of another network, or with another --iterations "
                f"or --size; give another --out, or remove {self.out}"
            )
        self.made_of, self.done, self.own = made_of, known.get("results", {}), bool(known)

    @property
    def labels(self) -> int:
        """Number of labels."""
        return self.model.fcn.labels

    def run(self, images: list[Path], folder: Path | None = None, upright=True) -> list[Path]:
        """Label images and return the files of their labels, in `folder` (default `out`).

        `upright` turns images as cameras noted it, as viewers do.
        """
        folder = folder or self.out
        self.check_targets(images, folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in images:  # noted before they are written, so that a killed call can continue
            entry = self.done.setdefault(self.name_of(path, folder), {"labels": None})
            entry["from"] = str(path.resolve())
            if self.logits:
                entry.setdefault("logits", None)
        self.remember()
        if self.logits and (settings := head_settings(self.model)):
            write_settings(self.out / CRF, settings)
        written, noted = [], time.monotonic()
        try:
            for path in tqdm(images, "labels", leave=False, disable=None):
                target = folder / f"{path.stem}.png"
                scores = folder / f"{path.stem}.npy" if self.logits else None
                digest, entry = digests.of_file(path), self.done[self.name_of(path, folder)]
                wanted = {"labels": target} | ({"logits": scores} if self.logits else {})
                if any(not p.exists() or entry[kind] != digest for kind, p in wanted.items()):
                    self.label(read_image(path, upright), target, scores)
                    entry |= dict.fromkeys(wanted, digest)
                    if time.monotonic() - noted > REMEMBERED:
                        self.remember()
                        noted = time.monotonic()
                written.append(target)
        finally:
            self.remember()
        return written

    def name_of(self, image: Path, folder: Path) -> str:
        """Return the name of an image's labels in `done`."""
        return (folder / f"{image.stem}.png").relative_to(self.out).as_posix()

    def check_targets(self, images: list[Path], folder: Path) -> None:
        """Raise ValueError if labels would lie among the images, or overwrite other files."""
        inside = next((p for p in images if p.resolve().parent == folder.resolve()), None)
        if inside is not None:
            raise ValueError(f"{folder} is the folder of {inside}; give another --out for labels")
        kinds = {"labels": ".png"} | ({"logits": ".npy"} if self.logits else {})
        for path in images:
            entry = self.done.get(self.name_of(path, folder), {})
            for kind, end in kinds.items():
                target = folder / f"{path.stem}{end}"
                if target.exists() and kind not in entry:
                    self.reject(target)
            labels, other = folder / f"{path.stem}.png", Path(entry.get("from", path.resolve()))
            clash = labels.exists() and other != path.resolve()
            if clash and entry["labels"] != digests.of_file(path):
                raise ValueError(
                    f"{labels} holds the labels of {other}, and {path} has the same name; give "
                    "another --out"
                )
        settings = self.out / CRF
        if self.logits and settings.exists() and not self.own:
            self.reject(settings)

    def reject(self, target: Path) -> NoReturn:
        """Raise the error for a file that is not ours."""
        raise ValueError(
            f"{target} exists, and {self.out} holds no {ABOUT} that says it is a result; give "
            "another --out, or remove the file"
        )

    @torch.no_grad()
    def label(self, image: np.ndarray, target: Path, scores: Path | None) -> None:
        """Write the labels of an image, and the network's logits if asked for."""
        batch = evaluation.padded(image, self.model.fcn, self.size or None).to(self.device)
        logits = self.model.fcn(batch)
        result = next(iter(evaluation.refined(self.model, logits, batch, (None,))))
        labels = evaluation.labels_of(result, image.shape)
        with replaced(target) as part:
            write_labels(part, labels, palette=figures.palette_of(self.labels))
        if scores is not None:
            rows, columns = image.shape[:2]
            with replaced(scores) as part:
                np.save(part, logits[0, :, :rows, :columns].float().cpu().numpy())

    def remember(self) -> None:
        """Store what has been written, and from what."""
        with replaced(self.out / ABOUT) as part:
            part.write_text(json.dumps({"made_of": self.made_of, "results": self.done}, indent=1))


def images_in(paths) -> list[Path]:
    """Return image files: those given, and those in the folders given, in the order of names.

    Hidden files of a folder are left out: some systems keep notes in them, under images' names.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir()
                            if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not inside:
                raise FileNotFoundError(f"{path} holds no image ({', '.join(SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist; give images or folders of images")
    stems = [path.stem for path in found]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(
            f"several images are called {twice[0]}, and would overwrite each other's labels; give "
            "them in separate calls with separate --out"
        )
    return found


def voc_test(predicting: Predicting, root: Path, year: int = 2012) -> Path:
    """Label VOC's test images and pack the archive that its evaluation server takes.

    Parameters
    ----------
    predicting : Predicting
    root : Path
        Holds VOCdevkit/VOC2012, or is that folder; it must be the one with the test images.
    year : {2010, 2011, 2012}

    Returns
    -------
    Path
        Of results.tgz, with results/VOC2012/Segmentation/comp6_test_cls/NAME.png for each image of
        ImageSets/Segmentation/test.txt.
    """
    if predicting.labels != VOC_LABELS:
        raise ValueError(
            f"{predicting.checkpoint} has {predicting.labels} labels, but VOC {VOC_LABELS}; give a "
            "network that was trained on VOC"
        )
    folder = required_folder(root, year)
    test = folder / "ImageSets/Segmentation/test.txt"
    images = [image_of(folder / "JPEGImages", name) for name in dict.fromkeys(read_names(test))]
    if not images:
        raise ValueError(f"{test} names no image; unpack VOC's test archive")
    absent = [path for path in images if not path.exists()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(images)} images in {test} are missing, the first is "
            f"{absent[0]}; unpack VOC's test archive, which its evaluation server "
            "(host.robots.ox.ac.uk:8080) offers after a login"
        )
    inside, archive = SERVER.format(year=year), predicting.out / "results.tgz"
    if archive.exists() and not predicting.own:
        predicting.reject(archive)
    written = predicting.run(images, predicting.out / inside, upright=False)
    with replaced(archive) as part, tarfile.open(part, "w:gz") as tar:
        for path in written:
            tar.add(path, f"{inside}/{path.name}")
    return archive
