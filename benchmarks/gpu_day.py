"""Build, test and measure the CUDA engine on the GPU of this machine, in six minutes at most.

Made for a day on which a GPU is at hand for a short time: it needs no network, no git and nothing
outside this checkout. Each step runs in processes of its own under a time limit, and its result is
written at once, so it is kept if a later step fails, hangs or never starts.

    python benchmarks/gpu_day.py                   # results go to benchmarks/results
    python benchmarks/gpu_day.py --only smoke --out /tmp/results
    python benchmarks/gpu_day.py --rehearse --out /tmp/results   # without a GPU: what can be tried

It leaves four files: gpu_day.json and gpu_day.txt (a summary), gpu_day.log (all output) and
gpu_day_bench.json (the times). A rehearsal runs the same steps on the serial launcher and the CPU.

Exit status: 0 if every step that ran passed, 1 if one failed or exceeded its limit, 3 if none ran.
"""

import argparse
import glob
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "densecrf_rnn"
HERE = [sys.executable, str(Path(__file__).resolve())]
# -p no:xdist: one process, as -n 0, and valid also where pytest-xdist is not installed.
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-v",
          "--color=no"]  # fmt: skip
# Fills the memory of the GPU, so it runs last.
MEMORY_TEST = (
    "tests/test_cuda_memory.py::"
    "test_running_out_of_memory_is_an_exception_and_the_next_call_works"
)
TORCH_TESTS = "tests/test_nn_torch_devices.py"
PASSED, FAILED, LATE, NOT_RUN = "passed", "failed", "exceeded its limit", "not run"


class NotRun(Exception):
    """A step cannot run on this machine; the message says why."""


