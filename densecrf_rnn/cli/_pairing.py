"""Match the files of several folders: logits, images, masks, ground truth."""

import argparse

from .. import files
from . import user_errors


@user_errors(ValueError)
def paired(args: argparse.Namespace, **sources: str | None) -> files.Pairs:
    """Match the files of several sources by stem; `sources` maps their names, None to be left out.

    For a source "image", the option --image-suffix says how the names of its files end: those of
    its files, one for each suffix, follow one another in the paths of a match.

    Raises
    ------
    UserError
        No files match.
    """
    given = [
        (source, suffix, f"--{name}-suffix")
        for name, source in sources.items()
        if source is not None
        for suffix in _suffixes(args, name)
    ]
    places, suffixes, suffix_options = zip(*given, strict=True)
    return files.pair(
        *places,
        suffixes=suffixes,
        suffix_options=suffix_options,
        recursive=args.recursive,
    )


def _suffixes(args: argparse.Namespace, name: str) -> list[str]:
    suffix: str = getattr(args, f"{name}_suffix")
    return suffix.split(",") if name == "image" else [suffix]
