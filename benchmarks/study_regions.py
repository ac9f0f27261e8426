"""Refine three nested tumour regions at once and print their Dice before and after.

    python benchmarks/study_regions.py FOLDER

prints the table of docs/refinement.md, section "Regions that overlap". FOLDER holds volumes *.npz
as study_refinement.py reads them from brats3d/: flair, t1c, label (1 necrosis, 2 oedema, 3
non-enhancing and 4 enhancing tumour) and prob. They are not part of the repository.
"""

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from study_refinement import Volume

from densecrf_rnn import metrics, refine, tuning

REGIONS = {"whole tumour": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing tumour": (4,)}
ITERATIONS = 5


def region_logits(logits: np.ndarray) -> np.ndarray:
    """Return the logit of each region: its best label's, less the best of the other labels."""
    return np.stack([
        logits[list(inside)].max(0) - np.delete(logits, inside, axis=0).max(0)
        for inside in REGIONS.values()
    ])  # fmt: skip


def dice(truth: np.ndarray, masks: Sequence[np.ndarray]) -> list[float]:
    """Return the Dice of the mask of each region against a label map."""
    found = []
    for inside, mask in zip(REGIONS.values(), masks, strict=True):
        true = np.isin(truth, inside).astype(int)
        confusion = metrics.confusion_matrix(true, mask.astype(int), 2)
        found.append(float(metrics.class_dice(confusion)[1]))
    return found


def study(volume: Volume) -> dict[str, list[float]]:
    """Return the Dice of each region: before, all refined at once, and one CRF over the labels."""
    logits = region_logits(volume.logits)
    options = {"params": tuning.START, "iterations": ITERATIONS}
    q = refine(logits, volume.image, multilabel=True, **options)
    labels = refine(volume.logits, volume.image, **options).argmax(0)
    return {
        "before": dice(volume.truth, logits > 0),
        "three regions at once": dice(volume.truth, q > 0.5),
        "one CRF over the five labels": dice(
            volume.truth, [np.isin(labels, inside) for inside in REGIONS.values()]
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of each volume in the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    paths = sorted(parser.parse_args(argv).folder.glob("*.npz"))
    if not paths:
        print("no volumes *.npz in the folder: nothing to refine")
        return
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}\n")
    print(f"`{tuning.START}`, T = {ITERATIONS}\n")
    print(f"| | {' | '.join(REGIONS)} |")
    print(f"|---|{'---|' * len(REGIONS)}")
    for path in paths:
        for name, scores in study(Volume(path)).items():
            cells = " | ".join(f"{100 * score:.1f}" for score in scores)
            print(f"| {path.stem}: {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
