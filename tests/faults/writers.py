"""Commands that write files, run with a fault at each call of the C library in turn.

`python writers.py FAMILY FOLDER` runs under the shim (`shim.run`), calls the command line inside
its process, and prints one line of JSON for each kind of fault: [fault, number of runs, outcomes].
It raises AssertionError where anything is lost.
"""

import contextlib
import errno
import filecmp
import gzip
import io
import itertools
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np

from densecrf_rnn.cli import main

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.shim import set_fault  # noqa: E402

ALL = os.environ.get("DENSECRF_FAULTS") == "all"
STEMS = ("a", "b")
SIZE, LABELS, TILE = (8, 6), 2, 4


def calls(family):
    """Return the numbers of the calls at which a fault is injected, in turn: of many calls a few.

    With DENSECRF_FAULTS=all, every call.
    """
    if ALL:
        return range(1, 5000)
    slow = any(word in family for word in ("tune", "evaluate", ".tif", ".zarr"))
    each, factor = (3, 2.0) if slow else (6, 1.5)
    return [*range(1, each), *(round(each * factor**i) for i in range(20))]


# --- inputs --------------------------------------------------------------------------------------


def write_inputs(folder, family):
    """Write logits, images and truth of two stems in the formats of a family."""
    rng = np.random.default_rng(0)
    end = FAMILIES[family].get("image", ".png")
    axes = (3, *SIZE) if FAMILIES[family].get("volume") else SIZE
    for name in ("logits", "images", "truth"):
        (folder / name).mkdir()
    for stem in STEMS:
        logits = rng.normal(size=(LABELS, *axes)).astype(np.float32)
        image = rng.integers(0, 255, (*axes, 3), np.uint8)
        np.save(folder / f"logits/{stem}.npy", logits)
        _write_image(folder / f"images/{stem}{end}", image)
        if axes == SIZE:
            _write_image(folder / f"truth/{stem}.png", logits.argmax(0).astype(np.uint8))


def _write_image(path, image):
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".png":
        from PIL import Image

        Image.fromarray(image).save(path)
    elif path.suffix == ".zarr":
        import zarr

        zarr.open_array(str(path), mode="w", shape=image.shape, dtype=image.dtype)[...] = image
    elif path.suffix == ".gz":
        import nibabel

        nibabel.save(nibabel.Nifti1Image(image[..., 0].T, np.diag([1, 1, 2, 1])), path)
    else:
        import rasterio

        with rasterio.open(
            path, "w", driver="GTiff", count=3, height=SIZE[0], width=SIZE[1], dtype="uint8",
            crs="EPSG:32633", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6),
        ) as file:  # fmt: skip
            file.write(np.moveaxis(image, -1, 0))


# --- commands ------------------------------------------------------------------------------------

_WHOLE, _TILED = ["--workers", "1"], ["--tile", "TILE", "--halo", "4"]
# The options of `refine`, the names of the outputs of a stem, and the inputs' formats.
FAMILIES = {
    "labels .png": dict(options=_WHOLE, outputs=["{}.png"]),
    "labels .nii.gz": dict(options=_WHOLE, outputs=["{}.nii.gz"], image=".nii.gz", volume=True),
    "labels .npy": dict(options=_WHOLE, outputs=["{}.npy"], image=".npy", volume=True),
    "labels .tif": dict(options=_WHOLE, outputs=["{}.tif"], image=".tif"),
    "labels and marginals .npz": dict(
        options=[*_WHOLE, "--write", "both"], outputs=["{}.png", "{}.npz"]
    ),
    "saliency .png": dict(options=[*_WHOLE, "--write", "saliency"], outputs=["{}.png"]),
    "region masks .png": dict(
        options=[*_WHOLE, "--kind", "region-logits"], outputs=["{}_0.png", "{}_1.png"]
    ),
    "labels .tif, tiled": dict(options=_TILED, outputs=["{}.tif"], image=".tif"),
    "labels .npy, tiled": dict(options=_TILED, outputs=["{}.npy"], image=".npy"),
    "labels .zarr, tiled": dict(options=_TILED, outputs=["{}.zarr"], image=".zarr"),
    "marginals .tif, tiled": dict(
        options=[*_TILED, "--write", "marginals"], outputs=["{}.tif"], image=".tif"
    ),
    "marginals .npy, tiled": dict(
        options=[*_TILED, "--write", "marginals"], outputs=["{}.npy"], image=".npy"
    ),
    "marginals .zarr, tiled": dict(
        options=[*_TILED, "--write", "marginals"], outputs=["{}.zarr"], image=".zarr"
    ),
    "evaluate --json --plots": dict(outputs=["{}.json", "{}/class_iu.png", "{}/trimap.png"]),
    "tune --out --study": dict(outputs=["{}.json"]),
}  # fmt: skip


