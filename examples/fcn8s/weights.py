"""Load weights into an FCNCRF: ImageNet's, those of the published nets, and checkpoints.

`load` recognises what a file is. Everything goes in by name; what has no place, or another shape
because the labels are others, is left and reported.
"""

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from densecrf_rnn import CRFRNN
from densecrf_rnn.compat import load_crfasrnn_caffe, load_crfasrnn_pytorch
from densecrf_rnn.compat.weights import NAMES as CRF_NAMES
from densecrf_rnn.nn import IMAGENET_MEAN, IMAGENET_STD, read_settings

from . import caffemodel
from .config import Config
from .networks import CAFFE_MEAN, VGG_BLOCKS, FCNCRF, MobileNetV2FCN, VGG16FCN

VGG_LAYERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # torchvision's convolutions
# What NumPy raises for damaged .npz files.
DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
# The net of the CRF-RNN release and older FCNs -> the names of the FCN release, and ours.
OLD_NAMES = {"score-fr": "score_fr", "score2": "upscore2", "score-pool4": "score_pool4",
             "score4": "upscore_pool4", "score-pool3": "score_pool3", "upsample": "upscore8"}


@dataclass(frozen=True)
class Loaded:
    """Report of a load: parameters set, parameters left, and entries that were not used."""

    source: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self):
        text = f"{self.source}: {len(self.loaded)} arrays"
        if self.left:
            text += f"; not in it, so as they were: {', '.join(self.left)}"
        if self.unused:
            text += f"; in it but unused: {', '.join(self.unused)}"
        return text


def load(model: FCNCRF, path: str | Path) -> Loaded:
    """Load the weights of a file into a model and return a report.

    Parameters
    ----------
    model : FCNCRF
    path : str or Path
        Arrays of NumPy (.npz): MobileNetV2 of ImageNet. A Caffe model: a published FCN or CRF-RNN,
        or VGG-16. A file of torch: a checkpoint of ours, torchvision's VGG-16 or MobileNetV2, or
        crfasrnn_pytorch's model.

    Raises
    ------
    ValueError
        Nothing in the file belongs to the model.
    """
    kind = kind_of(path)
    if kind == "numpy":
        return load_mobilenet(model, path)
    if kind == "caffe":
        return load_published(model, *split_caffe(caffemodel.read(path)), path)
    state = read_torch(path)
    if "model" in state:
        arrays = check_arrays(state["model"], path)
        return copy_by_name(model, arrays, f"the checkpoint {Path(path).name}")
    if "features.0.0.weight" in state:
        return load_torchvision_mobilenet(model, check_arrays(state, path), path)
    if "features.0.weight" in state:
        return load_torchvision_vgg16(model, check_arrays(state, path), path)
    if "conv1_1.weight" in state:
        return load_published(model, *split_torch(check_arrays(state, path)), path)
    raise ValueError(
        f"nothing in {path} is known here (it holds {', '.join(map(str, list(state)[:3]))}, ...); "
        "give torchvision's VGG-16 or MobileNetV2, a model of crfasrnn_pytorch or a last.pt of ours"
    )


def kind_of(path: str | Path) -> str:
    """Return "numpy", "caffe" or "torch", by the first bytes of a file, else by its extension."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give a file of weights")
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":  # torch's files and NumPy's are zip archives
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = any(name.endswith(".npy") for name in archive.namelist())
            return "numpy" if arrays else "torch"
        except Exception:  # a damaged archive: its errors are of many types
            pass
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        return "numpy"
    # A Caffe model begins with the net's name: field 1, bytes.
    return "caffe" if suffix == ".caffemodel" or start[:1] == b"\x0a" else "torch"


def read_torch(path: str | Path) -> dict:
    """Read the dictionary in a torch file without running code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # the type of torch's error depends on what is wrong with the file
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}); save a state_dict with "
            "torch.save, not a whole model"
        ) from error
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds no state_dict; save one with torch.save")
    return state


def check_arrays(state, path) -> dict:
    """Return a state_dict; raise ValueError if there is something else in it."""
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__} instead of a state_dict; save one")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) and not str(name).endswith("_extra_state"):
            raise ValueError(
                f"{path} holds a {type(value).__name__} called {name!r} among its weights; save a "
                "state_dict with torch.save"
            )
    return state


