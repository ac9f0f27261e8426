"""Extensions and stems of file names."""

from pathlib import Path


def extension(path: Path | str) -> str:
    """Return the extension in lower case: ".png", ".nii.gz"; "" if there is none.

    Examples
    --------
    >>> extension("brain.NII.gz"), extension("2007.000033.png"), extension("README")
    ('.nii.gz', '.png', '')
    """
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem(path: Path | str, suffix: str = "") -> str:
    """Return the name without its extension, and without `suffix` before the extension.

    Examples
    --------
    >>> stem("scans/brain_0000.nii.gz", suffix="_0000")
    'brain'
    """
    path = Path(path)
    return path.name[: len(path.name) - len(extension(path))].removesuffix(suffix)
