"""Time calls in a process of its own, which imports whichever checkout it is told to.

`Contender(name, folder)` starts this file with that checkout in front of the import path, so that
two versions of the package, and pydensecrf, can be timed in turn on the same arrays.
"""

import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Task:
    """A picture and how it is refined; arrays are files, which every contender maps."""

    logits: str
    image: str
    params: dict[str, Any]  # of CRFParams
    iterations: int = 5
    threads: int = 1
    what: str = "refine"  # or "build", "pydensecrf", "labels"
    options: tuple[tuple[str, Any], ...] = ()  # more arguments of refine


class Contender:
    """A process that runs tasks and returns seconds, a result and the peak memory."""

    def __init__(self, name: str, folder: Path) -> None:
        path = os.pathsep.join([str(folder), str(HERE)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"}
        self.name, self.folder = name, folder
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "contender.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder,
        )  # fmt: skip

    def __call__(self, task: Task, out: Path | None = None) -> float:
        """Return the seconds of one call; its result is written to `out`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((task, None if out is None else str(out)), self._process.stdin)
        self._process.stdin.flush()
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def work(task: Task, arrays: dict[str, Any]):
    """Return the call to be timed."""
    from types import SimpleNamespace

    import numpy as np

    for file in (task.logits, task.image):
        if file not in arrays:
            arrays[file] = np.load(file)
    logits, image = arrays[task.logits], arrays[task.image]
    from densecrf_rnn import CRFParams, PermutohedralLattice, kernels, refine

    params = CRFParams(**task.params)
    if task.what == "pydensecrf":
        import peers

        problem = SimpleNamespace(logits=logits, image=image, size=image.shape[:-1], params=params)
        return peers.forward(task.iterations)(problem, 1)
    if task.what == "build":
        size, order = image.shape[:-1], params.feature_order
        positions = kernels.positions(size, order, (1.0,) * 2, np.float32)
        ones = np.ones((image[..., 0].size, 1), np.float32)

        def build():
            features = kernels.from_params(params)[0].features(positions, image)
            return PermutohedralLattice(features, threads=task.threads).filter(ones)

        return build
    options = {"iterations": task.iterations, "threads": task.threads, "backend": "cpu"}
    options |= dict(task.options)
    if task.what == "argmax":
        return lambda: refine(logits, image, params, **options).argmax(0)
    return lambda: refine(logits, image, params, **options)


def main() -> None:
    """Answer tasks until the input ends."""
    import numpy as np

    arrays: dict[str, Any] = {}
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    while True:
        try:
            task, out = pickle.load(requests)
        except EOFError:
            return
        try:
            call = work(task, arrays)
            begin = time.perf_counter()
            result = call()
            answer: Any = time.perf_counter() - begin
            if out is not None:
                np.save(out, result)
        except Exception as error:  # reported by the parent, which names the contender
            answer = f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    # Tasks are pickled as contender.Task.
    sys.modules["contender"] = sys.modules["__main__"]
    main()
