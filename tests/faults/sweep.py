"""Run commands on file systems that are too small, in steps of their size.

`python sweep.py FAMILY FOLDER [STEP]` mounts a tmpfs for the outputs, fills all but a part of it,
and runs a command of writers.py with larger images, whose outputs need up to 300 kB. After each run
every output must be complete or absent; after the file that fills the disk is removed, the same
command must complete. Prints one line of JSON: [family, number of runs, statuses].
"""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults import writers  # noqa: E402

ROOM = 4 << 20  # bytes of the file system
STEP = 2 << 10  # bytes by which the room for the outputs grows
SIZE = (90, 110)


def why_unavailable():
    """Return why no small file system can be made here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a small file system needs root under Linux"
    return None


def fill(path, room):
    """Write a file that leaves `room` bytes of its file system, in whole blocks."""
    with open(path, "wb", buffering=0) as file:
        found = os.statvfs(path)
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - room))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def sweep(command, folder, step):
    """Yield the exit status for each room, until the outputs find enough."""
    disk, wanted, old = folder / "disk", folder / "wanted", folder / "old"
    for out, is_old in ((wanted, False), (old, True)):
        out.mkdir()
        status, said = command.run(out, is_old)
        assert (status, said) == (0, ""), said
    disk.mkdir()
    for room in range(0, ROOM, step):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", disk], check=True,
            capture_output=True,
        )  # fmt: skip
        try:
            out = disk / "out"
            out.mkdir()
            fill(disk / "full", room)
            status, said = command.run(out)
            (disk / "full").unlink()
            what = f"{command.family}, {room} bytes: ended with {status}: {said}"
            try:
                complete = writers.checked(command, out, wanted, old, False)
            except AssertionError as lost:
                raise AssertionError(f"{what}; {lost}") from None
        finally:
            subprocess.run(["umount", disk], check=True)
        yield status
        if status == 0:
            assert complete == len(command.outputs), what
            return
        assert status == 2, what
        assert said.count("\n") == 1 and str(disk) in said and "/logits/" not in said, what
        assert "No space left" in said or "is full" in said, what
    raise AssertionError(f"{command.family}: more than {ROOM} bytes were needed")


def main():
    """Sweep one family."""
    family, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    step = int(sys.argv[3]) if len(sys.argv) > 3 else STEP
    writers.SIZE, writers.TILE = SIZE, 64
    writers.write_inputs(folder, family)
    statuses = Counter(sweep(writers.Command(family, folder), folder, step))
    print(json.dumps([family, sum(statuses.values()), statuses]), flush=True)


if __name__ == "__main__":
    main()
