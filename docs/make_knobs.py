"""Write docs/knobs.md and its images: a sample image refined with each parameter, low to high.

    python docs/make_knobs.py

Needs `pip install '.[cli]'`. Only the varied parameter differs from `BASE`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from densecrf_rnn import CRFParams, metrics, refine, samples, unaries

FOLDER = Path(__file__).resolve().parent
NAME, LABEL = "2007_000332", samples.CLASS_NAMES.index("horse")
CROP = slice(125, 285), slice(30, 280)
WIDTH, COLOUR = 250, (255, 60, 190)
BASE, ITERATIONS = CRFParams(theta_alpha=30, theta_beta=5, w_bilateral=3), 10
Setting = dict[str, Any]  # arguments of `labels`


class Knob(NamedTuple):
    """A parameter, what it does, and the values to show with the arguments that they mean."""

    title: str
    text: str
    shown: list[tuple[str, Setting]]


def params(name: str, *values: Any) -> list[tuple[str, Setting]]:
    """Return values of a field of CRFParams as settings."""
    return [(str(value), {"params": replace(BASE, **{name: value})}) for value in values]


def option(name: str, *values: Any) -> list[tuple[str, Setting]]:
    """Return values of another argument of `labels` as settings."""
    return [(str(value), {name: value}) for value in values]


KNOBS = {
    "theta_alpha": Knob(
        "`theta_alpha`: how far appearance reaches",
        "The bandwidth of the appearance kernel in pixels. Raise it to carry labels over long,"
        " thin parts and to fill larger gaps. Too high: distant things of the same colour take"
        " each other's label. For an image of twice the size, double it.",
        params("theta_alpha", 3, 10, 30, 90, 270),
    ),
    "theta_beta": Knob(
        "`theta_beta`: which colours count as the same",
        "The bandwidth of the appearance kernel in intensity, in the units of *your* image (here"
        " 0..255). It should be larger than the noise within an object, and smaller than the"
        " difference at its border. Too low: no two pixels count as similar, and nothing changes."
        " Too high: borders do not stop the labels.",
        params("theta_beta", 1, 2, 5, 15, 50),
    ),
    "w_bilateral": Knob(
        "`w_bilateral`: how much appearance counts against the logits",
        "The weight of the appearance kernel. 0 switches it off. Too high: small or thin parts"
        " take the label of their surroundings, whatever the network's logits are.",
        params("w_bilateral", 0, 1, 3, 10, 30),
    ),
    "theta_gamma": Knob(
        "`theta_gamma`: how far smoothing reaches",
        "The bandwidth of the smoothness kernel in pixels. This kernel does not depend on the"
        " image. Values of 1 to 3 remove specks. Too high: corners become round and thin parts"
        " vanish.",
        params("theta_gamma", 0.5, 1.5, 3, 8, 20),
    ),
    "w_spatial": Knob(
        "`w_spatial`: how much smoothing counts",
        "The weight of the smoothness kernel. Lower it if thin parts vanish, raise it if specks"
        " remain.",
        params("w_spatial", 0, 1, 3, 10, 30),
    ),
    "iterations": Knob(
        "`iterations`: how long it runs",
        "The number of mean-field updates; the time is proportional to it. After 5 iterations the"
        " labels are nearly converged, after 10 they are converged for most images.",
        option("iterations", 0, 1, 2, 5, 20),
    ),
    "temperature": Knob(
        "`--temperature`, `scale_temperature`: how sure the network is",
        "Logits are divided by the temperature before refinement. Below 1 the network's labels"
        " count more, above 1 the CRF counts more. Raise it for a network that is certain"
        " everywhere, even where it is wrong.",
        option("temperature", 0.25, 0.5, 1, 2, 4),
    ),
    "confidence": Knob(
        "`--confidence`, `logits_from_labels`: how sure a label map is",
        "For label maps, which have no logits: the probability that a label is right. The other"
        " labels share the rest. So with many labels a lower number is needed. With the 21 labels"
        " here, the map hardly changes from 0.5 on; with 2 labels start at 0.7.",
        option("confidence", 0.1, 0.2, 0.3, 0.5, 0.9),
    ),
    "normalization": Knob(
        "`normalization`: how messages are divided",
        "How the sum of the messages to a pixel is divided. \"after\" makes it a mean, so that a"
        " pixel with few similar neighbours gets as strong messages as other pixels."
        " \"symmetric\", the choice of pydensecrf, gives such a pixel weaker messages. \"before\""
        " divides by the sum at the sending pixel, \"none\" does not divide. With \"none\" the"
        " kernel weights must be much smaller: here they are 0.1.",
        params("normalization", "after", "symmetric", "before")
        + [("none", {"params": replace(BASE, normalization="none", w_bilateral=0.1,
                                       w_spatial=0.1)})],
    ),
    "self_term": Knob(
        "`self_term`: whether a pixel counts for itself",
        "Whether the message of a pixel to itself is included. The papers exclude it, released"
        " code includes it. With it, pixels of a rare colour keep their label more easily.",
        params("self_term", True, False),
    ),
    "spatial": Knob(
        "`spatial`: how smoothness is filtered",
        "The smoothness kernel is filtered on a regular grid, which is nearly exact, or on a"
        " lattice, as in pydensecrf. Choose the lattice to get another package's labels.",
        params("spatial", "grid", "lattice"),
    ),
    "feature_order": Knob(
        "`feature_order`: in which order the lattice has its axes",
        "Columns first (\"xy\") or rows first (\"yx\"). The exact CRF does not depend on it; with"
        " the lattice about one label in a thousand changes. Choose \"yx\" only to get another"
        " package's labels.",
        params("feature_order", "xy", "yx"),
    ),
    "quality": Knob(
        "`quality`: how exact the lattice is",
        "\"symmetric\" and \"filled\" are closer to the exact filter than \"standard\", and slower"
        " ([figures](accuracy.md)). Labels rarely change.",
        params("quality", "standard", "symmetric", "filled"),
    ),
    "compatibility": Knob(
        "`compatibility`: which labels do not mix",
        "A penalty for each pair of labels. The default is 1 for every pair (Potts). Here the"
        " penalty between horse and background is multiplied by the number above each image.",
        option("mixing", 0, 0.3, 1, 3, 10),
    ),
}  # fmt: skip


def labels(
    sample: samples.Sample,
    params: CRFParams = BASE,
    iterations: int = ITERATIONS,
    temperature: float = 1.0,
    confidence: float | None = None,
    mixing: float = 1.0,
) -> np.ndarray:
    """Refine the sample and return its label map."""
    logits = unaries.scale_temperature(sample.logits, temperature)
    if confidence is not None:
        logits = unaries.logits_from_labels(sample.logits.argmax(0), len(logits), confidence)
    compatibility = 1 - np.eye(len(logits))
    compatibility[[0, LABEL], [LABEL, 0]] = mixing
    return refine(
        logits, sample.image, params, iterations=iterations, compatibility=compatibility,
        labels=True,
    )  # fmt: skip


def drawn(sample: samples.Sample, found: np.ndarray) -> Image.Image:
    """Draw the labels of the horse over the cropped image, with their border in white."""
    image, inside = sample.image[CROP].astype(float), found[CROP] == LABEL
    image[inside] = 0.45 * image[inside] + 0.55 * np.array(COLOUR)
    image[find_boundaries(inside, mode="inner")] = 255
    picture = Image.fromarray(image.astype(np.uint8))
    size = WIDTH, WIDTH * picture.height // picture.width
    return picture.resize(size, Image.Resampling.LANCZOS)


def score(sample: samples.Sample, found: np.ndarray) -> str:
    """Return the IU of the horse, in percent."""
    counts = metrics.confusion_matrix(sample.truth, found, len(sample.logits))
    return f"{100 * metrics.class_iu(counts)[LABEL]:.1f}"


def row(cells: list[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def section(name: str, knob: Knob, show: Callable[[str, np.ndarray, str], str]) -> str:
    """Refine with every value of a knob, and return its section of the page."""
    sample = samples.load(NAME)
    found = [labels(sample, **setting) for _, setting in knob.shown]
    pictures = [
        show(f"{name}_{number}", one, f"Labels of the horse with {name} {value}")
        for number, (one, (value, _)) in enumerate(zip(found, knob.shown))
    ]
    table = [
        [name, *(value for value, _ in knob.shown)],
        ["---"] * (len(found) + 1),
        ["labels", *pictures],
        ["IU", *(score(sample, one) for one in found)],
    ]
    return "\n\n".join([f"## {knob.title}", knob.text, "\n".join(map(row, table))])


def page(images: Path) -> str:
    """Save the images into a folder and return the page."""
    sample = samples.load(NAME)

    def show(name: str, found: np.ndarray, text: str) -> str:
        drawn(sample, found).save(images / f"{name}.webp", quality=70, method=6)
        return f"![{text}](images/knobs/{name}.webp)"

    truth = np.where(sample.truth == samples.IGNORE, 0, sample.truth)
    before, after = sample.logits.argmax(0), labels(sample)
    start = [
        row(["truth", "the network alone", "the base setting"]),
        row(["---"] * 3),
        row([
            show("truth", truth, "The true labels of the horse"),
            show("network", before, "Labels of the network: blurred legs"),
            show("base", after, "Labels after refinement with the base setting"),
        ]),
    ]  # fmt: skip
    start.append(row(["", f"IU {score(sample, before)}", f"IU {score(sample, after)}"]))
    code = CODE.format(name=NAME, base=BASE, iterations=ITERATIONS, label=LABEL,
                       count=len(sample.logits), score=score(sample, after))  # fmt: skip
    return "\n\n".join([HEAD, "\n".join(start), code, TABLE] + [
        section(name, knob, show) for name, knob in KNOBS.items()
    ]) + "\n"  # fmt: skip


HEAD = f"""# Which knob, which way

