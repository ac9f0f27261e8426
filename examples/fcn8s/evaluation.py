"""Evaluate trained models by confusion matrices, and search for the settings of a CRF."""

import contextlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from densecrf_rnn.files import replaced
from densecrf_rnn.metrics import confusion_matrix, mean_iu, trimap_confusions

from . import weights
from .config import Config
from .networks import FCN, FCNCRF
from .pictures import IGNORE, Pictures
from .stream import to_tensor
from .training import make_crf

# Where the search for a CRF's settings begins, and what it tries: bandwidths first, together, then
# the weights. It looks at so many pictures.
START = {"theta_alpha": 30.0, "theta_beta": 5.0, "w_bilateral": 3.0, "w_spatial": 1.0}
SEARCH = ({"theta_alpha": (8.0, 15.0, 30.0, 60.0, 160.0), "theta_beta": (2.0, 3.0, 5.0, 10.0)},
          {"w_bilateral": (1.0, 3.0, 5.0, 10.0), "w_spatial": (0.3, 1.0, 3.0)})
SEARCH_PICTURES = 16


@torch.no_grad()
def predict(model: FCNCRF, image, iterations: Sequence[int | None], device="cpu", size=None):
    """Return the labels of an image after each of some numbers of iterations.

    Parameters
    ----------
    model : FCNCRF, in eval()
    image : uint8 [H, W, 3]
    iterations : sequence of int or None
        0: the network's own labels. None: what the model gives, with its head if it has one.
    device : str
    size : int, optional
        As in `padded`.

    Returns
    -------
    list of uint8 [H, W]
    """
    for count in iterations:
        check_iterations(model, count)
    batch = padded(image, model.fcn, size).to(device)
    logits = model.fcn(batch)
    return [labels_of(one, image.shape) for one in refined(model, logits, batch, iterations)]


def check_iterations(model: FCNCRF, iterations: int | None) -> None:
    """Raise ValueError if a model cannot make a number of iterations at test."""
    if iterations is None or (iterations == 0 and (model.crf is None or model.crf.tied)):
        return
    if model.crf is None:
        raise ValueError("the network has no CRF, so it makes no iterations; leave them out")
    own = model.crf.iterations
    if iterations < 0 or (not model.crf.tied and iterations != own):
        wanted = "at least 0" if model.crf.tied else f"{own}, as its iterations are not tied"
        raise ValueError(f"--iterations is {iterations}; it must be {wanted}")


def refined(model: FCNCRF, logits, batch, iterations: Sequence[int | None]):
    """Yield the model's output for the logits of its network after numbers of iterations."""
    if model.crf is None:
        yield from [logits] * len(iterations)
        return
    crf = model.crf
    before = crf.eval_iterations
    try:
        # One call each, as the head is several times slower if it returns all iterations.
        for count in iterations:
            crf.eval_iterations = before if count is None else count
            yield model.refine(logits, batch) if crf.eval_iterations else logits
    finally:
        crf.eval_iterations = before


def padded(image: np.ndarray, fcn: FCN, size: int | None = None) -> torch.Tensor:
    """Return an image [1, 3, H, W], padded below and on the right to `size` rows and columns.

    The released CRF-RNN pads to 500 x 500 by the mean that it subtracts, and runs network and CRF
    on all of it. Larger images are not changed.
    """
    batch = to_tensor(image)[None]
    if size is None:
        return batch
    rows, columns = (max(size, n) for n in image.shape[:2])
    whole = fcn.padding.view(1, 3, 1, 1).expand(1, 3, rows, columns).clone()
    whole[:, :, : image.shape[0], : image.shape[1]] = batch
    return whole


def labels_of(logits: torch.Tensor, shape=(None, None)) -> np.ndarray:
    """Return the argmax labels of one image, uint8 [H, W]; `shape` cuts padding off."""
    return logits[0, :, : shape[0], : shape[1]].argmax(0).to("cpu", torch.uint8).numpy()


