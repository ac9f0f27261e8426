"""Settings of a training run in one frozen class, and the recipes that fill it in.

A recipe has stages, which train the network without the CRF one after the other, and the rows of a
table, which all start from the last stage and differ in the setting that the table compares.
"""

import json
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

Settings = dict[str, Any]
PAIRS = ("scales", "crop", "window")  # settings of two numbers
CHOICES = {
    "optimizer": ("sgd", "adamw"), "schedule": ("fixed", "poly"), "loss": ("softmax", "robust"),
    "reduction": ("sum", "mean"), "initial_compatibility": ("potts", "zero", "random"),
    "spatial": ("grid", "lattice"), "backbone": ("mobilenetv2", "vgg16"), "stride": (8, 16, 32),
    "kernel_weights": ("diagonal", "scalar", "full"), "compatibility": ("learned", "potts"),
    "update": ("softmax", "relu"),
}
POSITIVE = ("batch", "width")
NOT_NEGATIVE = ("steps", "seed", "iterations", "eval_iterations", "lr", "momentum", "weight_decay",
                "bias_lr", "lr_kernel_weights", "lr_compatibility", "lr_head")


@dataclass(frozen=True)
class Config:
    """Settings of one training run.

    Parameters
    ----------
    dataset : {"camvid", "voc", "voc2011", "context", "coco"}
    backbone : {"mobilenetv2", "vgg16"}
    stride : {8, 16, 32}
        FCN-8s, FCN-16s or FCN-32s.
    at_once, width : see `networks.VGG16FCN`
    crf : bool
        Whether the network has a head, which is trained. The next settings are those of the head.
    kernel_weights : {"diagonal", "scalar", "full"}
    compatibility : {"learned", "potts"}
    tied : bool
    update : {"softmax", "relu"}
        See `CRFRNN`.
    iterations, eval_iterations : int
        T in training and at test. Untied iterations have the same number at test.
    theta_alpha, theta_beta, theta_gamma, w_bilateral, w_spatial : float
        See `CRFParams`. Tables replace all but theta_gamma by what a search finds.
    initial_compatibility : {"potts", "zero", "random"}
        What a learned compatibility starts from; "random" draws entries of standard deviation
        1 / sqrt(labels), which have the size of the identity.
    spatial : {"grid", "lattice"}
        How the kernel of positions alone is filtered; the published nets use a lattice.
    freeze_fcn : bool
        Train the head alone.
    loss : {"softmax", "robust"}
        Of a pixel: its cross-entropy, or the robust log-likelihood that section 6 tried.
    optimizer : {"sgd", "adamw"}
    lr, momentum, weight_decay : float
        Learning rate of the network's weights; momentum (of "sgd"); weight decay of the weights.
    reduction : {"sum", "mean"}
        Sum of the pixels' losses per image, unnormalised as in the paper, or their mean.
    bias_lr : float
        Multiplier of the learning rate for biases, which have no weight decay.
    lr_kernel_weights, lr_compatibility : float
        Multipliers of the learning rate for these parameters.
    lr_head : float
        Multiplies both of these.
    crf_weight_decay : bool
        Whether weight decay applies to the head's parameters.
    schedule : {"fixed", "poly"}
        "poly" multiplies the learning rate by (1 - step / steps) ** 0.9.
    batch, steps, seed : int
        Images per step, number of steps, and the seed of everything random.
    flip, scales, crop : see `augment.augment`
    window : (rows, columns) or None
        Apply head and loss to a random window of this size, and the network to the whole image.
        It saves three quarters of the cost where the head dominates.
    cache : bool
        Store the frozen layers' features of each image (mobilenetv2), once for all runs. Mirroring
        is then the only augmentation.
    autocast : bool
        Use bfloat16 where it is safe; the head computes in float32.
    """

    dataset: str = "camvid"
    backbone: str = "mobilenetv2"
    stride: int = 8
    at_once: bool = False
    width: int = 1

    crf: bool = False
    kernel_weights: str = "diagonal"
    compatibility: str = "learned"
    initial_compatibility: str = "potts"
    tied: bool = True
    update: str = "softmax"
    iterations: int = 5
    eval_iterations: int = 10
    theta_alpha: float = 160.0
    theta_beta: float = 3.0
    theta_gamma: float = 3.0
    w_bilateral: float = 5.0
    w_spatial: float = 3.0
    spatial: str = "grid"
    freeze_fcn: bool = False

    optimizer: str = "sgd"
    lr: float = 1e-13
    momentum: float = 0.99
    weight_decay: float = 5e-4
    bias_lr: float = 2.0
    lr_kernel_weights: float = 1e4
    lr_compatibility: float = 1e3
    lr_head: float = 1.0
    crf_weight_decay: bool = True
    schedule: str = "fixed"
    loss: str = "softmax"
    reduction: str = "sum"
    batch: int = 1
    steps: int = 100_000
    seed: int = 0

    flip: bool = False
    scales: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    window: tuple[int, int] | None = None
    cache: bool = False
    autocast: bool = False

    def __post_init__(self) -> None:
        # JSON and the command line give lists instead of tuples.
        for name in PAIRS:
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for each in fields(self):
            self._check_kind(each.name, getattr(self, each.name), each.default)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(map(str, allowed))}"
                )
        for names, least in ((POSITIVE, 1), (NOT_NEGATIVE, 0)):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(
                f"scales is {self.scales}; it must be two positive factors, the smaller one first")
        if self.width > 64:  # the first layers have 64 channels
            raise ValueError(f"width is {self.width}; it must be at most 64")
        if self.initial_compatibility != "potts" and self.compatibility != "learned":
            raise ValueError(
                f"initial_compatibility is {self.initial_compatibility!r}, but compatibility is "
                f"{self.compatibility!r}, which is Potts throughout; set compatibility=learned"
            )
        if self.freeze_fcn and not self.crf:
            raise ValueError("freeze_fcn leaves nothing to train without a head; add crf=True")
        if self.cache and (self.backbone != "mobilenetv2" or self.crop
                           or tuple(self.scales) != (1.0, 1.0)):
            raise ValueError(
                "cache stores features of whole pictures from the frozen layers of mobilenetv2; "
                "take another backbone, scales or crop without it"
            )

    def _check_kind(self, name: str, value: Any, default: Any) -> None:
        """Raise ValueError unless the value has the type of the default."""
        if name in PAIRS:
            pixels = default is None
            wanted = "two positive integers, [A, B], or null" if pixels else "two numbers, [A, B]"
            right = (value is None and pixels) or (
                isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value))
                and (not pixels or all(isinstance(n, int) and n > 0 for n in value)))
        elif isinstance(default, bool):
            wanted, right = "true or false", isinstance(value, bool)
        elif isinstance(default, int):
            wanted = "an integer"
            right = isinstance(value, int) and not isinstance(value, bool)
        elif isinstance(default, float):
            wanted, right = "a finite number", is_number(value)
        else:
            wanted, right = "a name", isinstance(value, str)
        if not right:
            raise ValueError(f"{name} is {value!r}; it must be {wanted}")

    def with_(self, **changes: Any) -> "Config":
        """Return a copy with some settings changed."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"there is no setting {name!r}; there are {', '.join(known)}")
        return replace(self, **changes)


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Recipe:
    """Settings common to all runs, of each stage of the network, and of the rows of a table."""

    common: Settings
    stages: tuple[Settings, ...]
    rows: Settings
    initial: str  # description of the initial weights that the first stage expects
    seeds: int = field(default=1)


# Sections 6 and 7 of the paper, and the solver settings of the FCN authors that it uses. The paper
# does not give the number of training steps; 30,000 is our choice.
_PAPER = {"backbone": "vgg16", "dataset": "voc", "optimizer": "sgd", "momentum": 0.99,
          "weight_decay": 5e-4, "bias_lr": 2.0, "reduction": "sum", "batch": 1,
          "schedule": "fixed", "iterations": 5, "eval_iterations": 10, "lr_kernel_weights": 1e4,
          "lr_compatibility": 1e3}
_FCN_STAGES = ({"stride": 32, "lr": 1e-10, "steps": 100_000},
               {"stride": 16, "lr": 1e-12, "steps": 100_000},
               {"stride": 8, "lr": 1e-14, "steps": 100_000})
_IMAGENET_VGG = "ImageNet's VGG-16 (torchvision's, or the Caffe model)"

RECIPES = {
    "paper": Recipe(_PAPER, _FCN_STAGES, {"lr": 1e-13, "steps": 30_000}, _IMAGENET_VGG),
    "paper-at-once": Recipe(
        _PAPER, ({"at_once": True, "lr": 1e-10, "steps": 300_000},),
        {"at_once": True, "lr": 1e-13, "steps": 30_000}, _IMAGENET_VGG,
    ),
    # The paper's second column: FCN-32s is trained on COCO, all later stages on VOC.
    "paper-coco": Recipe(
        _PAPER, ({**_FCN_STAGES[0], "dataset": "coco"}, *_FCN_STAGES[1:]),
        {"lr": 1e-13, "steps": 30_000}, _IMAGENET_VGG,
    ),
    # The paper starts from the weights that the FCN authors published, so no stage is trained.
    "paper-published-fcn": Recipe(
        _PAPER, ({"stride": 8, "lr": 1e-14, "steps": 0},), {"lr": 1e-13, "steps": 30_000},
        "the published FCN-8s (fcn8s-heavy-pascal.caffemodel)",
    ),
    # The first version of the paper: T = 3 in training and at test, VOC 2011 with SBD.
    "paper-v1": Recipe(
        {**_PAPER, "dataset": "voc2011", "iterations": 3, "eval_iterations": 3},
        ({"stride": 8, "lr": 1e-14, "steps": 0},), {"lr": 1e-13, "steps": 30_000},
        "the published FCN-8s (fcn8s-heavy-pascal.caffemodel)",
    ),
    "modern": Recipe(
        {"backbone": "vgg16", "dataset": "voc", "at_once": True, "optimizer": "sgd",
         "momentum": 0.9, "weight_decay": 5e-4, "bias_lr": 2.0, "reduction": "mean", "batch": 8,
         "schedule": "poly", "lr_kernel_weights": 100.0, "lr_compatibility": 10.0,
         "crf_weight_decay": False, "flip": True, "scales": (0.5, 2.0), "crop": (480, 480),
         "autocast": True},
        # The paper's rate of FCN-32s, 1e-10 with momentum 0.99, for a mean over 500 x 500 pixels.
        ({"lr": 2.5e-4, "steps": 30_000},), {"lr": 2.5e-5, "steps": 5_000}, _IMAGENET_VGG,
    ),
    # For two cores: most layers of MobileNetV2 keep their ImageNet weights and are computed once.
    "small": Recipe(
        {"backbone": "mobilenetv2", "dataset": "camvid", "optimizer": "adamw",
         "weight_decay": 0.01, "bias_lr": 1.0, "reduction": "mean", "batch": 4,
         "schedule": "poly", "lr_kernel_weights": 10.0, "lr_compatibility": 10.0,
         "crf_weight_decay": False, "flip": True, "window": (176, 240), "cache": True},
        ({"lr": 1e-3, "steps": 1_500},), {"lr": 2e-4, "steps": 500},
        "ImageNet's MobileNetV2 (torchvision's)", seeds=3,
    ),
}


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE from the command line; the value is JSON, or else a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not a setting; write NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
