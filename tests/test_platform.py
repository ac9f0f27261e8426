"""densecrf_rnn/_platform.py without the calls that only Linux has, and where they may stand."""

import errno
import multiprocessing
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import densecrf_rnn
from densecrf_rnn import _platform
from densecrf_rnn._atomic import remove_leftovers, remove_leftovers_of
from densecrf_rnn.engines import contract
from densecrf_rnn.files import record, windows

PACKAGE = Path(densecrf_rnn.__file__).parent
CPP = PACKAGE.parent / "cpp"

# Modules and calls of os that Windows, or macOS too, lacks; a test of their presence also counts.
LINUX_ONLY = (
    r"^\s*import (?:mmap|fcntl|signal|resource|termios|pwd|grp)\b"
    r"|\bos\.(?:fork|kill|pread|pwrite|posix_\w+|statvfs|sched_\w+|sysconf|fsync|geteuid|getuid)\b"
    r"|\bsys\.platform\b|\bos\.name\b|\bplatform\.system\b"
)


def lines(folder, suffixes, pattern):
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                if re.search(pattern, line):
                    yield path.relative_to(folder).as_posix()


def test_only_one_python_file_depends_on_the_operating_system():
    found = set(lines(PACKAGE, {".py"}, LINUX_ONLY))
    assert found == {"_platform.py"}


@pytest.mark.skipif(not CPP.is_dir(), reason="the C++ sources are not installed")
def test_only_one_cpp_file_depends_on_the_operating_system():
    pattern = r"\b(?:_WIN32|__linux__|__APPLE__|__unix__)\b|<(?:sys/\w+|unistd|pthread|windows)\.h>"
    found = set(lines(CPP, {".cpp", ".hpp"}, pattern))
    assert found == {"cpu/platform.cpp", "tests/child.hpp"}


@pytest.fixture
def elsewhere(monkeypatch):
    """A system without the calls of Linux; locks as on Windows, by an imitation of msvcrt."""
    for name in ("sched_getaffinity", "posix_fallocate", "pread", "pwrite"):
        monkeypatch.delattr(os, name, raising=False)
    held = set()

    def locking(descriptor, mode, count):
        file = os.fstat(descriptor)
        if (mode, count) != (2, 1) or os.lseek(descriptor, 0, os.SEEK_CUR) != 0:
            raise AssertionError("not the first byte of the file, without waiting")
        if (file.st_dev, file.st_ino) in held:
            raise OSError(errno.EACCES, "held")
        held.add((file.st_dev, file.st_ino))

    monkeypatch.setattr(_platform, "_fcntl", None)
    monkeypatch.setattr(_platform, "_msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    return held


def test_processors_without_an_affinity_are_all_of_the_machine(elsewhere, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert _platform.processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert _platform.processors() == 1


def test_arrays_of_worst_case_size_without_mappings_are_zeros(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(contract, "_LARGE", 16)
    array = contract.reserve((3, 5), np.int32)
    assert array.shape == (3, 5) and not array.any() and array.flags.writeable
    assert _platform.address_space(1 << 20) is None


def test_parts_of_npy_files_are_written_and_read_without_pread_and_pwrite(elsewhere, tmp_path):
    wanted = np.arange(3 * 40 * 50, dtype=np.float32).reshape(3, 40, 50)
    path = tmp_path / "a.npy"
    with windows.created_npy(path, wanted.shape, wanted.dtype, 2, None, None) as write:
        for top in (20, 0):
            where = (slice(0, 3), slice(top, top + 20), slice(0, 50))
            write(where[1:], np.ascontiguousarray(wanted[where]))
    np.testing.assert_array_equal(np.load(path), wanted)


def test_a_folder_is_locked_by_a_file_in_it_where_folders_cannot_be_opened(elsewhere, tmp_path):
    descriptor = _platform.lock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        _platform.lock_folder(tmp_path)
    with pytest.raises(record.FolderInUseError, match="another run is writing into"):
        record.Record(tmp_path, "record", {})
    elsewhere.clear()
    os.close(descriptor)
    os.close(_platform.lock_folder(tmp_path))


def test_another_error_of_locking_is_a_file_system_without_locks(elsewhere, monkeypatch, tmp_path):
    def fails(descriptor, mode, count):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(_platform._msvcrt, "locking", fails)
    os.close(_platform.lock_folder(tmp_path))
    monkeypatch.setattr(_platform, "_msvcrt", None)  # neither module
    os.close(_platform.lock_folder(tmp_path))


@pytest.mark.skipif(_platform._fcntl is None, reason="this system has no flock")
def test_a_folder_is_locked_once_and_nothing_is_written_into_it(tmp_path):
    descriptor = _platform.lock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        _platform.lock_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    os.close(descriptor)
    os.close(_platform.lock_folder(tmp_path))
    with pytest.raises(FileNotFoundError):
        _platform.lock_folder(tmp_path / "missing")


def test_a_process_runs_until_it_ends():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert _platform.runs(child.pid) and _platform.runs(os.getpid())
    child.communicate(b"\n")
    assert not _platform.runs(child.pid)
    assert _platform.runs(2**70)  # it cannot be known


def test_leftovers_of_a_process_that_ended_are_removed_and_others_kept(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    child.join()
    left = tmp_path / f".part-{child.pid}-0-a.txt"
    kept = tmp_path / f".part-{os.getpid()}-0-a.txt"
    left.touch()
    kept.touch()
    remove_leftovers_of(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("name", ["a.zarr", "a" * 60 + ".zarr"])
@pytest.mark.parametrize("one", [True, False])
def test_a_folder_whose_replacement_was_killed_is_put_in_its_place(tmp_path, name, one):
    """Between setting the old folder aside and renaming the new one, neither has its name."""
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    child.join()
    end = name[-32:]
    for ending, content in (("", "new"), (".old", "old")):
        folder = tmp_path / f".part-{child.pid}-0-{end}{ending}"
        folder.mkdir()
        (folder / content).touch()
    if one:
        remove_leftovers_of(tmp_path / name)
    else:
        remove_leftovers(tmp_path)
    (found,) = tmp_path.iterdir()
    assert found.name == (name if one else end)
    assert [path.name for path in found.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["a.zarr", "a" * 60 + ".zarr"])
def test_a_folder_that_was_replaced_is_not_replaced_by_its_old_content(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "new").touch()
    (tmp_path / f".part-1-0-{name[-32:]}.old").mkdir()
    remove_leftovers(tmp_path)
    (found,) = tmp_path.iterdir()
    assert [path.name for path in found.iterdir()] == ["new"]