def copy_by_name(module, state, source) -> Loaded:
    """Copy arrays of equal name and shape; a flat array may be reshaped to a matrix or kernel."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    persistent = module.state_dict().keys()
    loaded, unused = [], []
    for name, value in state.items():
        if name.endswith("_extra_state"):  # settings of the head
            continue
        value = torch.as_tensor(value)
        target = own.get(name)
        if target is None or target.numel() != value.numel():
            unused.append(name)
            continue
        if name.startswith("crf.") and target.shape != value.shape:
            unused.append(name)  # [L, L] and [L * L] may count the same by chance
            continue
        with torch.no_grad():
            target.copy_(value.reshape(target.shape))
        loaded.append(name)
    if not loaded:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise ValueError(
            f"nothing in {source} belongs to this model (it holds {some}, ...); check the backbone"
        )
    left = [name for name in own if name in persistent and name not in loaded]
    return Loaded(source, tuple(loaded), tuple(left), tuple(unused))


def _vgg(model) -> VGG16FCN:
    if not isinstance(model.fcn, VGG16FCN):
        raise ValueError(
            "these are weights of VGG-16; make the model with backbone='vgg16' (the recipes "
            "'modern' and 'paper...' do)"
        )
    return model.fcn


def load_torchvision_vgg16(model: FCNCRF, state, path) -> Loaded:
    """Convert torchvision's VGG-16 to images as the published nets take them.

    Theirs are RGB, divided by 255 and normalised; ours BGR minus a mean. The first convolution
    takes the difference on itself: exactly, but for the border, where its padding of zeros is a
    grey that differs by half an intensity.
    """
    names = [f"{block}_{i + 1}" for block, count, _ in VGG_BLOCKS for i in range(count)]
    theirs = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
    if theirs != VGG_LAYERS:
        raise ValueError(
            f"{path} has {len(theirs)} layers with weights before its classifier, but not the "
            f"{len(names)} of VGG-16 without batch norms; give torchvision's vgg16"
        )
    named = {}
    for ours, layer in zip(names, theirs, strict=True):
        for part in ("weight", "bias"):
            named[f"{ours}.{part}"] = state[f"features.{layer}.{part}"]
    for ours, layer in (("fc6", 0), ("fc7", 3)):
        for part in ("weight", "bias"):
            if f"classifier.{layer}.{part}" in state:
                named[f"{ours}.{part}"] = state[f"classifier.{layer}.{part}"]
    first = named["conv1_1.weight"]
    mean, std = (255 * torch.tensor(x, dtype=torch.float64) for x in (IMAGENET_MEAN, IMAGENET_STD))
    weight = first.double() / std[:, None, None]
    shift = torch.tensor(CAFFE_MEAN).double().flip(0) - mean  # RGB
    bias = named["conv1_1.bias"].double() + (weight.sum((2, 3)) * shift).sum(1)
    named["conv1_1.weight"], named["conv1_1.bias"] = weight.flip(1), bias
    return copy_by_name(_vgg(model), named, "torchvision's VGG-16")


def load_published(model: FCNCRF, named: dict, crf: list | dict, path: str | Path) -> Loaded:
    """Load what `read_published` returned: a net by its layer names, and its CRF if both have one.

    A CRF is a list in Caffe models and a dictionary in torch files.
    """
    if isinstance(crf, list):
        source, load_crf = f"the Caffe model {Path(path).name}", load_crfasrnn_caffe
    else:
        source, load_crf = "crfasrnn_pytorch" if crf else "a state_dict", load_crfasrnn_pytorch
    return _with_crf(_load_fcn(model, named, source), model, crf, load_crf)


def split_caffe(layers) -> tuple[dict, list]:
    """Return a published net's arrays by our names, and the three blobs of its CRF, if any."""
    named, crf_blobs = {}, []
    for name, blobs in layers.items():
        if len(blobs) == 3:  # MultiStageMeanfield: spatial and bilateral weights, compatibility
            crf_blobs = blobs
            continue
        name = OLD_NAMES.get(name, name)
        for part, blob in zip(("weight", "bias"), blobs, strict=False):
            named[f"{name}.{part}"] = blob
    return named, crf_blobs


def split_torch(state) -> tuple[dict, dict]:
    """Return the network's arrays of a model of crfasrnn_pytorch, and its CRF's, if any."""
    fcn, crf = {}, {}
    for name, value in state.items():
        (crf if str(name).rsplit(".", 1)[-1] in CRF_NAMES else fcn)[name] = value
    return fcn, crf


def read_published(path: str | Path) -> tuple[dict, list | dict]:
    """Return the network's arrays by our names, and the CRF's (empty if there is none).

    Parameters
    ----------
    path : str or Path
        A .caffemodel, or a torch file with the published names.

    Raises
    ------
    ValueError
        It is neither.
    """
    kind = kind_of(path)
    if kind == "caffe":
        return split_caffe(caffemodel.read(path))
    if kind == "numpy":
        raise ValueError(f"{path} is no published net; give a .caffemodel or crfasrnn_pytorch's")
    state = read_torch(path)
    named, crf = split_torch(state)
    if "conv1_1.weight" not in named:
        raise ValueError(
            f"{path} is no published net (it holds {', '.join(map(str, list(named)[:3]))}, ...); "
            "give a .caffemodel or a model of crfasrnn_pytorch"
        )
    check_arrays(state, path)
    return named, crf


def needs_full_weights(crf) -> bool:
    """Return whether a published CRF's kernel weights have entries off their diagonals."""
    if not crf:
        return False
    if isinstance(crf, dict):
        crf = [value for name, value in crf.items() if not name.endswith(CRF_NAMES[2])]
    matrices = (np.asarray(torch.as_tensor(value).detach()) for value in crf[:2])
    return any((m != m * np.eye(m.shape[-1])).any() for m in matrices
               if m.ndim >= 2 and m.shape[-1] == m.shape[-2])


