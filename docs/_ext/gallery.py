"""Run the examples that take seconds, draw what they computed, and write the page of the gallery.

The examples stay scripts without a line of plotting. An example is run again when it, or this file,
has changed.
"""

import contextlib
import hashlib
import io
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from repository_pages import DOCS, ROOT, write_if_changed
from sphinx.application import Sphinx

from densecrf_rnn import samples

FOLDER = DOCS / "generated" / "gallery"
Variables = dict[str, Any]
Array = np.ndarray[Any, Any]


class Picture(NamedTuple):
    """What an example's image shows, from left to right, and how it is made."""

    shows: Sequence[str]
    panels: Callable[[Variables], list[Array]]


def rgb(array: Any, low: float = 0, high: float = 1) -> Array:
    """Scale values to 0..255 and return an image [H, W, 3] of uint8."""
    array = (np.asarray(array, float) - low) / (high - low)
    array = np.repeat(array[..., None], 3, -1) if array.ndim == 2 else array
    return np.uint8(255 * array.clip(0, 1))


def chw(tensor: Any) -> Array:
    """Return a tensor [3, H, W] in 0..1 as an image."""
    return rgb(np.moveaxis(tensor.detach().numpy(), 0, -1))


def labelled(found: Array) -> Array:
    """Return a label map in the colours of Pascal VOC."""
    return samples.palette()[np.asarray(found)]


def from_above(labels: Array, points: Array, size: int = 200) -> Array:
    """Draw points, seen from above: the highest last."""
    image = np.full((size, size, 3), 255, np.uint8)
    colours = np.array([[150, 150, 150], [190, 60, 40], [40, 60, 200]], np.uint8)
    place = ((points[:, :2] + 4) / 8 * (size - 3)).clip(0, size - 3).astype(int)
    for number in np.argsort(points[:, 2], kind="stable"):
        column, row = place[number]
        image[size - 3 - row : size - row, column : column + 3] = colours[labels[number]]
    return image


def enlarged(image: Array, height: int = 200) -> Array:
    """Enlarge an image by a whole factor, or reduce it, to about this height."""
    times = max(1, height // len(image))
    image = image.repeat(times, 0).repeat(times, 1)
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((height * picture.width // picture.height, height)))


PICTURES = {
    "refine_saved_logits": Picture(
        ["photograph", "labels of the network", "labels after refinement"],
        lambda v: [v["sample"].image, labelled(v["logits"].argmax(0)), labelled(v["labels"])],
    ),
    "train_head": Picture(
        ["image", "labels of its network", "labels with the head", "truth"],
        lambda v: [
            chw(v["test_image"][0]),
            labelled(v["backbone"](v["test_image"])[0].argmax(0)),
            labelled(v["model"](v["test_image"])[0].argmax(0)),
            labelled(v["test_labels"][0]),
        ],
    ),
    "smooth_video": Picture(
        ["two frames, one below the other: labels of the scores", "refined by themselves", "truth"],
        lambda v: [
            np.concatenate([labelled(of[t]) for t in (11, 12)])
            for of in (v["scores"].argmax(0), v["frames"], v["truth"])
        ],
    ),
    "label_point_cloud": Picture(
        ["labels of the scores, from above", "labels after refinement", "truth"],
        lambda v: [
            from_above(of, v["points"])
            for of in (v["scores"].argmax(0), v["labels"], v["truth"])
        ],
    ),
    "high_dimensional_filter": Picture(
        ["photograph", "smoothed, with its edges kept"],
        lambda v: [v["image"], rgb(v["smooth"].reshape(v["image"].shape), 0, 255)],
    ),
    "joint_bilateral_upsampling": Picture(
        ["image", "depth, enlarged bilinearly", "depth along the edges of the image", "truth"],
        lambda v: [chw(v["image"][0])] + [
            rgb(v[name][0, 0].numpy(), 0, 5) for name in ("smooth", "sharp", "depth")
        ],
    ),
    "learned_denoising": Picture(
        ["noisy", "filtered", "clean"],
        lambda v: [chw(v[name][0]) for name in ("noisy", "filtered", "clean")],
    ),
}  # fmt: skip
# Examples that the build does not run, and why.
NOT_RUN = {
    "train_with_scribbles": "takes two minutes",
    "train_with_lightning": "needs lightning",
    "make_sample_logits": "needs the weights of a network, and writes the samples",
}


def ran(name: str) -> str:
    """Run an example, save its image, and return what it printed."""
    printed, before = io.StringIO(), (os.getcwd(), sys.argv)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        os.chdir(folder)
        sys.argv = [name]
        try:
            variables = runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        finally:
            os.chdir(before[0])
            sys.argv = before[1]
    panels = [enlarged(panel) for panel in PICTURES[name].panels(variables)]
    gap = np.full((panels[0].shape[0], 8, 3), 255, np.uint8)
    joined = [part for panel in panels for part in (gap, panel)][1:]
    Image.fromarray(np.concatenate(joined, 1)).save(FOLDER / f"{name}.webp", quality=85)
    return printed.getvalue()


def output(name: str) -> str:
    """Return what an example prints; run it if it or this file has changed since the last time."""
    source = (ROOT / "examples" / f"{name}.py").read_bytes() + Path(__file__).read_bytes()
    key, kept = hashlib.sha256(source).hexdigest(), FOLDER / f"{name}.json"
    if kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["key"] == key:
            return str(found["printed"])
    printed = ran(name)
    kept.write_text(json.dumps({"key": key, "printed": printed}), encoding="utf-8")
    return printed


def section(name: str) -> str:
    """Return the Markdown section of an example."""
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    title, _, rest = source.split('"""')[1].partition("\n")
    first = source[: source.index('"""', 3)].count("\n") + 3  # the line after the docstring
    shows = "; ".join(PICTURES[name].shows)
    return f"""## {title.rstrip(".")}

{rest.strip()}

![From left to right: {shows}](gallery/{name}.webp)

*From left to right: {shows}.*

```text
{output(name).strip()}
```

```{{literalinclude}} ../../examples/{name}.py
:language: python
:lines: {first}-
:caption: examples/{name}.py
```
"""


HEAD = """# Gallery

Each example is a script in `examples/` that needs no data. The site runs it when it is built, and
draws what it computed.
"""


def write_page(app: Sphinx) -> None:
    """Write the page into docs/generated/."""
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    if missing := scripts - set(PICTURES) - set(NOT_RUN):
        raise ValueError(f"examples without a picture in {__file__}: {', '.join(sorted(missing))}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    others = [
        f"- [examples/{name}.py](../../examples/{name}.py) {why}." for name, why in NOT_RUN.items()
    ]
    others += [
        "- [FCN-8s and the tables of the paper](fcn8s.md) needs data.",
        "- [Body parts from depth](body_parts.md) takes longer.",
    ]
    end = "\n".join(["## Not run here", "", *others])
    text = "\n".join([HEAD, *map(section, PICTURES), end]) + "\n"
    write_if_changed(DOCS / "generated" / "gallery.md", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