def confusions(
    model, pictures: Pictures, iterations, device="cpu", widths=(), size=None
) -> np.ndarray:
    """Return the confusion matrices of each image; `size` as in `padded`.

    Returns
    -------
    ndarray [len(pictures), len(iterations), 1 + len(widths), L, L] of uint32
        Of the whole picture, and of the bands along true borders of the given widths.
    """
    labels = len(pictures.classes)
    out = np.zeros((len(pictures), len(iterations), 1 + len(widths), labels, labels), np.uint32)
    model.eval().to(device)
    for i in tqdm(range(len(pictures)), f"scores on {pictures.name}", leave=False, disable=None):
        truth = pictures.labels(i)
        found = predict(model, pictures.image(i), iterations, device, size)
        for row, prediction in zip(out[i], found, strict=True):
            row[0] = confusion_matrix(truth, prediction, labels, IGNORE)
            if widths:
                row[1:] = trimap_confusions(truth, prediction, widths, labels, IGNORE)
    return out


@torch.no_grad()
def loss_and_confusion(model, pictures: Pictures, device="cpu") -> tuple[float, np.ndarray]:
    """Return the mean softmax loss per scored pixel and the confusion matrix of all images."""
    labels = len(pictures.classes)
    total, count, confusion = 0.0, 0, np.zeros((labels, labels), np.int64)
    model.eval().to(device)
    for i in tqdm(range(len(pictures)), f"losses on {pictures.name}", leave=False, disable=None):
        truth = pictures.labels(i)
        logits = model(to_tensor(pictures.image(i))[None].to(device))
        target = torch.from_numpy(truth).long()[None].to(device)
        total += float(cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum"))
        count += int((truth != IGNORE).sum())
        confusion += confusion_matrix(truth, labels_of(logits), labels, IGNORE)
    return total / max(1, count), confusion


def stored_confusions(path: Path, made_of: str, make) -> np.ndarray:
    """Return the result of `make`, from a file if it was made from the same inputs."""
    if path.exists():
        # Files are written whole, but a disk may damage them; such a result is made again.
        with contextlib.suppress(*weights.DAMAGED), np.load(path) as stored:
            if str(stored["made_of"]) == made_of:
                return stored["confusions"]
    array = make()
    with replaced(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, confusions=array, made_of=made_of)
    return array


def choose_crf(
    fcn, config: Config, pictures: Pictures, device="cpu", classes=None, size=None
):
    """Search for the settings of an untrained CRF that give the best mean IU.

    Parameters
    ----------
    fcn : FCN
        Trained.
    config : Config
        Its other settings hold for the head.
    pictures : Pictures
        To choose on; `SEARCH_PICTURES` of them, evenly spaced.
    device : str
    classes : sequence of int, optional
        Whose mean IU counts; default all.
    size : int, optional
        As in `padded`.

    Returns
    -------
    chosen : dict
        theta_alpha, theta_beta, w_bilateral, w_spatial.
    tried : dict
        The mean IU of all that were tried, by their JSON.
    """
    labels = len(pictures.classes)
    indices = np.unique(np.linspace(0, len(pictures) - 1, SEARCH_PICTURES).astype(int))
    fcn.eval().to(device)
    with torch.no_grad():
        known = []
        for i in tqdm(indices, "logits to choose on", leave=False, disable=None):
            image = padded(pictures.image(i), fcn, size).to(device)
            known.append((fcn(image), image, pictures.labels(i)))
    scores = {}

    def score(settings) -> float:
        key = json.dumps(settings)
        if key not in scores:
            crf = make_crf(config.with_(**settings), labels).eval().to(device)
            total = np.zeros((labels, labels), np.int64)
            with torch.no_grad():
                for logits, image, truth in known:
                    found = labels_of(crf(logits, image), truth.shape)
                    total += confusion_matrix(truth, found, labels, IGNORE)
            scores[key] = mean_iu(total, classes)
        return scores[key]

    best = dict(START)
    count = sum(np.prod([len(values) for values in grid.values()]) for grid in SEARCH)
    with tqdm(total=int(count), desc="settings of the CRF", leave=False, disable=None) as bar:
        for grid in SEARCH:
            candidates = []
            for values in itertools.product(*grid.values()):
                candidates.append({**best, **dict(zip(grid, values, strict=True))})
                score(candidates[-1])
                bar.update()
            best = max(candidates, key=score)
    return best, scores
