"""Functions that read bytes as a file of some format; for guided.py, and for its corpus in tests.

Each raises nothing but what a reader may raise for a damaged file.
"""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

from densecrf_rnn import files
from densecrf_rnn.files import formats, record, settings

CORPUS = Path(__file__).parent / "corpus"
# What a reader may raise for a damaged file. An ImportError would mean that nothing is fuzzed.
EXPECTED = (OSError, ValueError, TypeError, MemoryError)
_FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def read_file(extension):
    """Return a function that reads a file of these bytes in every way."""
    path = _FOLDER / f"a{extension}"
    if extension in (".pt", ".pth"):  # not within the time of the first input
        import densecrf_rnn.nn.saved  # noqa: F401
    readers = [
        lambda: files.read_logits(path), lambda: files.read_logits(path, kind="probabilities"),
        lambda: files.read_image(path), lambda: files.read_labels(path),
        lambda: files.read_spacing(path), lambda: files.read_palette(path),
        lambda: _read_in_parts(path),
    ]  # fmt: skip

    def one_input(data):
        path.write_bytes(data)
        for reader in readers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(*EXPECTED):
                    reader()

    return one_input


def _read_in_parts(path):
    if not formats.can(path, "open"):
        return
    with contextlib.ExitStack() as stack:
        maps = formats.open_in_parts(path, stack).maps()
        if np.prod(maps.shape, dtype=float) < 1e6:
            np.asarray(maps[(slice(0, 1),) * len(maps.shape)])


def read_settings(data):
    """Read settings from these bytes."""
    path = _FOLDER / "settings.json"
    path.write_bytes(data)
    with contextlib.suppress(*EXPECTED):
        settings.read_settings(path)


def open_record(data):
    """Open a record whose journal or whole file holds these bytes."""
    for name in ("run.jsonl", "run.json"):
        for old in _FOLDER.glob("run.*"):
            old.unlink()
        (_FOLDER / name).write_bytes(data)
        with contextlib.suppress(ValueError):
            opened = record.Record(_FOLDER, "run", {"T": 5})
            opened.is_done("a", {"logits": "a"})
            opened.outdated(["a"])
            opened.close()


def seeds(extension):
    """Write small files of a format for a corpus that is empty."""
    folder = CORPUS / extension.lstrip(".")
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(12).reshape(3, 4)
    maps = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    path = folder / f"seed{extension}"
    if extension in (".npy", ".npz"):
        files.write_labels(folder / f"labels{extension}", labels)
        files.write_marginals(path, maps)
    elif extension in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(path, maps)
        tifffile.imwrite(folder / f"rgb{extension}", np.zeros((3, 4, 3), np.uint8))
    elif extension in (".nii", ".nii.gz"):
        import nibabel

        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 2, 2), np.float32), np.eye(4)), path)
    elif extension in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "w") as file:
            file["a"] = maps
    elif extension == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"a": maps}, path)
    elif extension in (".pt", ".pth"):
        import torch

        torch.save(torch.from_numpy(maps), path)
    else:
        from PIL import Image

        image = Image.fromarray(labels.astype(np.uint8))
        with contextlib.suppress(OSError, ValueError):
            image.save(path)
        with contextlib.suppress(OSError, ValueError):
            image.convert("RGB").save(folder / f"rgb{extension}")
    return folder


def target(name):
    """Return the function for an extension, "json" or "journal"."""
    if name in ("json", "journal"):
        return read_settings if name == "json" else open_record
    if name in formats.FORMATS:
        return read_file(name)
    raise ValueError(f"no target {name!r}; choose an extension, json or journal")
