"""A step of training: three matrix products and the loss, as users have them.

`hidden @ weight` gives the logits, the loss turns them into their gradient, and two products turn
that into the gradients of weight and hidden. Products and loss both bring threads, so that a call
which is fast alone may slow down the step; what is timed here is the whole step. The contestants
take turns, NumPy's in one process, PyTorch's in another.

Knows: the step, its shapes, how each contestant is written. Must not know: tables.
"""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np

from benchmarks.implementations import with_numpy, with_torch
from benchmarks.implementations.contract import Runtime
from benchmarks.timing import PAUSE_SECONDS
from benchmarks.workers import workers_for
from xent_fast import softmax_cross_entropy_grad

DEFAULT, ONE_THREAD = "xent_fast", "xent_fast, 1 thread"
NUMPY, EAGER, COMPILED = "NumPy in place", "PyTorch", "torch.compile"
VISIT_SECONDS, FEWEST_SAMPLES, MOST_SAMPLES = 0.06, 4, 60
WARMING_STEPS = 2
AGREEMENT = 1e-4  # of the largest entry of a gradient

Step = Callable[[], float]  # the seconds that the loss took; NaN where it cannot be told


@dataclass(frozen=True)
class Shape:
    """A layer from `inputs` to `classes`, and a batch."""

    rows: int
    inputs: int
    classes: int

    @property
    def label(self) -> str:
        return f"{self.rows:,} x {self.inputs:,} → {self.classes:,}"


SHAPES = (
    Shape(64, 128, 10),
    Shape(1024, 128, 10),
    Shape(256, 384, 1000),
    Shape(1024, 384, 1000),
    Shape(256, 256, 32_000),
)


class Layer:
    """Numbers of one shape, the same in every process."""

    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng(0)
        self.hidden = rng.standard_normal((shape.rows, shape.inputs), dtype=np.float32)
        self.weight = rng.standard_normal((shape.inputs, shape.classes), dtype=np.float32)
        self.weight *= np.float32(shape.inputs**-0.5)
        self.labels = rng.integers(0, shape.classes, shape.rows)
        self.logits = np.empty((shape.rows, shape.classes), np.float32)
        self.grad_weight, self.grad_hidden = np.empty_like(self.weight), np.empty_like(self.hidden)


# --- contestants ----------------------------------------------------------------------------------


def in_numpy(layer: Layer, loss_in_place: Callable[[np.ndarray], object]) -> Step:
    """A step around a loss that leaves the gradient where the logits were."""

    def step() -> float:
        np.matmul(layer.hidden, layer.weight, out=layer.logits)
        start = time.perf_counter()
        loss_in_place(layer.logits)
        seconds = time.perf_counter() - start
        np.matmul(layer.hidden.T, layer.logits, out=layer.grad_weight)
        np.matmul(layer.logits, layer.weight.T, out=layer.grad_hidden)
        return seconds

    return step


def with_xent_fast(num_threads: int | None) -> Callable[[Layer], Step]:
    return lambda layer: in_numpy(
        layer,
        lambda x: softmax_cross_entropy_grad(x, layer.labels, out=x, num_threads=num_threads),
    )


def with_numpy_in_place(layer: Layer) -> Step:
    case = SimpleNamespace(
        targets=layer.labels, logits=layer.logits, in_place=True, loss_only=False, dense=False
    )
    return in_numpy(layer, with_numpy.in_place(case))


def with_pytorch(*, compiled: bool) -> Callable[[Layer], Step]:
    def make(layer: Layer) -> Step:
        import torch

        hidden = torch.from_numpy(layer.hidden).requires_grad_()
        weight = torch.from_numpy(layer.weight).requires_grad_()
        labels = torch.from_numpy(layer.labels)

        def mean_loss(hidden, weight, labels):
            return torch.nn.functional.cross_entropy(hidden @ weight, labels)

        if compiled:
            mean_loss = torch.compile(mean_loss, fullgraph=True, dynamic=False)

        def step() -> float:
            loss = mean_loss(hidden, weight, labels)
            grads = torch.autograd.grad(loss, (hidden, weight))
            layer.grad_hidden, layer.grad_weight = (grad.numpy() for grad in grads)
            return float("nan")

        return step

    return make


@dataclass(frozen=True)
class Contestant:
    name: str
    runtime: Runtime
    make: Callable[[Layer], Step]

    @property
    def missing(self) -> bool:
        return self.runtime is with_torch.RUNTIME and find_spec("torch") is None


