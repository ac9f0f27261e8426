"""What benchmarks/gpu_day.py measures: one row per case and engine, written after each case.

Pictures are a photograph of the samples, mirrored to 500 x 500 pixels, and random scores; *wide*
and *tight* are theta_alpha / theta_beta / theta_gamma = 80 / 13 / 3 and 160 / 3 / 3. Times are
medians in milliseconds; `MB` is what a call allocates on the GPU at most, above its arguments.

    python benchmarks/gpu_cases.py rows.json                   # on a GPU
    python benchmarks/gpu_cases.py rows.json --rehearse        # tiny, on the serial launcher
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from densecrf_rnn import CRFRNN, CRFParams, GibbsCRF, samples
from densecrf_rnn.nn import functional
from densecrf_rnn.nn.ops.kernels import Grid, Kernel, Kernels, Lattice
from densecrf_rnn.nn.ops.lattice_build import lattice_build
from densecrf_rnn.nn.ops.lattice_filter import lattice_filter
from densecrf_rnn.nn.ops.mean_field import mean_field
from densecrf_rnn.nn.torch_engine.lattices import Lattices

Work = Callable[[], object]
Case = tuple[str, str, Work]  # what is computed, by which engine, and the call


class Bench:
    """The device, the engines to compare on it and the size of the pictures."""

    def __init__(self, rehearse: bool) -> None:
        self.device = "cpu" if rehearse else "cuda"
        self.native = "serial" if rehearse else "cuda"
        self.side, self.runs = (12, 1) if rehearse else (500, 10)
        self.wide = CRFParams(8, 40, 2) if rehearse else CRFParams(80, 13, 3)
        self.tight = CRFParams(8, 40, 2) if rehearse else CRFParams(160, 3, 3)
        photograph = torch.from_numpy(samples.load("2007_000346").image).movedim(-1, 0)
        rows = torch.cat([photograph, photograph.flip(1)], 1)
        self.photograph = rows[:, : self.side, : self.side].float()

    def milliseconds(self, work: Work) -> float:
        """Return the median of some runs, after one that warms up, in milliseconds."""
        work()
        times = []
        for _ in range(self.runs):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def picture(self, batch: int, labels: int, *size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return smooth logits [B, L, *S] and images [B, 3, *S]: the photograph, if S is 2-D."""
        generator = torch.Generator().manual_seed(0)
        size = size or (self.side, self.side)
        coarse = [max(1, n // 25) for n in size]
        logits = torch.randn(batch, labels, *coarse, generator=generator)
        logits = torch.nn.functional.interpolate(logits, size).to(self.device)
        if len(size) == 2:
            shifted = [self.photograph.roll(31 * b, -1) for b in range(batch)]
            return logits, torch.stack(shifted).to(self.device)
        image = 255 * torch.rand(batch, 3, *coarse, generator=generator)
        image = torch.nn.functional.interpolate(image, size)
        image += 8 * torch.randn(image.shape, generator=generator)
        return logits, image.clamp(0, 255).to(self.device)

    def features(self, image: torch.Tensor, params: CRFParams) -> torch.Tensor:
        """Return the features [B, N, 5] of the bilateral kernel."""
        axes = [torch.arange(n, device=self.device) / params.theta_alpha for n in image.shape[2:]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(image), -1, -1, -1)
        return torch.cat([places, image / params.theta_beta], 1).flatten(2).mT.contiguous()

    def vertices(self, image: torch.Tensor, params: CRFParams) -> int:
        lattice = Lattice(*lattice_build(self.features(image, params), "standard", "torch"))
        return lattice.links.shape[1] - 1

    def copy(self) -> Iterator[Case]:
        size = 2**10 if self.device == "cpu" else 2**28
        source = torch.empty(size, device=self.device)
        target = torch.empty_like(source)
        yield f"copy of {4 * size} bytes", "torch", lambda: target.copy_(source)

    def phases(self) -> Iterator[Case]:
        """The parts of a mean field; two numbers of iterations, whose difference is that of one."""
        for name, params in (("wide", self.wide), ("tight", self.tight)):
            for labels in (2, 21):
                logits, image = self.picture(1, labels)
                u, features = logits.flatten(2), self.features(image, params)
                lattice = lattice_build(features, "standard", self.native)
                if labels == 2:
                    case = f"build {name}, {self.vertices(image, params)} vertices"
                    for who in (self.native, "torch"):
                        yield case, who, lambda f=features, e=who: lattice_build(f, "standard", e)
                values = u.mT.contiguous()
                filtering = lambda v=values, of=lattice: lattice_filter(  # noqa: E731
                    v, list(of), False, self.native
                )
                yield f"filter {name} L={labels}", self.native, filtering
                none = u.new_empty(0)
                kernels = Kernels([Kernel(Lattice(*lattice), none, none, none)]).flatten()
                grid = Grid([self.side, self.side], [3.0, 3.0], "after", True)
                coupling = (1 - torch.eye(labels, device=self.device)).repeat(2, 1, 1)
                for steps in (5, 10):
                    run = lambda u=u, c=coupling, k=kernels, t=steps: mean_field(  # noqa: E731
                        u, c, k, *grid, t, False, 2**30, "full", self.native
                    )
                    yield f"mean field without build {name} L={labels} T={steps}", self.native, run
                if self.device == "cuda":
                    case = f"graph replay {name} L={labels} T=10"
                    yield case, self.native, self.replayed(run)

    def replayed(self, run: Work) -> Work:
        run()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.kept = run()
        return graph.replay

    def whole(self) -> Iterator[Case]:
        """Whole calls: the native engine, engine "torch" beside it, and the CPU engine."""
        few = self.device == "cpu"
        engines = (self.native, "torch")
        for name, params in (("wide", self.wide), ("tight", self.tight)):
            for batch, labels in ((1, 2), (1, 21)) if few else ((1, 2), (1, 21), (16, 21)):
                logits, image = self.picture(batch, labels)
                for who in engines:
                    case = f"mean field {name} {batch} x L={labels} T=5"
                    yield case, who, self.call(logits, image, params, backend=who)
        for labels in () if few else (150, 300):
            logits, image = self.picture(1, labels)
            for who in engines:
                case = f"mean field wide 1 x L={labels} T=5"
                yield case, who, self.call(logits, image, self.wide, backend=who)
        logits, image = self.picture(1, 5 if few else 21)
        yield "mean field wide 1 x L=21 T=5", "round trip to the CPU engine", lambda: (
            functional.mean_field(logits.cpu(), image.cpu(), self.wide, warn=False).to(self.device)
        )
        for kept in (0.9, 0.1):
            mask = torch.rand(logits[:, 0].shape, device=self.device) < kept
            for who in engines:
                call = self.call(logits, image, self.wide, backend=who, mask=mask)
                yield f"mean field wide L=21, {kept:.0%} inside a mask", who, call
        flat = torch.full_like(image, 100.0)
        for who in engines:
            yield "mean field L=21, flat", who, self.call(logits, flat, self.wide, backend=who)
        for storage in ("float16", "bfloat16"):
            call = self.call(logits, image, self.wide, backend=self.native, storage=storage)
            yield "mean field wide 1 x L=21 T=5", f"{self.native}, {storage}", call
        volume = (4, 6, 6) if few else (64, 128, 128)
        scores, scan = self.picture(1, 4, *volume)
        for who in engines:
            call = self.call(scores, scan, self.wide, backend=who)
            yield "mean field of a volume wide L=4", who, call
        if not few:  # compiling takes longer than all of a rehearsal
            compiled = torch.compile(self.call(logits, image, self.wide, backend="torch"))
            yield "mean field wide 1 x L=21 T=5", "torch, compiled", compiled

    def call(
        self, logits: torch.Tensor, image: torch.Tensor, params: CRFParams, **options: object
    ) -> Work:
        def work() -> object:
            with torch.no_grad():
                return functional.mean_field(logits, image, params, warn=False, **options)

        return work

    def training(self) -> Iterator[Case]:
        logits, image = self.picture(1 if self.device == "cpu" else 4, 21)
        logits.requires_grad_()
        for who in (self.native, "torch"):
            crf = CRFRNN(21, params=self.wide, backend=who).to(self.device).train()
            step = lambda crf=crf: crf(logits, image).square().mean().backward()  # noqa: E731
            yield "training step wide 4 x L=21", who, step

    def gibbs(self) -> Iterator[Case]:
        logits, _ = self.picture(1 if self.device == "cpu" else 4, 9)
        crf = GibbsCRF(9, backend=self.native).to(self.device)
        yield "Gibbs, decode 4 x L=9", self.native, lambda: crf.decode(logits)
        on_cpu = GibbsCRF(9, backend="cpu")
        yield "Gibbs, decode 4 x L=9", "round trip to the CPU engine", lambda: (
            on_cpu.decode(logits.cpu()).to(self.device)
        )

    def sums(self) -> Iterator[Case]:
        """The splat of engine "torch" in a fixed order, and by atomic additions in any order."""
        logits, image = self.picture(1, 21)
        values = logits.flatten(2).mT.reshape(-1, 21).contiguous()
        features = self.features(image, self.wide)
        lattice = Lattices.of(Lattice(*lattice_build(features, "standard", "torch")), 1)
        vertex, weight = lattice.vertex, lattice.weight
        rows = int(vertex.max()) + 1

        def added() -> torch.Tensor:
            out = values.new_zeros(rows, values.shape[1])
            for k in range(vertex.shape[1]):
                out.index_add_(0, vertex[:, k], values * weight[:, k, None])
            return out

        yield f"splat wide L=21, {rows} vertices", "torch, fixed order", lambda: lattice.splat(
            values[None], False
        )
        yield f"splat wide L=21, {rows} vertices", "torch, atomic additions", added

    def groups(self) -> list[Callable[[], Iterator[Case]]]:
        return [self.copy, self.phases, self.training, self.sums, self.gibbs, self.whole]

    def peak(self, work: Work) -> float:
        """Return how many MB of the GPU a call needs above what is in use before it."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6


def main() -> int:
    """Measure every case; one that fails is a row with its error, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    bench, rows, failed = Bench(args.rehearse), [], 0
    for group in bench.groups():
        try:
            for case, who, work in group():
                row: dict[str, object] = {"case": case, "who": who}
                try:
                    row["ms"] = float(f"{bench.milliseconds(work):.3g}")
                    if bench.device == "cuda":
                        row["MB"] = float(f"{bench.peak(work):.3g}")
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
                    failed += 1
                rows.append(row)
                print(row, flush=True)
                args.results.write_text(json.dumps(rows, indent=1) + "\n")
        except Exception as error:
            print(f"{group.__name__}: {type(error).__name__}: {error}", flush=True)
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