def fitting(config: Config, path: str | Path) -> Config:
    """Return a configuration whose head can hold the CRF in a file, if the file has one."""
    if not config.crf:
        return config
    try:
        crf = read_published(path)[1]
    except ValueError:  # another kind of file, which `load` knows or rejects
        return config
    return config.with_(kernel_weights="full") if needs_full_weights(crf) else config


def _with_crf(report: Loaded, model: FCNCRF, crf, load) -> Loaded:
    """Load the head's part; a head that is too narrow for it is replaced by one that is not."""
    if not crf or model.crf is None:
        own = [] if model.crf is None else [f"crf.{n}" for n, _ in model.crf.named_parameters()]
        unused = ("its CRF, for this model has none",) if crf else ()
        return replace(report, left=(*report.left, *own), unused=(*report.unused, *unused))
    if needs_full_weights(crf) and model.crf.tied and model.crf.kernel_weights.dim() < 3:
        settings = read_settings(model.crf.state_dict())
        model.crf = CRFRNN(**{**settings, "kernel_weights": "full"}).train(model.crf.training)
    load(model.crf, crf)
    own = tuple(f"crf.{name}" for name, _ in model.crf.named_parameters())
    return replace(report, loaded=report.loaded + own)


def _load_fcn(model, named, source) -> Loaded:
    """By name. A bias of upscore2 is added to what score_pool4 gives, so to that layer's bias."""
    extra = named.pop("upscore2.bias", None)
    if extra is not None and "score_pool4.bias" in named:
        named["score_pool4.bias"] = torch.as_tensor(named["score_pool4.bias"]).reshape(-1) + (
            torch.as_tensor(extra).reshape(-1)
        )
    return copy_by_name(_vgg(model), named, source)


def load_mobilenet(model: FCNCRF, path) -> Loaded:
    """MobileNetV2 of ImageNet from arrays NAME.weight and NAME.bias, batch norms folded in.

    NAME is stem, b0.dw, b0.project, bK.expand, bK.dw, bK.project (K = 1..16) and conv_last.
    """
    named = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                layer, _, part = name.rpartition(".")
                if part not in ("weight", "bias"):
                    continue
                block, _, inner = layer.partition(".")
                ours = f"blocks.{block[1:]}.{inner}" if inner else layer
                named[f"{ours}.{part}"] = arrays[name]
    except DAMAGED as error:
        raise ValueError(
            f"{path} cannot be read as arrays ({error}); make it once more") from error
    if "blocks.6.expand.weight" not in named or "blocks.6.expand.bias" not in named:
        raise ValueError(
            f"{path} has no b6.expand.weight and .bias, so it is no MobileNetV2 in the layout that "
            "examples/fcn8s/README.md describes")
    return _load_mobilenet(model, named, f"MobileNetV2 of {Path(path).name}")


def load_torchvision_mobilenet(model: FCNCRF, state, path) -> Loaded:
    """ImageNet's MobileNetV2 in torchvision's layout: batch norms are folded into convolutions.

    As with VGG-16 the first convolution takes the difference of the images' scales on itself.
    """
    layers = {"stem": "0.0", "conv_last": "18.0"}  # each followed by its batch norm
    for k in range(17):
        inner = ("dw", "project") if k == 0 else ("expand", "dw", "project")
        for i, name in enumerate(inner):
            last = name == "project"
            layers[f"blocks.{k}.{name}"] = f"{k + 1}.conv.{i}" + ("" if last else ".0")
    named = {}
    for ours, theirs in layers.items():
        before, _, number = theirs.rpartition(".")
        norm = f"features.{before}.{int(number) + 1}"
        parts = [f"{norm}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        absent = [n for n in (f"features.{theirs}.weight", *parts) if n not in state]
        if absent:
            raise ValueError(
                f"{path} has no {absent[0]}, so it is no MobileNetV2 of torchvision's; give "
                "mobilenet_v2")
        weight = state[f"features.{theirs}.weight"].double()
        mean, variance, gain, shift = (state[part].double() for part in parts)
        gain = gain / (variance + 1e-5).sqrt()
        named[f"{ours}.weight"] = weight * gain[:, None, None, None]
        named[f"{ours}.bias"] = shift - mean * gain
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (IMAGENET_MEAN, IMAGENET_STD))
    weight = named["stem.weight"] / std[:, None, None]  # of pixels in 0..1, less the mean
    named["stem.weight"] = weight * 128 / 255  # ours are (x - 128) / 128
    named["stem.bias"] = named["stem.bias"] + (weight.sum((2, 3)) * (128 / 255 - mean)).sum(1)
    return _load_mobilenet(model, named, "torchvision's MobileNetV2")


def _load_mobilenet(model, named, source) -> Loaded:
    """By name; the features for pool3 are a copy of an expansion."""
    if not isinstance(model.fcn, MobileNetV2FCN):
        raise ValueError(
            f"this is {source}; make the model with backbone='mobilenetv2' (the recipe 'small' "
            "does)"
        )
    for part in ("weight", "bias"):
        named[f"skip3.{part}"] = named[f"blocks.6.expand.{part}"]
    return copy_by_name(model.fcn, named, source)
