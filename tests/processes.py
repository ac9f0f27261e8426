"""Other processes that a test starts: their environment, and two that train together."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

JOIN = """
import os
import sys
import torch
import torch.distributed as dist
from datetime import timedelta
from torch.nn.parallel import DistributedDataParallel

rank, rendezvous, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method="file://" + rendezvous, rank=rank, world_size=2,
    timeout=timedelta(seconds=60),
)
"""

# Not by the interpreter's own exit: threads of torch's process groups that still run there end it
# with "terminate called without an active exception", now and then, after all results are saved.
LEAVE = """
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


def environment():
    """Return the environment of a process that finds these tests, and the package as this one does.

    Passive: idle OpenMP threads must not spin while other tests run beside it.
    """
    package = Path(importlib.util.find_spec("densecrf_rnn").origin).parents[1]
    folders = [str(Path(__file__).parent), str(package), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, folders))
    return {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"}


def results_of_two(worker, folder):
    """Run the code `worker` in two processes of one group; return what each saved to `result`.

    The code finds its `rank`, `dist`, `DistributedDataParallel` and the path `result`.
    """
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    code = f"{JOIN}\n{worker}\n{LEAVE}"
    files = [folder / f"result{rank}" for rank in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder / "rendezvous"), str(file)],
            env=environment(), stderr=subprocess.PIPE, text=True,
        )
        for rank, file in enumerate(files)
    ]  # fmt: skip
    try:
        errors = [worker.communicate(timeout=180)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [worker.returncode for worker in workers] == [0, 0], errors
    return [torch.load(file, weights_only=True) for file in files]