@dataclass
class Result:
    """The outcome of one step, as written to the summary."""

    step: str
    status: str
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Day:
    """What the steps share: the folder of results, the machine, and the results so far."""

    out: Path
    rehearsal: bool = False
    facts: dict[str, object] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def status(self, step: str) -> str:
        """Return the status of a step that is over, or "" if it was not asked for."""
        return next((r.status for r in self.results if r.step == step), "")

    def write(self) -> None:
        """Write the summary as JSON, and as text for reading."""
        summary = {"machine": self.facts, "steps": [asdict(result) for result in self.results]}
        write_whole(self.out / "gpu_day.json", json.dumps(summary, indent=1) + "\n")
        write_whole(self.out / "gpu_day.txt", self.text())

    def text(self) -> str:
        """Return the summary, a line per fact and per step."""
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        lines.append("")
        for r in self.results:
            spent = f" ({r.seconds:.0f} s)" if r.seconds else ""
            lines.append(f"{r.step:12} {r.status}{spent}{': ' if r.reason else ''}{r.reason}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Step:
    """A named part of the day."""

    name: str  # on the command line, and of the log
    limit: float  # seconds until it is stopped; scaled if all steps have other than 6 minutes
    commands: Callable[[Day], list[list[str]]]  # commands to run in turn; may raise `NotRun`
    judge: Callable[[int, str], tuple[str, str]]  # last exit status and log -> status and reason
    environment: dict[str, str] = field(default_factory=dict)  # variables to set in addition


# --- running steps -------------------------------------------------------------------------------


def run_day(steps: Sequence[Step], day: Day, minutes: float = 6.0) -> int:
    """Run the steps in turn and return the exit status; `minutes` is the limit of them all."""
    begin = time.monotonic()
    for step in steps:
        left = begin + 60 * minutes - time.monotonic()
        limit = max(0.0, min(step.limit * minutes / 6, left))
        print(f"=== {step.name} (at most {limit:.0f} s)", flush=True)
        result = run_step(step, day, limit)
        day.results.append(result)
        day.write()
        print(f"{result.status}{': ' if result.reason else ''}{result.reason}", flush=True)
    print(f"\n{day.text()}\nwritten to {day.out}", flush=True)
    ran = [result.status for result in day.results if result.status != NOT_RUN]
    return 3 if not ran else int(any(status != PASSED for status in ran))


def run_step(step: Step, day: Day, limit: float) -> Result:
    """Run one step for `limit` seconds at most; nothing that it does raises an error."""
    begin = time.monotonic()
    log = day.out / "gpu_day.log"
    try:
        commands = step.commands(day)
        if limit < 1:
            raise NotRun("the time for all steps is used up")
    except NotRun as reason:
        return Result(step.name, NOT_RUN, str(reason))
    except Exception as error:  # a mistake in one step must not cost the others
        return Result(step.name, FAILED, f"{type(error).__name__}: {error}")
    code: int | None = 0
    with log.open("a") as file:
        print(f"=== {step.name}", file=file, flush=True)
        start = file.tell()
        for command in commands:
            print(f"$ {shlex.join(command)}", file=file, flush=True)
            left = begin + limit - time.monotonic()
            code = run_command(command, file, left, step.environment)
            if code != 0:
                break
    text = log.read_bytes()[start:].decode(errors="replace")
    if code is None:
        status, reason = LATE, f"stopped after {limit:.0f} s; {progress(text)}"
    else:
        status, reason = step.judge(code, text)
    return Result(step.name, status, reason, round(time.monotonic() - begin, 1))


def run_command(command: list[str], log, limit: float, extra: dict[str, str]) -> int | None:
    """Run a command with its output in `log`; None if it was stopped at the limit.

    It has a process group of its own, which is stopped as a whole: compilers and test processes
    that it has started end with it.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        print(error, file=log, flush=True)
        return 127
    try:
        return process.wait(max(limit, 0.1))
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(3)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        return None
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step, so that a reader finds the old text or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


# --- judging logs --------------------------------------------------------------------------------


def by_exit_status(code: int, text: str) -> tuple[str, str]:
    """Judge a command by its exit status alone; the reason is its last line."""
    return (PASSED, "") if code == 0 else (FAILED, f"exit status {code}; {last_line(text)}")


def by_native(code: int, text: str) -> tuple[str, str]:
    """Judge the native tests, whose last line counts those that passed and names the others."""
    return (PASSED, last_line(text)) if code == 0 else by_exit_status(code, text)


def by_tests(code: int, text: str) -> tuple[str, str]:
    """Judge a run of pytest; one in which no test passed counts as failed."""
    if code == 0 and not re.search(r" PASSED\b", text):
        return FAILED, f"no test ran; {last_line(text)}"
    return (PASSED if code == 0 else FAILED), progress(text)


def by_memcheck(code: int, text: str) -> tuple[str, str]:
    """Judge compute-sanitizer, which must have printed its summary."""
    summary = re.search(r"ERROR SUMMARY: (\d+) error", text)
    if summary is None or "before first instrumented API call" in text:
        return NOT_RUN, f"compute-sanitizer refused; {last_line(text)}"
    if int(summary[1]) or code:
        return FAILED, f"{summary[1]} errors, exit status {code}"
    return PASSED, "0 errors"


def progress(text: str) -> str:
    """Return how many tests a log of `pytest -v` reports, or else its last line."""
    words = ("PASSED", "FAILED", "ERROR", "SKIPPED")
    counts = [(len(re.findall(rf" {word}\b", text)), word.lower()) for word in words]
    told = ", ".join(f"{count} {word}" for count, word in counts if count)
    return told or last_line(text)


def last_line(text: str) -> str:
    """Return the last line of a log that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


# --- the steps -----------------------------------------------------------------------------------


def need_gpu(day: Day) -> None:
    """Raise `NotRun` unless a GPU was found."""
    if not day.facts.get("card"):
        raise NotRun(f"no GPU ({day.facts.get('gpu')})")


def need_build(day: Day) -> None:
    """Raise `NotRun` if the build was asked for and did not succeed."""
    if day.status("build") in (FAILED, LATE):
        raise NotRun("the build did not succeed; --only runs this step with an older module")


def need_module(day: Day) -> None:
    """Raise `NotRun` unless there are a GPU, the CUDA module and a torch that can use both.

    A rehearsal needs the serial launcher and torch.
    """
    if day.rehearsal:
        if not any(PACKAGE.glob("_serial.*so")) or importlib.util.find_spec("torch") is None:
            raise NotRun("a rehearsal needs torch and the module densecrf_rnn._serial")
        return
    need_gpu(day)
    need_build(day)
    if not any(PACKAGE.glob("_cuda.*so")):
        raise NotRun("the module densecrf_rnn._cuda is not compiled")
    if not day.facts.get("torch cuda"):
        raise NotRun(f"torch {day.facts.get('torch')} cannot use the GPU")


def need_pytest() -> None:
    """Raise `NotRun` unless pytest is installed."""
    if importlib.util.find_spec("pytest") is None:
        raise NotRun("pytest is not installed")


def tool(name: str, *folders: str) -> str | None:
    """Find a program next to this Python, on the PATH or where CUDA is usually installed."""
    cuda = [f"{home}/{sub}" for home in ("/usr/local/cuda", *glob.glob("/usr/local/cuda-*"))
            for sub in ("bin", "compute-sanitizer")]  # fmt: skip
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), *folders, *cuda]
    return shutil.which(name, path=os.pathsep.join(path))


