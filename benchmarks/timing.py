"""How it is timed: check a result, restore the logits, take a turn.

Knows: clocks and statistics. Must not know: which implementations and workloads there are, nor that
others run in other processes.
"""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np

from benchmarks.implementations import limits
from benchmarks.implementations.contract import LIMIT, Implementation, Step
from benchmarks.workloads import Case

SAMPLE_BYTES = 2**18  # one sample calls a step once on each of several buffers, together this large
MOST_BUFFERS = 64
VISIT_SECONDS = 0.03  # samples are taken this long at a time, then the next implementation has its
MOST_SAMPLES = 20  # turn
PAUSE_SECONDS = 0.01  # the worker threads of the one before go to sleep meanwhile


class WrongResultError(AssertionError):
    """An implementation disagrees with the reference."""


def check(implementation: Implementation, case: Case, step: Step) -> None:
    """Hold one result against the float64 reference; of a limit, against what it must return."""
    with implementation.in_force():
        loss, grad = step(implementation.adopt(case.logits.copy()))
    if implementation.role == LIMIT:
        check_limit(case, loss, grad)
        return
    epsilon = float(np.finfo(case.logits.dtype).eps)
    loss_error, gradient_error = errors(case, loss, grad)
    if not max(loss_error, gradient_error) <= implementation.tolerance * epsilon:
        raise WrongResultError(
            f"{implementation.name} on {case.workload.label}: relative error "
            f"{loss_error:.1e} of the loss, {gradient_error:.1e} of the gradient"
        )


def errors(case: Case, loss, grad) -> tuple[float, float]:
    """Of the loss, relative to it; of the gradient, the largest relative to |p - y| + y."""
    loss_error = abs(float(loss) - case.exact_loss) / case.exact_loss
    if case.loss_only:
        return loss_error, 0.0
    error = np.asarray(grad) - case.exact_gradient
    np.abs(error, out=error)
    error /= case.gradient_scale
    return loss_error, float(error.max())


def check_limit(case: Case, loss: float, grad: np.ndarray | None) -> None:
    expected_loss, expected_grad = limits.expected(case)
    if loss != expected_loss or not np.array_equal(grad, expected_grad):
        raise WrongResultError(f"the limit of {case.workload.label} does not do its work")


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

    def samples(self) -> Iterator[float]:
        """Samples of one turn, after one that does not count (caches, worker threads)."""
        time.sleep(PAUSE_SECONDS)
        with self.implementation.in_force():
            self.sample()
            end = time.perf_counter() + VISIT_SECONDS
            for _ in range(MOST_SAMPLES):
                yield self.sample()
                if time.perf_counter() > end:
                    break

    def visit(self) -> list[float]:
        gc.disable()
        try:
            return list(self.samples())
        finally:
            gc.enable()


def copies(logits: np.ndarray) -> list[np.ndarray]:
    """As many buffers as one sample calls a step on."""
    count = max(1, min(MOST_BUFFERS, SAMPLE_BYTES // logits.nbytes))
    return [logits.copy() for _ in range(count)]


def contestant(implementation: Implementation, case: Case, buffers: list[np.ndarray]) -> Contestant:
    step = implementation.make(case)
    check(implementation, case, step)
    return Contestant(implementation, step, buffers, case.logits)


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, quartiles and the best over all samples of all rounds."""

    median: float
    quartiles: tuple[float, float]
    samples: int
    best: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        low, _, high = quantiles(seconds, n=4, method="inclusive")
        quartiles = _rounded(low), _rounded(high)
        return cls(_rounded(median(seconds)), quartiles, len(seconds), _rounded(min(seconds)))


def _rounded(seconds: float) -> float:
    """Four digits: more than any of them means."""
    return float(f"{seconds:.4g}")
