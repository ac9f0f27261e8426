"""Label images with a trained or a published network, also for VOC's evaluation server."""

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from densecrf_rnn.files import replaced, write_labels

from . import digests, evaluation, figures, published, weights
from .datasets import find, lines
from .networks import FCNCRF
from .training import load_trained

ABOUT = "predict.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
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
    state = {} if Path(path).suffix in (".caffemodel", ".npz") else weights.read_torch(path)
    if {"config", "model"} <= state.keys():
        labels = len(state["model"]["fcn.score_fr.bias"])
        model, _ = load_trained(path, labels)
    else:
        model, report = published.build(path)
        print(report)
    if iterations is None:
        return model
    if model.crf is None:
        raise ValueError(f"{path} has no CRF, so it makes no iterations; leave --iterations out")
    own = model.crf.iterations
    if iterations < 0 or (not model.crf.tied and iterations != own):
        wanted = "at least 0" if model.crf.tied else f"{own}, as its iterations are not tied"
        raise ValueError(f"--iterations is {iterations}; it must be {wanted}")
    model.crf.eval_iterations = iterations
    return model


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
        Also write the network's logits before the CRF, float32 [L, H, W].
    iterations : int, optional
        See `load`.
    size : int, optional
        See `evaluation.padded`; 0: no padding. Default 500 for a published net, else 0.
    device : str

    Raises
    ------
    ValueError
        `out` holds predictions of another network or with other settings.
    """

    checkpoint: str | Path
    out: str | Path
    logits: bool = False
    iterations: int | None = None
    size: int | None = None
    device: str = "cpu"
    done: dict = field(init=False)

    def __post_init__(self):
        if self.size is not None and self.size < 0:
            raise ValueError(f"--size is {self.size}; give a number of pixels, or 0 for none")
        self.out = Path(self.out)
        self.model = load(self.checkpoint, self.iterations).to(self.device)
        if self.size is None and self.model.as_published:
            self.size = published.SIZE
        made_of = [digests.of_file(self.checkpoint), self.iterations, self.size]
        about = self.out / ABOUT
        known = json.loads(about.read_text()) if about.exists() else {"made_of": made_of}
        if known["made_of"] != made_of:
            raise ValueError(
                f"{self.out} holds predictions of another network, or with another --iterations "
                f"or --size; give another --out, or remove {self.out}"
            )
        self.made_of, self.done = made_of, known.get("images", {})

    @property
    def labels(self) -> int:
        """Number of labels."""
        return self.model.fcn.labels

    def run(self, images: list[Path], folder: Path | None = None) -> list[Path]:
        """Label images and return the files of their labels, in `folder` (default `out`)."""
        folder = folder or self.out
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for path in tqdm(images, "labels", leave=False, disable=None):
            target = folder / f"{path.stem}.png"
            scores = folder / f"{path.stem}.npy" if self.logits else None
            wanted = [digests.of_file(path), self.logits]
            name = str(target.relative_to(self.out))
            there = target.exists() and (scores is None or scores.exists())
            if not there or self.done.get(name) != wanted:
                self.label(path, target, scores)
                self.done[name] = wanted
                self.remember()
            written.append(target)
        return written

    @torch.no_grad()
    def label(self, path: Path, target: Path, scores: Path | None) -> None:
        """Write the labels of an image, and the network's logits if asked for."""
        image = read_image(path)
        batch = evaluation.padded(image, self.size or None).to(self.device)
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
            part.write_text(json.dumps({"made_of": self.made_of, "images": self.done}, indent=1))


def read_image(path: Path) -> np.ndarray:
    """Return an RGB image, uint8 [H, W, 3]."""
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); remove it or replace it"
                         ) from error


def images_in(paths) -> list[Path]:
    """Return image files: those given, and those in the folders given, in the order of names."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
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
    names = [f"{before}VOC{year}" for before in ("VOCdevkit/", "")]
    if root.name == f"VOC{year}":
        root, names = root.parent, [root.name]
    test = find(root, *(f"{name}/ImageSets/Segmentation/test.txt" for name in names))
    pictures = test.parents[2] / "JPEGImages"
    images = [pictures / f"{name}.jpg" for name in lines(test)]
    absent = [path for path in images if not path.exists()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(images)} images in {test} are missing, the first is "
            f"{absent[0]}; unpack VOC's test archive, which its evaluation server "
            "(host.robots.ox.ac.uk:8080) offers after a login"
        )
    inside = SERVER.format(year=year)
    written = predicting.run(images, predicting.out / inside)
    archive = predicting.out / "results.tgz"
    with replaced(archive) as part, tarfile.open(part, "w:gz") as tar:
        for path in written:
            tar.add(path, f"{inside}/{path.name}")
    return archive