def build_folder(day: Day) -> str:
    """Return the folder of the build for this Python, processor and GPU."""
    architecture = str(day.facts["capability"]).replace(".", "")
    tag = f"{sys.implementation.cache_tag}-{platform.machine()}-{architecture}"
    return str(ROOT / "build" / f"gpu-{tag}")


def build(day: Day) -> list[list[str]]:
    """Compile the native modules in place, the CUDA one for this card alone.

    The program of the step `native` is compiled beside them, as cores are idle while nvcc compiles
    the longest file; an error in it does not fail this step.
    """
    if day.rehearsal:
        raise NotRun("a rehearsal takes the modules that are there")
    need_gpu(day)
    programs = {name: tool(name) for name in ("cmake", "nvcc", "c++")}
    missing = [name for name, path in programs.items() if path is None]
    if importlib.util.find_spec("pybind11") is None:
        missing.append("the Python package pybind11")
    if missing:
        raise NotRun(f"missing: {', '.join(missing)}")
    cmake = str(programs["cmake"])
    folder = build_folder(day)
    # The serial launcher, which one test compares with, where a core is left for it.
    serial = (os.cpu_count() or 1) >= 8
    options = {
        "DENSECRF_RNN_INPLACE": "ON",
        "DENSECRF_RNN_NATIVE_TESTS": "ON",
        "DENSECRF_RNN_CUDA": "ON",
        "DENSECRF_RNN_SERIAL": "ON" if serial else "OFF",
        "CMAKE_CUDA_ARCHITECTURES": str(day.facts["capability"]).replace(".", "") + "-real",
        "CMAKE_CUDA_COMPILER": programs["nvcc"],
        "Python_EXECUTABLE": sys.executable,
    }
    generator = ["-G", "Ninja"] if tool("ninja") else []
    if generator:
        options["CMAKE_MAKE_PROGRAM"] = tool("ninja")
    given = [f"-D{name}={value}" for name, value in options.items()]
    compiling = [cmake, "--build", folder, "--parallel", str(os.cpu_count() or 1), "--target"]
    modules = shlex.join([*compiling, "_cuda", "_cpu", *["_serial"] * serial])
    return [
        [cmake, "-S", str(ROOT), "-B", folder, *generator, *given],
        ["sh", "-c", f"{modules} test_cuda_device || {modules}"],
    ]


def native(day: Day) -> list[list[str]]:
    """Run the native tests of the CUDA programs, compiled by the step `build`."""
    if day.rehearsal:
        raise NotRun("ctest runs these tests on the serial launcher")
    need_gpu(day)
    need_build(day)
    folder, cmake = build_folder(day), tool("cmake")
    if cmake is None or not Path(folder, "CMakeCache.txt").is_file():
        raise NotRun("the step build has not run")
    return [
        [cmake, "--build", folder, "--target", "test_cuda_device"],
        [str(Path(folder, "test_cuda_device"))],
    ]


def part(day: Day, name: str) -> list[str]:
    """Return the command that runs one of `PARTS` in a process of its own."""
    return [*HERE, "--part", name, *["--rehearse"] * day.rehearsal]


def smoke(day: Day) -> list[list[str]]:
    """Run filter, forward and backward three times each and compare the bits."""
    need_module(day)
    return [part(day, "smoke")]


def tests(day: Day) -> list[list[str]]:
    """Run the tests of the CUDA engine but for the one that fills the GPU's memory."""
    need_module(day)
    need_pytest()
    if day.rehearsal:
        return [[*PYTEST, "tests/test_nn_device.py", "-k", "waits or captured or masked"]]
    files = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/test_cuda*.py"))]
    return [[*PYTEST, *files, "--deselect", MEMORY_TEST]]


def torch_tests(day: Day) -> list[list[str]]:
    """Run the tests of engine "torch" on the GPU."""
    need_pytest()
    if day.rehearsal:
        if importlib.util.find_spec("torch") is None:
            raise NotRun("torch is not installed")
        return [[*PYTEST, TORCH_TESTS, "-k", "cpu and (bits or regions)"]]
    need_gpu(day)
    if not day.facts.get("torch cuda"):
        raise NotRun(f"torch {day.facts.get('torch')} cannot use the GPU")
    return [[*PYTEST, TORCH_TESTS, "-k", "cuda or gpu"]]


def memory(day: Day) -> list[list[str]]:
    """Run the test that fills the GPU's memory."""
    if day.rehearsal:
        raise NotRun("a rehearsal has no GPU to fill")
    need_module(day)
    need_pytest()
    return [[*PYTEST, MEMORY_TEST]]


