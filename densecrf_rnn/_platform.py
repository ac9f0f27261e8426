"""What differs between operating systems, for the whole package; each call has a fallback.

Linux is the only system on which the package has been used. The fallbacks run in
tests/test_platform.py, which takes the calls of Linux away; what needs Windows itself
(`msvcrt`, `ctypes.windll`) has never run.
"""

import contextlib
import errno
import importlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _module(name: str) -> Any:
    """Return a module of the standard library, or None where the system lacks it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl = _module("fcntl")  # not on Windows
_msvcrt = _module("msvcrt")  # on Windows only

# Number of the signal of a process whose reader has ended; Windows has no such signal.
SIGPIPE = int(getattr(signal, "SIGPIPE", 13))

_BINARY = getattr(os, "O_BINARY", 0)  # Windows otherwise converts line ends
_FOLDER_LOCK = ".densecrf-rnn.lock"  # where a folder itself cannot be locked
_SEEK = threading.Lock()  # held from moving a file's position to using it


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def on_end(action: Callable[[int, Any], Any]) -> None:
    """Call `action` when the process is told to end, or its terminal was closed."""
    signal.signal(signal.SIGTERM, action)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        # Raised as SIGTERM, which reaches a server that has set a handler of its own since.
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def address_space(size: int) -> mmap.mmap | None:
    """Return `size` zero bytes whose memory is not taken until it is touched.

    Linux rejects an allocation larger than the machine's memory, unless it is a mapping with
    MAP_NORESERVE. On other systems the result is None: allocate as usual.

    Raises
    ------
    MemoryError
        There is no such address space.
    """
    if sys.platform != "linux":
        return None
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # mmap defines it from Python 3.13 on
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    except OSError as error:
        raise MemoryError(f"{size} bytes cannot be reserved: {error}") from error
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)  # as NumPy does
    return memory


def lock(descriptor: int) -> None:
    """Lock an open file until its descriptor is closed, or the process ends.

    A file system without locks is not noticed: nothing can be checked there.

    Raises
    ------
    BlockingIOError
        Another process holds the lock.
    """
    try:
        if _fcntl is not None:
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            _lock_first_byte(descriptor)
    except BlockingIOError:
        raise
    except OSError:  # the file system has no locks
        pass


def _lock_first_byte(descriptor: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        raise


def lock_folder(folder: Path) -> int:
    """Lock a folder; return the descriptor whose closing unlocks it.

    Windows cannot open a folder. A file in it is locked there, and removed when it is closed.

    Raises
    ------
    BlockingIOError
        Another process holds the lock.
    OSError
        There is no such folder.
    """
    if _fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
    else:
        remove = getattr(os, "O_TEMPORARY", 0)
        descriptor = os.open(folder / _FOLDER_LOCK, os.O_RDWR | os.O_CREAT | remove)
    try:
        lock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sync(file: Path) -> None:
    """Let the disk store a file; raise OSError if it cannot."""
    # Windows stores a file only through a descriptor that may write.
    descriptor = os.open(file, os.O_RDWR | _BINARY if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve_room(descriptor: int, size: int) -> None:
    """Reserve room for a file, where the system can: a disk too small is noticed at once."""
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def write_at(descriptor: int, data: memoryview, at: int) -> int:
    """Write bytes from position `at` of a file on; return how many were written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, at)
    with _SEEK:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.write(descriptor, data)


def read_at(descriptor: int, count: int, at: int) -> bytes:
    """Read at most `count` bytes from position `at` of a file on."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, at)
    with _SEEK:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, count)


def runs(process: int) -> bool:
    """Return whether a process of this machine runs; True if that cannot be known."""
    if sys.platform == "win32":  # where os.kill(process, 0) would interrupt it
        return _runs_on_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _runs_on_windows(process: int) -> bool:
    import ctypes

    windll: Any = getattr(ctypes, "windll")  # noqa: B009: mypy knows it on Windows only
    synchronize, invalid_parameter, timed_out = 0x00100000, 87, 0x102
    handle = windll.kernel32.OpenProcess(synchronize, False, process)
    if not handle:
        return bool(windll.kernel32.GetLastError() != invalid_parameter)
    state = windll.kernel32.WaitForSingleObject(handle, 0)
    windll.kernel32.CloseHandle(handle)
    return bool(state == timed_out)
