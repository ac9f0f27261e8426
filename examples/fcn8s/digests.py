"""Digests of files, stored with results to detect that their inputs have changed."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from .pictures import Pictures


def known(path: Path) -> dict:
    """Return the stored results in a JSON file; {} if there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def of_file(path: str | Path) -> str:
    """Return a digest of the contents of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:16]


def of_pictures(pictures: Pictures) -> str:
    """Return a digest of the names of image and label files, images' sizes and labels' contents.

    Folders do not matter. Images are large, and those of equal size are seldom different; label
    files are small, and changed labels often leave their size as it was.
    """
    digest = hashlib.sha256(str(pictures.classes).encode())
    for image, labels in pictures.items:
        size = image.stat().st_size if image.exists() else "absent"
        digest.update(f"{image.name} {size}\n".encode())
        if isinstance(labels, Path):
            content = "absent"
            if labels.exists():
                state = labels.stat()
                content = _of_labels(labels, state.st_size, state.st_mtime_ns)
            digest.update(f"{labels.name} {content}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=None)
def _of_labels(path: Path, size: int, changed: int) -> str:
    return of_file(path)