This page shows what each parameter of `refine` does. Each strip varies one parameter from low to
high. The other parameters have the base setting: `{BASE}`
and {ITERATIONS} iterations.

The photograph is the sample {NAME} with the scores of a real network. IU is that of the label
horse, in percent. It is measured on one image, so use it to see the direction, not the amount.
`python docs/make_knobs.py` writes this page and its images."""

CODE = """```python
from densecrf_rnn import CRFParams, metrics, refine, samples

sample = samples.load("{name}")
params = {base}
labels = refine(sample.logits, sample.image, params, iterations={iterations}, labels=True)
counts = metrics.confusion_matrix(sample.truth, labels, {count})
print(f"{{100 * metrics.class_iu(counts)[{label}]:.1f}}")  # {score}
```"""

TABLE = """| you see | turn |
|---|---|
| nothing changes | `theta_beta` up (it must be in your image's units), `w_bilateral` up |
| labels run over borders | `theta_beta` down, then `theta_alpha` down |
| thin parts vanish | `w_spatial` and `theta_gamma` down, then `w_bilateral` down |
| specks remain | `w_spatial` up, or `postprocess.remove_small` |
| holes in an object of one colour | `theta_alpha` up |
| a large label replaces a small one | `w_bilateral` down, temperature down, weights per label |

If you have true labels for some images, `densecrf-rnn tune` [searches](refinement.md#tuning) for
the parameters."""


def main() -> None:
    """Write the page and its images."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    images = FOLDER / "images" / "knobs"
    images.mkdir(exist_ok=True)
    (FOLDER / "knobs.md").write_text(page(images), encoding="utf-8")


if __name__ == "__main__":
    main()
