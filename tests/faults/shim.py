"""Run Python with a shim that injects faults into calls of the C library on some files.

Works under Linux with a C compiler; covers Python's own files and those of native libraries.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

# As in shim.c.
KINDS = ("none", "write", "short write", "flush", "close", "rename", "lost rename", "read", "kill")
SOURCE = Path(__file__).with_name("shim.c")


def why_unavailable():
    """Return why the shim cannot be used here, or None."""
    if not sys.platform.startswith("linux"):
        return "the shim that injects faults needs Linux"
    if shutil.which(os.environ.get("CC", "cc")) is None:
        return "the shim that injects faults needs a C compiler"
    return None


def build(folder):
    """Compile the shim into a folder; return the path of the library."""
    library = Path(folder) / "shim.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE,
         "-ldl"], check=True, capture_output=True,
    )  # fmt: skip
    return library


def run(library, script, *arguments, timeout=300):
    """Run a Python script under the shim, in a process of its own."""
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def set_fault(kind="none", first=1, text="", once=False, error=errno.ENOSPC):
    """Inside such a process: let calls fail on files whose path contains `text`.

    Returns the number of calls that the last fault made fail.
    """
    set_ = ctypes.CDLL(None).dcrf_set_fault
    set_.restype, set_.argtypes = ctypes.c_long, (
        ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_char_p,
    )  # fmt: skip
    return set_(KINDS.index(kind), first, once, error, text.encode())
