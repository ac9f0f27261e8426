"""Import of optional dependencies."""

import importlib
from typing import Any


def package(module: str, user: str, install: str, note: str = "") -> Any:
    """Import an optional dependency and return it.

    Parameters
    ----------
    module : str
        Name of the module to import.
    user : str
        The function that needs it, which begins the message.
    install : str
        What pip has to install, as typed in a shell.
    note : str
        Text after the message.

    Raises
    ------
    ImportError
        The module, or one that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        name = {"skimage": "scikit-image", "PIL": "pillow"}.get(name, name)
        raise ImportError(
            f"{user} needs {name}, which is not installed; pip install {install}{note}"
        ) from error
