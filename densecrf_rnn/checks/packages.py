"""Import of optional dependencies."""

import importlib
from typing import Any

_NAMES = {"skimage": "scikit-image", "PIL": "pillow"}  # as pip has them, where modules differ


def name_for_pip(module: str) -> str:
    """Return the name by which pip knows the package of a module."""
    package = module.partition(".")[0]
    return _NAMES.get(package, package)


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
        raise ImportError(
            f"{user} needs {name_for_pip(str(error.name))}, which is not installed; "
            f"pip install {install}{note}"
        ) from error
