"""Read tensors that torch.save wrote, as NumPy arrays."""

import pickle
from pathlib import Path

import torch

from .._typing import Array


def load_arrays(path: Path) -> dict[str, Array]:
    """Return the tensors of a file by name; a single tensor has the name "".

    Only tensors and plain containers are unpickled (``weights_only=True``), so no code in the file
    runs. bfloat16, which NumPy lacks, becomes float32.

    Raises
    ------
    ValueError
        The file holds something else. Other errors are those of torch.load.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message suggests to run the file's code
        raise ValueError(
            "it holds Python objects, which may run any code when they are read; save only the "
            "tensor: torch.save(tensor, path)"
        ) from error
    if isinstance(loaded, torch.Tensor):
        return {"": _array(loaded)}
    if isinstance(loaded, dict):
        named = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        return {name: _array(tensor) for name, tensor in named.items()}
    raise ValueError(f"it holds a {type(loaded).__name__}, not a tensor or a dict of tensors")


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