def guards(day: Day) -> list[list[str]]:
    """Run three small cases with workspaces full of NaN between guard bands."""
    need_module(day)
    return [part(day, "guards")]


def memcheck(day: Day) -> list[list[str]]:
    """Run the small cases under compute-sanitizer, which looks for writes out of bounds."""
    return sanitized(day, "memcheck")


def initcheck(day: Day) -> list[list[str]]:
    """Run the small cases under compute-sanitizer, which looks for reads of what nobody wrote."""
    return sanitized(day, "initcheck")


def sanitized(day: Day, which: str) -> list[list[str]]:
    """Return the command that runs the small cases under a tool of compute-sanitizer."""
    if day.rehearsal:
        raise NotRun("a rehearsal has no GPU for compute-sanitizer")
    need_module(day)
    sanitizer = tool("compute-sanitizer")
    if sanitizer is None:
        raise NotRun("there is no compute-sanitizer")
    return [[sanitizer, "--tool", which, "--error-exitcode", "9", *part(day, "tiny")]]


def bench(day: Day) -> list[list[str]]:
    """Measure the CUDA engine, and engine "torch" beside it; each row is written at once."""
    need_module(day)
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_cases.py")]
    results = str(day.out.resolve() / "gpu_day_bench.json")
    return [[*command, results, *["--rehearse"] * day.rehearsal]]


STEPS = (
    Step("build", 180, build, by_exit_status),
    Step("smoke", 45, smoke, by_exit_status),
    Step("native", 60, native, by_native),
    Step("tests", 120, tests, by_tests),
    Step("torch", 60, torch_tests, by_tests),
    Step("guards", 30, guards, by_exit_status),
    # Without torch's cache of memory, each tensor is an allocation whose ends are checked.
    Step("memcheck", 40, memcheck, by_memcheck, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
    Step("initcheck", 40, initcheck, by_memcheck, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}),
    Step("bench", 150, bench, by_exit_status),
    Step("memory", 30, memory, by_tests),
)


# --- parts that run in a process of their own ----------------------------------------------------


def print_card() -> None:
    """Print what the driver says of the first GPU, as JSON; needs no torch."""
    import ctypes

    found: dict[str, object] = {"card": None}
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        status = driver.cuInit(0)
    except (AttributeError, OSError):
        found["gpu"] = "there is no NVIDIA driver"
        print(json.dumps(found))
        return
    number, value = ctypes.c_int(), ctypes.c_int()
    if status == 0:
        driver.cuDeviceGetCount(ctypes.byref(number))
    if number.value == 0:
        found["gpu"] = f"the driver finds no device, status {status}"
        print(json.dumps(found))
        return
    name = ctypes.create_string_buffer(100)
    driver.cuDeviceGetName(name, 100, 0)
    capability = []
    for attribute in (75, 76):  # major and minor compute capability
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        capability.append(str(value.value))
    driver.cuDriverGetVersion(ctypes.byref(value))
    found.update(card=name.value.decode(), capability=".".join(capability))
    found["driver's CUDA"] = f"{value.value // 1000}.{value.value % 1000 // 10}"
    print(json.dumps(found))


def print_torch() -> None:
    """Print the version of torch and whether it can use the GPU, as JSON."""
    import torch

    print(json.dumps({"torch": torch.__version__, "torch cuda": torch.cuda.is_available()}))


def computations(device: str, backend: str, side: int) -> dict[str, Callable[[], list]]:
    """Return a filter, a forward pass and a backward pass, each as a call that returns tensors."""
    import torch

    from densecrf_rnn import CRFParams
    from densecrf_rnn.nn import functional

    operators = torch.ops.densecrf_rnn
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, side, side + 1, generator=generator).to(device)
    image = (255 * torch.rand(2, 3, side, side + 1, generator=generator)).to(device)
    features = (image.flatten(2).mT / 40).contiguous()
    values = logits.flatten(2).mT.contiguous()
    leaf = logits.clone().requires_grad_()
    params = CRFParams(theta_alpha=8, theta_beta=40, theta_gamma=2)

    def refined(given: torch.Tensor) -> torch.Tensor:
        return functional.mean_field(given, image, params, iterations=3, backend=backend)

    def filtered() -> list:
        lattice = operators.lattice_build(features, "standard", backend)
        return [operators.lattice_filter(values, list(lattice), False, backend)]

    def backward() -> list:
        return list(torch.autograd.grad(refined(leaf).square().sum(), leaf))

    return {"filter": filtered, "forward": lambda: [refined(logits)], "backward": backward}