CONTESTANTS = (
    Contestant(DEFAULT, with_numpy.RUNTIME, with_xent_fast(None)),
    Contestant(ONE_THREAD, with_numpy.RUNTIME, with_xent_fast(1)),
    Contestant(NUMPY, with_numpy.RUNTIME, with_numpy_in_place),
    Contestant(EAGER, with_torch.RUNTIME, with_pytorch(compiled=False)),
    Contestant(COMPILED, with_torch.RUNTIME, with_pytorch(compiled=True)),
)


NAMES = tuple(one.name for one in CONTESTANTS)

# --- in a worker ----------------------------------------------------------------------------------


class Bench:
    """The contestants of one runtime, ready for one shape."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}

    def prepare(self, shape: Shape, names: list[str]) -> None:
        """Make what is named, and hold its gradients against those of one thread."""
        self.steps.clear()
        chosen = [one for one in CONTESTANTS if one.name in names]
        chosen[0].runtime.begin_case()
        exact = Layer(shape)
        with_xent_fast(1)(exact)()
        for one in chosen:
            layer = Layer(shape)
            self.steps[one.name] = one.make(layer)
            self.steps[one.name]()
            for got, want in (
                (layer.grad_hidden, exact.grad_hidden),
                (layer.grad_weight, exact.grad_weight),
            ):
                error = np.abs(got - want).max() / np.abs(want).max()
                if not error <= AGREEMENT:
                    raise AssertionError(f"{one.name} on {shape.label}: off by {error:.1e}")

    def visit(self, name: str) -> list[tuple[float, float]]:
        """Seconds of steps, and of the loss in each."""
        step, samples = self.steps[name], []
        time.sleep(PAUSE_SECONDS)
        gc.disable()
        try:
            for _ in range(WARMING_STEPS):
                step()
            end = time.perf_counter() + VISIT_SECONDS
            while len(samples) < FEWEST_SAMPLES or (
                len(samples) < MOST_SAMPLES and time.perf_counter() < end
            ):
                start = time.perf_counter()
                loss = step()
                samples.append((time.perf_counter() - start, loss))
        finally:
            gc.enable()
        return samples


# --- in the parent --------------------------------------------------------------------------------


def measure(
    shapes: tuple[Shape, ...], contestants: tuple[Contestant, ...], rounds: int
) -> list[dict]:
    """Of every shape each contestant's seconds: the median of its rounds' medians."""
    measured = []
    with workers_for(contestants, Bench) as workers:
        for shape in shapes:
            for runtime, worker in workers.items():
                names = [one.name for one in contestants if one.runtime.name == runtime]
                worker.ask("prepare", shape, names)
            others = OthersShare()
            visits: dict[str, list[list[tuple[float, float]]]] = {
                one.name: [] for one in contestants
            }
            for number in range(rounds):
                for one in contestants if number % 2 == 0 else contestants[::-1]:
                    visits[one.name].append(workers[one.runtime.name].ask("visit", one.name))
            measured.append(
                {
                    "label": shape.label,
                    "others": others.until_now(),
                    "timings": {name: summary(samples) for name, samples in visits.items()},
                    "ratios of rounds": [
                        medians(ours)[0] / medians(one_thread)[0]
                        for ours, one_thread in zip(
                            visits[DEFAULT], visits[ONE_THREAD], strict=True
                        )
                    ],
                }
            )
    return measured


def medians(samples: list[tuple[float, float]]) -> tuple[float, float]:
    step, loss = zip(*samples, strict=True)
    return median(step), median(loss)


def summary(visits: list[list[tuple[float, float]]]) -> dict[str, float | None]:
    """Of the step the median over rounds; of the loss, its share of that."""
    step, loss = (median(values) for values in zip(*map(medians, visits), strict=True))
    return {"step": step, "share of the loss": None if np.isnan(loss) else loss / step}


class OthersShare:
    """Share of the processors that is not this program's, from now on; 0 where Linux's /proc is
    not there to tell.
    """

    def __init__(self) -> None:
        self.start = self.now()

    @staticmethod
    def now() -> tuple[float, float, float]:
        """Seconds: processor time of this program and its workers, of everybody, on the clock."""
        try:
            line = Path("/proc/stat").read_text().split("\n")[0]
        except OSError:
            return 0.0, 0.0, time.perf_counter()
        user, nice, system, idle, waiting, *rest = (int(word) for word in line.split()[1:9])
        del idle, waiting
        everybody = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
        return own_processor_time(), everybody, time.perf_counter()

    def until_now(self) -> float:
        own, everybody, elapsed = (b - a for a, b in zip(self.start, self.now(), strict=True))
        return max(0.0, everybody - own) / (elapsed * (os.cpu_count() or 1))


def own_processor_time() -> float:
    """Of this process and its living children, which have not been waited for."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return sum(os.times()[:2]) + ticks / os.sysconf("SC_CLK_TCK")
