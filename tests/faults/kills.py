"""Kill a command at each call that changes the disk, and resume it.

`python kills.py FAMILY FOLDER` runs under the shim; the families are those of writers.py. Each run
is a child of this process, which has imported everything but computed nothing.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.shim import set_fault  # noqa: E402
from faults.writers import FAMILIES, Command, checked, write_inputs  # noqa: E402

_COMMANDS = [f"densecrf_rnn.cli.{name}" for name in ("refine", "evaluate", "tune")]
_COMPLETE = 42  # exit status of a run that was not killed


def child(work):
    """Run a function in a child process; return how that ended, as os.waitpid."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work() or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def kill_at_each_call(command, folder):
    """Kill the command at each call in turn, and check what is left; return the number of calls."""
    work = folder / "work"
    out, wanted, old = work / "out", work / "wanted", work / "old"
    for made, is_old in ((wanted, False), (old, True)):
        made.mkdir(parents=True)
        assert child(lambda: command.run(made, is_old)[0]) == 0
    first, ended = 0, 0
    while not os.WIFEXITED(ended) or first == 0:
        first += 1
        shutil.rmtree(out, ignore_errors=True)
        if before := first % 2 == 0:  # outputs of an earlier run with other options are there
            shutil.copytree(old, out)
        elif not command.refines:
            out.mkdir()

        def killed():
            set_fault("kill", first, text=str(out))
            status, said = command.run(out)
            set_fault()
            assert status == 0, said
            return _COMPLETE

        ended = child(killed)
        whole = os.WIFEXITED(ended) and os.WEXITSTATUS(ended) == _COMPLETE
        assert whole or (os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL), ended

        def mended():
            done = checked(command, out, wanted, old, before and first % 4 == 0)
            assert not whole or done == len(command.outputs)

        assert child(mended) == 0, f"{command.family}: call {first}"
    return first - 1


def _main():
    family, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    for name in (*_COMMANDS, "PIL.Image", "rasterio", "tifffile", "nibabel", "zarr", "tqdm"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert child(lambda: write_inputs(folder, family)) == 0
    assert family in FAMILIES
    print(json.dumps(["kill", kill_at_each_call(Command(family, folder), folder)]))


if __name__ == "__main__":
    _main()