def check_bits(device: str = "cuda", backend: str = "cuda", side: int = 61) -> None:
    """Compare three runs with one another to the bit, and with the CPU engine approximately."""
    import torch

    wanted = {name: call() for name, call in computations("cpu", "cpu", side).items()}
    for name, call in computations(device, backend, side).items():
        first, *others = (call() for _ in range(3))
        for other in others:
            if not all(torch.equal(a, b) for a, b in zip(first, other, strict=True)):
                raise SystemExit(f"{name}: repeated runs differ")
        scale = max(1.0, max(t.abs().max().item() for t in wanted[name]))
        pairs = zip(first, wanted[name], strict=True)
        gap = max((a.cpu() - b).abs().max().item() for a, b in pairs) / scale
        print(f"{name}: 3 runs bit-identical; largest difference to the CPU engine {gap:.1e}")
        if not gap < 1e-4:
            raise SystemExit(f"{name}: differs from the CPU engine by {gap:.1e}, more than 1e-4")


def run_tiny(device: str = "cuda", backend: str = "cuda") -> None:
    """Run each computation once on a few pixels."""
    import torch

    for call in computations(device, backend, 7).values():
        call()
    if device == "cuda":
        torch.cuda.synchronize()


def check_guards(device: str = "cuda", backend: str = "cuda") -> None:
    """Run the same with scratch memory full of NaN, between bands that must stay as they are."""
    import torch

    from densecrf_rnn.nn.ops.device import Call

    bands: list[torch.Tensor] = []
    plain = {name: call() for name, call in computations(device, backend, 7).items()}

    def guarded(call: Call, size: int, dtype: torch.dtype) -> torch.Tensor:
        itemsize, band = torch.empty(0, dtype=dtype).element_size(), 512
        room = torch.full((size * itemsize + 2 * band,), 255, dtype=torch.uint8, device=device)
        bands.extend([room[:band], room[len(room) - band :]])
        call._kept.append(room)
        return room[band : len(room) - band].view(dtype)

    Call.empty = guarded  # type: ignore[method-assign]
    for name, call in computations(device, backend, 7).items():
        pairs = zip(call(), plain[name], strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise SystemExit(f"{name}: the result depends on what scratch memory held before")
    if not bands or not all(bool((band == 255).all()) for band in bands):
        raise SystemExit("scratch memory was written out of bounds")
    print(f"{len(bands)} guard bands untouched")


PARTS = {
    "card": print_card, "torch": print_torch, "smoke": check_bits, "tiny": run_tiny,
    "guards": check_guards,
}  # fmt: skip


def facts() -> dict[str, object]:
    """Return what the results depend on; each question has a process and a limit of its own."""
    found: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
    }
    for part, seconds in (("card", 30), ("torch", 60)):
        try:
            done = subprocess.run(
                [*HERE, "--part", part], capture_output=True, text=True, timeout=seconds
            )
            found.update(json.loads(done.stdout))
        except subprocess.TimeoutExpired:
            found[{"card": "gpu"}.get(part, part)] = f"no answer within {seconds} s"
        except ValueError:
            found[{"card": "gpu"}.get(part, part)] = last_line(done.stderr)
        if not found.get("card"):
            break  # nothing will run, so torch is not asked
    if (smi := tool("nvidia-smi")) and found.get("card"):
        asked = [smi, "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit"]
        try:
            done = subprocess.run(
                [*asked, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
            )
            found["clocks (SM, highest, memory), power"] = last_line(done.stdout)
        except (OSError, subprocess.TimeoutExpired):
            pass
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
        found["driver"] = text.splitlines()[0].split(":")[1].strip()
    except (OSError, IndexError):
        pass
    return found


def main() -> int:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results",
                        help="folder of the results (default: benchmarks/results)")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=6.0,
                        help="limit for all steps together; those of the steps shrink with it "
                        "(default: 6)")  # fmt: skip
    parser.add_argument("--only", action="append", choices=[step.name for step in STEPS],
                        help="run this step alone; may be given several times")  # fmt: skip
    parser.add_argument("--rehearse", action="store_true",
                        help="run on the serial launcher and the CPU, without a GPU")  # fmt: skip
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        sys.path.insert(0, str(ROOT))
        on = ("cpu", "serial") if args.rehearse else ()
        PARTS[args.part](*on)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    (args.out / "gpu_day.log").unlink(missing_ok=True)
    day = Day(args.out, args.rehearse, facts())
    left = args.minutes - (time.monotonic() - begin) / 60
    steps = [step for step in STEPS if args.only is None or step.name in args.only]
    return run_day(steps, day, left)


if __name__ == "__main__":
    sys.exit(main())
