"""What the sliders set, what it gives, and the Python and the command that give the same."""

import shlex
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from .._typing import Array
from .. import checks, metrics, samples, unaries
from ..inference.mean_field import infer
from ..params import CRFParams, Quality
from .scenes import Scene, noted

MOST_ITERATIONS = 1000  # of the page, which cannot stop a run
_KEPT = 2  # lattices of a scene that stay in memory: what one refinement needs at most


class Slider(NamedTuple):
    """The range of a slider, in even steps of its logarithm or of itself.

    The setting may lie beyond it: any valid number can be typed.
    """

    low: float
    high: float
    step: float
    logarithmic: bool
    label: str
    meaning: str


SLIDERS = {
    "theta_alpha": Slider(1, 300, 0, True, "theta_alpha (pixels)",
                          "how far apart two pixels of one colour still influence one another"),
    "theta_beta": Slider(1, 100, 0, True, "theta_beta (intensity)",
                         "how much colour may differ: low follows every edge, high ignores them"),
    "theta_gamma": Slider(0.5, 30, 0, True, "theta_gamma (pixels)",
                          "how far smoothing reaches whatever the colours are"),
    "w_bilateral": Slider(0, 20, 0.1, False, "w_bilateral",
                          "weight of the appearance kernel: 0 ignores the image"),
    "w_spatial": Slider(0, 20, 0.1, False, "w_spatial",
                        "weight of the smoothness kernel: high removes small regions"),
    "iterations": Slider(0, 20, 1, False, "iterations", "mean-field updates; 5 to 10 suffice"),
    "temperature": Slider(0.1, 10, 0, True, "temperature",
                          "divides the logits: above 1 for an overconfident network"),
}  # fmt: skip
_NUMBERS = ("theta_alpha", "theta_beta", "theta_gamma", "w_bilateral", "w_spatial")


@dataclass(frozen=True)
class Settings:
    """All that the page sets: parameters of the CRF, iterations and temperature.

    The defaults are those of the demo.
    """

    theta_alpha: float = 30.0
    theta_beta: float = 5.0
    theta_gamma: float = 3.0
    w_bilateral: float = 3.0
    w_spatial: float = 3.0
    iterations: int = 5
    temperature: float = 1.0
    quality: Quality = "standard"
    others: CRFParams = CRFParams()  # for what has no slider, such as the normalisation

    @classmethod
    def of(cls, params: CRFParams, iterations: int) -> "Settings":
        """Return the settings of parameters.

        Raises
        ------
        ValueError
            A field has several numbers, of which a slider sets one.
        """
        numbers = {}
        for name in _NUMBERS:
            value = getattr(params, name)
            if np.ndim(value) > 0:
                raise ValueError(
                    f"{name} has {len(value)} numbers, but its slider sets one for all; give one"
                )
            numbers[name] = float(value)
        return cls(**numbers, iterations=iterations, quality=params.quality, others=params)

    def params(self) -> CRFParams:
        """Return the parameters of the CRF."""
        own = {name: getattr(self, name) for name in (*_NUMBERS, "quality")}
        return replace(self.others, **own)

    def with_value(self, name: str, value: float | str) -> "Settings":
        """Return the settings with one value changed.

        Raises
        ------
        TypeError, ValueError
            `refine` would not take the value, or the page not run so many iterations.
        """
        if name == "iterations":
            if not float(value).is_integer():
                raise ValueError(f"iterations is {value}; it must be an integer")
            value = int(value)
            if checks.count(name, value, 0) > MOST_ITERATIONS:
                raise ValueError(
                    f"iterations is {value}; the page runs at most {MOST_ITERATIONS}, of which 10 "
                    "suffice mostly (the command runs any number)"
                )
        elif name == "temperature":
            checks.positive_number(name, value)
        changed = replace(self, **{name: value})  # type: ignore[arg-type]
        changed.params()
        return changed


def number(name: str, text: str) -> float:
    """Convert the text of a setting's box to a number.

    Raises
    ------
    ValueError
        The text is no number; the message names the setting.
    """
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{name} is {text.strip()[:40]!r}; give a number, such as 3 or 0.5"
        ) from error


def shown(value: float) -> str:
    """Return a number with all of its digits.

    Examples
    --------
    >>> shown(30.0), shown(0.1)
    ('30', '0.1')
    """
    return repr(value).removesuffix(".0")


