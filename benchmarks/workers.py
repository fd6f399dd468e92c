"""One process a runtime, taking turns: what runs in one finds no threads or allocators of another.

The parent draws a case into files; every worker loads it, makes and checks its implementations, and
then samples one of them whenever it is told to. All others wait for a message meanwhile.

Knows: processes and messages. Must not know: any library, or how a sample is taken.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.implementations.contract import LIBRARY, Implementation, Runtime
from benchmarks.options import Batch
from benchmarks.timing import Contestant, Timing, contestant, copies
from benchmarks.workloads import Case, Workload, draw


class WorkerError(RuntimeError):
    """A worker ended, or could not do what it cannot do without."""


# In the worker ------------------------------------------------------------------------------------


def serve(connection: Connection, make_bench: Callable[[], Any]) -> None:
    """Answer messages (function's name, arguments) until there are no more."""
    bench = make_bench()
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(bench, name)(*arguments))


class _Bench:
    """The implementations of one runtime, ready for one case."""

    def __init__(self) -> None:
        self.ready: dict[str, Contestant] = {}

    def prepare(self, workload: Workload, directory: Path, names: list[str]) -> dict[str, str]:
        """Get ready what is named; the reason of each that cannot be."""
        chosen = [one for one in IMPLEMENTATIONS if one.name in names]
        self.ready.clear()
        chosen[0].runtime.begin_case()
        case, failures = Case.load(workload, directory), {}
        buffers = copies(case.logits)
        for one in chosen:
            try:
                self.ready[one.name] = contestant(one, case, buffers)
            except Exception as error:  # whatever a library raises: it is left out and named
                failures[one.name] = f"{type(error).__name__}: {error}".split("\n")[0]
        return failures

    def visit(self, name: str) -> list[float]:
        return self.ready[name].visit()


# In the parent ------------------------------------------------------------------------------------


class Worker:
    """A process and the line to it."""

    def __init__(self, runtime: Runtime, make_bench: Callable[[], Any]) -> None:
        self.name = runtime.name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make_bench), daemon=True)
        with _environment(runtime.environment):
            self.process.start()
        theirs.close()

    def tell(self, name: str, *arguments) -> None:
        try:
            self.connection.send((name, arguments))
        except BrokenPipeError as error:
            raise WorkerError(f"the process of {self.name} ended") from error

    def hear(self):
        try:
            return self.connection.recv()
        except EOFError as error:
            raise WorkerError(f"the process of {self.name} ended") from error

    def ask(self, name: str, *arguments):
        self.tell(name, *arguments)
        return self.hear()

    def close(self) -> None:
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()


@contextmanager
def _environment(variables: Iterable[tuple[str, str]]) -> Iterator[None]:
    """A started process inherits these: some are read before its first line of Python."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def workers_for(
    implementations: Iterable[Implementation], make_bench: Callable[[], Any] = _Bench
) -> Iterator[dict[str, Worker]]:
    """A process for each runtime, where a bench of its own prepares and takes samples."""
    runtimes = {one.runtime.name: one.runtime for one in implementations}
    workers = {name: Worker(runtime, make_bench) for name, runtime in runtimes.items()}
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def time_workload(
    workload: Workload,
    implementations: list[Implementation],
    workers: dict[str, Worker],
    rounds: int,
    tick: Callable[[], object],
) -> tuple[dict[str, Timing], dict[str, str]]:
    """The timing of every implementation, and of those that failed the reason."""
    failures = _prepare(workload, implementations, workers)
    return _take_turns(implementations, failures, workers, rounds, tick), failures


def time_batch(
    batch: Batch,
    implementations: list[Implementation],
    workers: dict[str, Worker],
    rounds: int,
    tick: Callable[[], object],
) -> tuple[dict[str, Timing], dict[str, str]]:
    """The same for implementations that are not all asked the same."""
    failures: dict[str, str] = {}
    for name, worker in workers.items():  # one by one: exact answers take much memory
        failures |= worker.ask("prepare", batch.label, _names(implementations, name))
    _raise_if_ours(implementations, failures, batch.label)
    return _take_turns(implementations, failures, workers, rounds, tick), failures


def _names(implementations: list[Implementation], runtime: str) -> list[str]:
    return [one.name for one in implementations if one.runtime.name == runtime]


def _raise_if_ours(
    implementations: list[Implementation], failures: dict[str, str], label: str
) -> None:
    ours = [one.name for one in implementations if one.role == LIBRARY and one.name in failures]
    if ours:
        raise WorkerError(f"{ours[0]} on {label}: {failures[ours[0]]}")


def _take_turns(
    implementations: list[Implementation],
    failures: dict[str, str],
    workers: dict[str, Worker],
    rounds: int,
    tick: Callable[[], object],
) -> dict[str, Timing]:
    ready = [one for one in implementations if one.name not in failures]
    seconds: dict[str, list[float]] = {one.name: [] for one in ready}
    for number in range(rounds):
        for one in ready if number % 2 == 0 else reversed(ready):
            seconds[one.name] += workers[one.runtime.name].ask("visit", one.name)
            tick()
    return {name: Timing.of(samples) for name, samples in seconds.items()}


def _prepare(
    workload: Workload, implementations: list[Implementation], workers: dict[str, Worker]
) -> dict[str, str]:
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        draw(workload).save(Path(directory))
        busy = []
        for name, worker in workers.items():  # all at once: nothing is timed meanwhile
            names = _names(implementations, name)
            if names:
                worker.tell("prepare", workload, Path(directory), names)
                busy.append(worker)
        for worker in busy:
            failures |= worker.hear()
    _raise_if_ours(implementations, failures, workload.label)
    return failures
