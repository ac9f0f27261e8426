"""Digests of files, stored with results to detect that their inputs have changed."""

import hashlib
import json
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
    """Return a digest of the names and sizes of image and label files, without their folder."""
    digest = hashlib.sha256(str(pictures.classes).encode())
    for image, labels in pictures.items:
        for path in (image, labels):
            if isinstance(path, Path):
                size = path.stat().st_size if path.exists() else "absent"
                digest.update(f"{path.name} {size}\n".encode())
    return digest.hexdigest()[:16]
