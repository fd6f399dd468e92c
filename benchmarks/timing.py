"""How it is timed: check a result, restore the logits, take turns.

Knows: clocks and statistics. Must not know: which implementations and workloads there are.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np

from benchmarks.implementations import LIMIT, SCALING_FACTOR, Implementation, Step
from benchmarks.workloads import Case

# Room for the float32 sums over 1,000,000 classes of some peers, which are off by 2e-4.
LOSS_TOLERANCE = 1e-4  # relative
GRADIENT_TOLERANCE = 1e-3  # relative to |p - y| + y, entry by entry

SAMPLE_BYTES = 2**18  # one sample calls a step once on each of several buffers, together this large
MOST_BUFFERS = 64
VISIT_SECONDS = 0.03  # samples are taken this long at a time, then the next implementation has its
MOST_SAMPLES = 20  # turn
PAUSE_SECONDS = 0.01  # the worker threads of the one before go to sleep meanwhile


class WrongResultError(AssertionError):
    """An implementation disagrees with the reference."""


def check(implementation: Implementation, case: Case, step: Step) -> None:
    """Hold one result against the float64 reference; of a limit, against the scaled logits."""
    with implementation.in_force():
        loss, grad = step(implementation.adopt(case.logits.copy()))
    loss, grad = float(loss), np.asarray(grad)
    if implementation.role == LIMIT:
        right = np.array_equal(grad, case.logits * case.logits.dtype.type(SCALING_FACTOR))
        loss_error = gradient_error = 0.0 if right else np.inf
    else:
        exact_loss, exact_grad = case.answer
        scale = np.abs(exact_grad)
        scale[np.arange(len(scale)), case.targets] += 1 / len(scale)
        loss_error = abs(loss - exact_loss) / exact_loss
        gradient_error = float(np.max(np.abs(grad - exact_grad) / scale))
    if not (loss_error <= LOSS_TOLERANCE and gradient_error <= GRADIENT_TOLERANCE):
        raise WrongResultError(
            f"{implementation.name} on {case.workload.label}: relative error "
            f"{loss_error:.1e} of the loss, {gradient_error:.1e} of the gradient"
        )


@dataclass(frozen=True)
class Contestant:
    """An implementation, ready for a case and checked."""

    implementation: Implementation
    step: Step
    buffers: list[np.ndarray]
    pristine: np.ndarray

    def sample(self) -> float:
        """Seconds of one call, on restored logits."""
        for buffer in self.buffers:
            np.copyto(buffer, self.pristine)
        arguments = [self.implementation.adopt(buffer) for buffer in self.buffers]
        step = self.step
        start = time.perf_counter()
        for argument in arguments:
            step(argument)
        return (time.perf_counter() - start) / len(arguments)

    def visit(self) -> Iterator[float]:
        """Samples of one turn, after one that does not count (caches, worker threads)."""
        time.sleep(PAUSE_SECONDS)
        with self.implementation.in_force():
            self.sample()
            end = time.perf_counter() + VISIT_SECONDS
            for _ in range(MOST_SAMPLES):
                yield self.sample()
                if time.perf_counter() > end:
                    break


def contestants(implementations: Iterable[Implementation], case: Case) -> list[Contestant]:
    count = max(1, min(MOST_BUFFERS, SAMPLE_BYTES // case.workload.bytes))
    buffers = [case.logits.copy() for _ in range(count)]
    prepared = []
    for implementation in implementations:
        step = implementation.make(case)
        check(implementation, case, step)
        prepared.append(Contestant(implementation, step, buffers, case.logits))
    return prepared


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over all samples of all rounds."""

    median: float
    quartiles: tuple[float, float]
    samples: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        low, _, high = quantiles(seconds, n=4, method="inclusive")
        return cls(_rounded(median(seconds)), (_rounded(low), _rounded(high)), len(seconds))


def _rounded(seconds: float) -> float:
    """Four digits: more than any of them means."""
    return float(f"{seconds:.4g}")


def interleave(
    ready: list[Contestant], rounds: int, tick: Callable[[], object]
) -> dict[str, Timing]:
    """One turn for each contestant in every round, to and fro; `tick` is called after each turn."""
    seconds: dict[str, list[float]] = {one.implementation.name: [] for one in ready}
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            for one in ready if number % 2 == 0 else reversed(ready):
                seconds[one.implementation.name].extend(one.visit())
                tick()
    finally:
        if was_enabled:
            gc.enable()
    return {name: Timing.of(samples) for name, samples in seconds.items()}
