"""Digests of files, by which what is stored knows what it was made of."""

import hashlib
from pathlib import Path

from .datasets import Pictures


def of_file(path: str | Path) -> str:
    """Of what a file holds."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:16]


def of_pictures(pictures: Pictures) -> str:
    """Of the names and sizes of the files of pictures and labels, wherever the folder is."""
    digest = hashlib.sha256(str(pictures.classes).encode())
    for image, labels in pictures.items:
        for path in (image, labels):
            if isinstance(path, Path):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