class Command:
    """The command of a family, and what it writes."""

    def __init__(self, family, folder):
        self.family, self.folder, self._kind = family, folder, family.split(" ")[0]
        stems = STEMS if "options" in FAMILIES[family] else ("o",)
        names = FAMILIES[family]["outputs"]
        self.outputs = [name.format(stem) for stem in stems for name in names]
        self.refines = "options" in FAMILIES[family]

    def argv(self, out, old):
        """Return the arguments; `old` are those of an earlier run with another result."""
        inputs = [str(self.folder / name) for name in ("logits", "images", "truth")]
        if self._kind == "evaluate":
            more = [] if old else ["--mean-over", "1"]
            return ["evaluate", inputs[0], inputs[2], "--json", str(out / "o.json"), "--plots",
                    str(out / "o"), "--resamples", "3", "--trimap", "1", *more]  # fmt: skip
        if self._kind == "tune":
            return ["tune", *inputs, "--out", str(out / "o.json"), "--trials", "1", "--study",
                    str(out / f"{old}.db"), "--iterations", "1" if old else "2"]  # fmt: skip
        more = [{"TILE": str(TILE)}.get(one, one) for one in FAMILIES[self.family]["options"]]
        return ["refine", "--quiet", *inputs[:2], "--out", str(out), *more, "--theta-alpha", "3",
                "--iterations", "1" if old else "5"]  # fmt: skip

    def run(self, out, old=False):
        """Call the command; return its exit status and what it printed to stderr."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main(self.argv(out, old))
            except Exception:
                set_fault()
                raise AssertionError(f"no traceback may be shown: {traceback.format_exc()}")
        return status, said.getvalue()


def same(one, other):
    """Return whether two files or folders hold the same; of gzip, what it holds."""
    if one.is_dir():
        compared = filecmp.dircmp(one, other)
        return not (compared.left_only or compared.right_only or compared.diff_files) and all(
            same(one / name, other / name) for name in compared.common_dirs
        )
    if one.suffix == ".gz":
        return gzip.decompress(one.read_bytes()) == gzip.decompress(other.read_bytes())
    if one.suffix == ".tif" and one.read_bytes() != other.read_bytes():
        return _same_raster(one, other)  # GDAL may write the same in another order
    return one.read_bytes() == other.read_bytes()


def _same_raster(one, other):
    import rasterio

    with contextlib.ExitStack() as stack:
        try:
            files = [stack.enter_context(rasterio.open(path)) for path in (one, other)]
            values = [file.read() for file in files]
        except rasterio.errors.RasterioIOError:
            return False
        return np.array_equal(*values) and files[0].profile == files[1].profile


# --- faults --------------------------------------------------------------------------------------


def checked(command, out, wanted, old, resume_old):
    """Check what a run with a fault left in `out`, and that the next run mends it.

    `wanted` and `old` are folders of complete runs with the options of this run and of an earlier
    one. Returns how many outputs were complete before the next run.
    """
    complete = 0
    for name in command.outputs:
        path = out / name
        if path.exists():
            new = same(path, wanted / name)
            assert new or same(path, old / name), f"{name} is neither whole nor what was there"
            complete += new
    status, said = command.run(out, resume_old)
    assert status == 0, f"the next run ends with {status}: {said}"
    for name in command.outputs:
        reference = old if resume_old else wanted
        assert (out / name).exists(), f"the next run did not write {name}"
        assert same(out / name, reference / name), f"the next run left a wrong {name}"
    left = [p.name for p in out.rglob("*") if p.name.startswith(".part-") or p.suffix == ".jsonl"]
    assert not left, f"the next run left {left}"
    return complete


def sweep(command, work, wanted, old, kind, *, once, error, text):
    """Yield (fault, exit status, stderr, whether outputs are complete) for each call in turn."""
    for first in calls(command.family):
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        # Whether the outputs of an earlier run with other options are there.
        before = kind == "read" or first % 2 == 0
        if before:
            shutil.copytree(old, out)
        elif not command.refines:
            out.mkdir()
        set_fault(kind, first, text=text, once=once, error=error)
        try:
            status, said = command.run(out)
        finally:
            failed = set_fault()
        what = f"{command.family}, {kind} {first} of {text.rpartition('/')[2]}: "
        try:
            complete = checked(command, out, wanted, old, before and first % 4 == 0)
        except AssertionError as lost:
            raise AssertionError(f"{what}{lost}; it had ended with {status}: {said}") from None
        if not failed:
            assert status == 0, what + said
            return
        yield what, status, said, complete == len(command.outputs)
    raise AssertionError(f"{what}more calls than {first}")


def faults(command, folder):
    """Run the command under each fault; yield (name of the fault, statuses)."""
    work = folder / "work"
    wanted, old = work / "wanted", work / "old"
    for out, is_old in ((wanted, False), (old, True)):
        out.mkdir(parents=True)
        status, said = command.run(out, is_old)
        assert (status, said) == (0, ""), said
    assert not all(same(wanted / n, old / n) for n in command.outputs), "old and new are the same"

    text = str(work / "out")
    slow = not (command.refines or ALL)  # charts and searches: some faults only
    for kind, once, error in (
        ("write", False, errno.ENOSPC), ("write", True, errno.EIO), ("short write", False, 0),
        ("flush", True, errno.EIO), ("close", True, errno.EIO), ("rename", True, errno.EIO),
        ("lost rename", True, 0), ("read", True, errno.EIO),
    ):  # fmt: skip
        if slow and kind in ("short write", "flush", "close", "read"):
            continue
        statuses = []
        for what, status, said, complete in sweep(
            command, work, wanted, old, kind, once=once, error=error, text=text
        ):
            statuses.append(status)
            if kind == "short write":
                assert status == 0, f"{what}a write in parts is no failure: {said}"
            elif status == 0:
                assert complete, f"{what}the failure was not noticed"
            else:
                assert status == 2, f"{what}ended with {status}: {said}"
                lines = [line for line in said.splitlines() if ": note: " not in line]
                assert len(lines) == 1 and str(folder / "work") in said, what + said
                assert ".part-" not in said and "/logits" not in said, what + said
                if error == errno.ENOSPC:
                    # SQLite does not say why it cannot create its file.
                    words = ("No space left on device", "is full", "unable to open database")
                    assert any(text in said for text in words), what + said
        yield kind if kind != "write" else f"write, {errno.errorcode[error]}", statuses
    if command.refines:
        yield "read of an input", list(_unreadable(command, work, wanted, old))


def _unreadable(command, work, wanted, old):
    """Let each read of the inputs of one stem fail; yield the exit statuses."""
    for source in ("logits", "images"):
        text = str(command.folder / source / "b.")
        for what, status, said, _ in sweep(
            command, work, wanted, old, "read", once=True, error=errno.EIO, text=text
        ):
            assert status in (0, 1), f"{what}ended with {status}: {said}"
            if status:
                assert said.count("\n") == 1 and f"/{source}/b." in said, what + said
            yield status


def _main():
    family, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    write_inputs(folder, family)
    for name, statuses in faults(Command(family, folder), folder):
        counts = {s: len(list(same)) for s, same in itertools.groupby(sorted(statuses))}
        print(json.dumps([name, len(statuses), counts]), flush=True)


if __name__ == "__main__":
    _main()
