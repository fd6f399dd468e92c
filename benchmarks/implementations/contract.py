"""What an implementation is, and the process that it runs in.

An implementation makes for a case a *step*: a function that takes one buffer of logits and returns
the mean loss and its gradient, written where the workload says if the implementation can do that,
or None for the gradient where only the loss is asked for. `adopt` turns a buffer into what the step
takes; it runs outside the timed region, as does all preparation of targets.

Knows: the words that the other files here share. Must not know: any library but xent_fast.
"""

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.workloads import DENSE, IN_PLACE, INDEX, INTO_OUT, LOSS_ONLY, NEW, Case, Workload
from xent_fast._binding import engine, instruction_sets

Step = Callable[[Any], tuple[Any, Any]]
CONFIGURATION = engine.configuration()
DEFAULT_ISA: str = CONFIGURATION["isa"]["active"]
THREADS: int = CONFIGURATION["threads"]["default"]

LIBRARY, PEER, LIMIT = "library", "peer", "limit"

EVERY_DESTINATION = (IN_PLACE, INTO_OUT, NEW, LOSS_ONLY)
# An implementation that always allocates is what its users have where others work in place.
ALLOCATES = (IN_PLACE, NEW, LOSS_ONLY)


@dataclass(frozen=True)
class Runtime:
    """A process of its own, in which pools of threads and allocators meet no others.

    `environment` is set before anything is imported there, `begin_case` called before anything is
    made for the next case.
    """

    name: str
    environment: tuple[tuple[str, str], ...] = ()
    begin_case: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Implementation:
    """`make(case)` prepares a step; `isa` is what xent_fast computes with meanwhile.

    `tolerance` bounds the error that still counts as right, of the loss relative to it and of every
    entry of the gradient relative to |p - y| + y, in machine epsilons of the logits' dtype.
    """

    name: str
    role: str
    runtime: Runtime
    make: Callable[[Case], Step]
    adopt: Callable[[np.ndarray], Any] = lambda buffer: buffer
    needs: tuple[str, ...] = ()
    isa: str = DEFAULT_ISA
    tolerance: float = 0.0
    targets: tuple[str, ...] = (INDEX, DENSE)
    destinations: tuple[str, ...] = EVERY_DESTINATION
    variants: bool = True  # False: only the first part of the table of workloads

    @property
    def missing(self) -> list[str]:
        """The distributions it needs that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]

    def computes(self, workload: Workload) -> bool:
        return (
            workload.targets in self.targets
            and workload.destination in self.destinations
            and (self.variants or not workload.variant)
        )

    @contextmanager
    def in_force(self) -> Iterator[None]:
        previous = instruction_sets.use_isa(self.isa)
        try:
            yield
        finally:
            instruction_sets.use_isa(previous)


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def place_for_gradient(case: Case) -> Callable[[np.ndarray], np.ndarray]:
    """From a buffer of logits to the array that takes the gradient."""
    if case.in_place:
        return lambda x: x
    if case.workload.destination == INTO_OUT:
        second = np.empty_like(case.logits)
        return lambda _: second
    return np.empty_like