@dataclass(frozen=True, eq=False)
class View:
    """What one setting gives: labels after the CRF, scores and times."""

    after: Array  # [H, W]
    scores: str
    seconds: float
    vertices: int
    doubts: tuple[str, ...]  # what `refine` would warn of


def view(scene: Scene, settings: Settings, threads: int | None = None) -> View:
    """Refine a scene to labels and compare them."""
    (after, info), doubts = noted(lambda: _refined(scene, settings, threads, labels=True))
    return View(
        after, scores(scene, after), sum(info.seconds.values()),
        info.vertices[0] if info.vertices else 0, doubts,
    )  # fmt: skip


def entropy(scene: Scene, settings: Settings, threads: int | None = None) -> Array:
    """Return the entropy [H, W] of the marginals, 1 for equal ones; 0 outside a mask."""
    (q, _), _ = noted(lambda: _refined(scene, settings, threads, labels=False))
    if len(q) == 1:
        q = np.concatenate([1 - q, q])
    q = q.clip(np.finfo(q.dtype).tiny, 1)
    found: Array = -(q * np.log(q)).sum(0) / np.log(len(q))
    return found if scene.mask is None else np.where(scene.mask, found, 0)


def _refined(scene: Scene, settings: Settings, threads: int | None, labels: bool) -> Any:
    """Do what `refine` does, with the lattices that an earlier call built for the scene."""
    logits = scene.logits
    if settings.temperature != 1:
        logits = unaries.scale_temperature(logits, settings.temperature)
    found = infer(
        logits, scene.image, settings.params(), kernel_weights=None, compatibility=None,
        iterations=settings.iterations, mask=scene.mask, spacing=scene.spacing, backend="auto",
        threads=threads, marginals=True, labels=labels, lattices=scene.lattices, return_info=True,
    )  # fmt: skip
    for key in list(scene.lattices)[:-_KEPT]:
        scene.lattices.pop(key, None)
    return found


def scores(scene: Scene, after: Array) -> str:
    """Return a line of scores: against the truth, or how many pixels changed."""
    changed = f"{100 * (scene.before != after).mean():.1f} % of the pixels changed"
    if scene.truth is None:
        return changed
    count = max(2, len(scene.logits))
    both = [
        metrics.confusion_matrix(scene.truth, labels, count, samples.IGNORE)
        for labels in (scene.before, after)
    ]
    said = [
        f"{name} {100 * score(both[0]):.1f} → {100 * score(both[1]):.1f}"
        for name, score in (("mean IU", metrics.mean_iu), ("accuracy", metrics.pixel_accuracy))
    ]
    return f"{'; '.join(said)} (percent); {changed}"


def python_of(scene: Scene, settings: Settings) -> str:
    """Return Python that computes the labels on the screen."""
    scaled = settings.temperature != 1
    lines = [f"from densecrf_rnn import CRFParams, refine{', unaries' * scaled}", *scene.python]
    if scaled:
        lines.append(f"logits = unaries.scale_temperature(logits, {settings.temperature!r})")
    given = settings.params()
    words = [
        f"{f.name}={getattr(given, f.name)!r}"
        for f in fields(given)
        if getattr(given, f.name) != getattr(CRFParams(), f.name)
    ]
    lines.append(f"params = CRFParams({', '.join(words)})")
    more = "" if scene.mask is None else ", mask=mask"
    more += "" if scene.spacing is None else f", spacing={scene.spacing}"
    lines.append(
        f"labels = refine(logits, image, params, iterations={settings.iterations}{more}, "
        "labels=True)"
    )
    return "\n".join(lines)


def command_of(scene: Scene, settings: Settings, out: str) -> str:
    """Return the command that writes the labels on the screen into the folder `out`."""
    params = settings.params()
    options = {f.name: getattr(params, f.name) for f in fields(params)}
    options |= {"iterations": settings.iterations, "temperature": settings.temperature}
    words = ["densecrf-rnn", "refine", *scene.command, "-o", out, "--prune", "0"]
    if not options.pop("self_term"):
        words.append("--no-self-term")
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        negative = str(value).startswith("-")  # argparse takes -1e-05 for an option
        words += [f"{option}={value}"] if negative else [option, str(value)]
    return shlex.join(words)
