"""benchmarks/gpu_day.py without a GPU, with made-up steps; and the file of --results."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest

from densecrf_rnn import engines

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not here", allow_module_level=True)


@pytest.fixture(scope="module")
def gpu_day():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_day", BENCHMARKS / "gpu_day.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_day"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_day"]


def step(gpu_day, name, code, limit=20.0, judge=None):
    """A step that runs some Python code."""
    commands = [[sys.executable, "-c", code]]
    return gpu_day.Step(name, limit, lambda day: commands, judge or gpu_day.by_exit_status)


def summary(folder):
    """Status of each step in the summary."""
    steps = json.loads((folder / "gpu_day.json").read_text())["steps"]
    return {found["step"]: found["status"] for found in steps}


def test_without_a_gpu_every_step_is_not_run_and_the_script_ends_quickly(gpu_day, tmp_path):
    if engines.why_unavailable("cuda") is None:
        pytest.skip("there is a GPU here")
    begin = time.monotonic()
    command = [sys.executable, str(BENCHMARKS / "gpu_day.py"), "--out", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert time.monotonic() - begin < 30
    assert set(summary(tmp_path / "new").values()) == {"not run"}
    text = (tmp_path / "new" / "gpu_day.txt").read_text()
    assert text in done.stdout
    assert text.count("not run: no GPU") == len(gpu_day.STEPS)


def test_only_names_the_steps_to_run(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu_day.py"), "--out", str(tmp_path)]
    subprocess.run([*command, "--only", "smoke", "--only", "bench"], timeout=60, check=False)
    assert list(summary(tmp_path)) == ["smoke", "bench"]


def test_results_are_kept_if_later_steps_fail_or_exceed_their_limits(gpu_day, tmp_path):
    kept = f"import json; print(sorted(json.load(open({str(tmp_path / 'gpu_day.json')!r}))))"
    hanging = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('a.py::test_a', 'PASSED', flush=True)\n"
        "time.sleep(60)"
    )
    steps = [
        step(gpu_day, "good", "print('fine')"),
        step(gpu_day, "reads", kept),  # the summary is there while later steps run
        step(gpu_day, "bad", "raise SystemExit('broken')"),
        step(gpu_day, "slow", hanging, limit=2),
        gpu_day.Step("absent", 5, lambda day: gpu_day.need_gpu(day), gpu_day.by_exit_status),
        gpu_day.Step("odd", 5, lambda day: 1 / 0, gpu_day.by_exit_status),
        step(gpu_day, "last", "print('fine')"),
    ]
    begin = time.monotonic()
    assert gpu_day.run_day(steps, gpu_day.Day(tmp_path)) == 1
    assert time.monotonic() - begin < 30
    assert summary(tmp_path) == {
        "good": "passed",
        "reads": "passed",
        "bad": "failed",
        "slow": "exceeded its limit",
        "absent": "not run",
        "odd": "failed",
        "last": "passed",
    }
    text = (tmp_path / "gpu_day.txt").read_text()
    assert "exit status 1; broken" in text and "stopped after 2 s; 1 passed" in text
    assert "ZeroDivisionError" in text
    log = (tmp_path / "gpu_day.log").read_text()
    assert "=== good\n" in log and log.count("fine\n") == 2


def test_the_limit_of_all_steps_ends_the_day(gpu_day, tmp_path):
    hanging = step(gpu_day, "slow", "import time; time.sleep(60)", limit=1000)
    steps = [hanging, step(gpu_day, "late", "")]
    assert gpu_day.run_day(steps, gpu_day.Day(tmp_path), minutes=0.03) == 1
    assert summary(tmp_path) == {"slow": "exceeded its limit", "late": "not run"}


def test_all_that_passes_ends_with_status_0(gpu_day, tmp_path):
    steps = [step(gpu_day, "good", "")]
    assert gpu_day.run_day(steps, gpu_day.Day(tmp_path)) == 0


def test_a_failed_build_keeps_old_modules_from_being_tested(gpu_day, tmp_path):
    facts = {"card": "some GPU", "capability": "9.0", "torch cuda": True}
    day = gpu_day.Day(tmp_path, False, facts)
    day.results.append(gpu_day.Result("build", gpu_day.FAILED))
    for commands in (gpu_day.smoke, gpu_day.native, gpu_day.tests, gpu_day.bench):
        with pytest.raises(gpu_day.NotRun, match="build did not succeed"):
            commands(day)


def test_native_tests_that_do_not_compile_do_not_fail_the_build(gpu_day, tmp_path, monkeypatch):
    log = tmp_path / "calls"
    cmake = tmp_path / "cmake"  # fails for the target of the tests alone
    cmake.write_text(f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *test_cuda*) exit 1;; esac\n')
    cmake.chmod(0o755)
    monkeypatch.setattr(gpu_day, "tool", lambda name: str(cmake))
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_day.importlib.util, "find_spec", lambda name: name)  # pybind11 is there
    day = gpu_day.Day(tmp_path, False, {"card": "some GPU", "capability": "9.0"})
    build = gpu_day.Step("build", 20, gpu_day.build, gpu_day.by_exit_status)
    found = gpu_day.run_step(build, day, 20)
    assert found.status == "passed", found
    configure, both, modules = log.read_text().splitlines()
    assert "NATIVE_TESTS=ON" in configure and "ARCHITECTURES=90-real" in configure
    assert both == f"{modules} test_cuda_device" and " _cuda _cpu" in modules
    folder = Path(gpu_day.build_folder(day))
    with pytest.raises(gpu_day.NotRun, match="build has not run"):
        gpu_day.native(day)
    folder.mkdir(parents=True)
    (folder / "CMakeCache.txt").touch()
    compiling, program = gpu_day.native(day)
    assert compiling[-2:] == ["--target", "test_cuda_device"]
    assert program == [str(folder / "test_cuda_device")]


def test_the_memory_test_exists_and_runs_last(gpu_day):
    file, name = gpu_day.MEMORY_TEST.split("::")
    assert f"def {name}(" in (BENCHMARKS.parent / file).read_text()
    assert file.endswith(conftest.FILLS_THE_GPU)
    assert gpu_day.STEPS[-1].name == "memory"


def test_logs_are_judged(gpu_day):
    passed = "tests/a.py::test_a PASSED [ 50%]\ntests/a.py::test_b SKIPPED (no) [100%]\n"
    assert gpu_day.by_tests(0, passed) == ("passed", "1 passed, 1 skipped")
    assert gpu_day.by_tests(0, passed.replace("PASSED", "SKIPPED"))[0] == "failed"
    assert gpu_day.by_tests(1, passed)[0] == "failed"
    assert gpu_day.by_native(0, "a: 0.1 s\n23 native tests passed") == (
        "passed", "23 native tests passed",
    )  # fmt: skip
    assert gpu_day.by_native(77, "skipped, there is no device: x")[0] == "failed"
    assert gpu_day.by_memcheck(0, "========= ERROR SUMMARY: 0 errors")[0] == "passed"
    assert gpu_day.by_memcheck(9, "========= ERROR SUMMARY: 2 errors")[0] == "failed"
    status, reason = gpu_day.by_memcheck(1, "========= Error: device not supported")
    assert status == "not run" and reason.endswith("device not supported")


SERIAL = pytest.mark.skipif(
    engines.why_unavailable("serial") is not None,
    reason=f"no serial launcher: {engines.why_unavailable('serial')}",
)


@SERIAL
def test_a_rehearsal_runs_every_step_that_needs_no_gpu(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(BENCHMARKS / "gpu_day.py"), "--out", str(tmp_path), "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = summary(tmp_path)
    assert done.returncode == 0, (tmp_path / "gpu_day.log").read_text()
    ran = {name for name, status in found.items() if status == "passed"}
    assert ran == {"smoke", "tests", "torch", "guards", "bench"}
    assert {found[name] for name in set(found) - ran} == {"not run"}
    assert len(list(tmp_path.iterdir())) <= 8
    rows = json.loads((tmp_path / "gpu_day_bench.json").read_text())
    assert {"serial", "torch"} <= {row["who"] for row in rows} and all("ms" in row for row in rows)


@SERIAL
def test_a_write_outside_of_the_scratch_memory_is_noticed(gpu_day, monkeypatch):
    torch = pytest.importorskip("torch")
    from densecrf_rnn.nn.ops import device

    def careless(call, size):
        address = call.empty(size, torch.uint8).data_ptr()
        call._kept[-1][-1] = 0  # what is kept is the room with its bands
        return address

    monkeypatch.setattr(device.Call, "workspace", careless)
    monkeypatch.setattr(device.Call, "empty", device.Call.empty)  # restored afterwards
    with pytest.raises(SystemExit, match="written out of bounds"):
        gpu_day.check_guards("cpu", "serial")


@SERIAL
def test_the_smoke_test_passes_on_the_serial_launcher(gpu_day, capsys):
    pytest.importorskip("torch")
    gpu_day.check_bits("cpu", "serial", side=13)
    assert capsys.readouterr().out.count("3 runs bit-identical") == 3


# --- pytest benchmarks/ --results ----------------------------------------------------------------


def bench(tmp_path, results, code="ROWS.append(Row('case', 'who', note='kept'))", **environment):
    """Run one made-up benchmark with the hooks of benchmarks/conftest.py."""
    file = tmp_path / "bench_one.py"
    file.write_text(f"from measure import ROWS, Row\n\ndef test_one():\n    {code}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(tmp_path), str(file), "--results", results],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


def test_results_make_their_folder_and_do_without_git(tmp_path):
    results = tmp_path / "new" / "folder" / "rows.json"
    done = bench(tmp_path, str(results), PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["machine"]["commit"] == "-"
    assert [row["note"] for row in found["rows"]] == ["kept"]


def test_results_are_written_before_a_run_is_stopped(tmp_path):
    code = "ROWS.append(Row('case', 'who'))\n\ndef test_two():\n    import os; os._exit(5)"
    assert bench(tmp_path, str(tmp_path / "rows.json"), code).returncode == 5
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 1


def test_results_that_cannot_be_written_fail_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    done = bench(tmp_path, str(tmp_path / "file" / "rows.json"), "print('measured')")
    assert done.returncode == 4 and "cannot be written" in done.stderr
    assert "measured" not in done.stdout
