"""What a rank does with its shard of the logits, timed; benchmarks.large_vocabularies starts it.

Knows: mpi4py, the ways to a shard's gradient. Must not know: how the times are shown.
"""

import json
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

import xent_fast
from xent_fast.mpi import softmax_cross_entropy_grad as mpi_grad

SOME_ROWS = 64  # those of both ranks lie in the cache that they share


class Shard:
    """A rank's logits of its classes, in turn with others in their place, and what is timed."""

    def __init__(self, comm: MPI.Comm, rows: int, classes: int) -> None:
        self.comm, self.rows, self.classes = comm, rows, classes
        self.labels = np.random.default_rng(9).integers(0, classes * comm.size, rows)
        self.inside = self.labels % classes
        rng = np.random.default_rng(comm.rank)
        self.pristine = rng.standard_normal((rows, classes), np.float32)
        self.logits, self.apart = self.pristine.copy(), np.zeros_like(self.pristine)
        self.first = classes * comm.rank
        self.options = {"first_class": self.first, "num_classes": classes * comm.size}
        self.statistics = self.measure(self.apart)
        self.exponentials = self.apart.copy()
        self.everybody = np.empty((comm.size, *self.statistics.array.shape))
        self.whole_rows = self.exchange()
        # The classes of all ranks, in one process while the others wait.
        self.undivided = np.tile(self.pristine, comm.size)[: rows if comm.rank == 0 else 0]

    def whole(self, out: np.ndarray) -> object:
        return mpi_grad(self.logits, self.labels, self.comm, out=out, **self.options)

    def some_rows_a_call(self) -> None:
        for start in range(0, self.rows, SOME_ROWS):
            some = slice(start, start + SOME_ROWS)
            part, options = self.logits[some], {"reduction": "sum", **self.options}
            mpi_grad(part, self.labels[some], self.comm, out=part, **options)

    def one_number_each(self) -> object:
        number = self.logits[:1, :1]
        sizes = {"first_class": self.comm.rank, "num_classes": self.comm.size}
        return mpi_grad(number, [0], self.comm, **sizes)

    def exchange(self) -> xent_fast.ClassStatistics:
        self.comm.Allgather(self.statistics.array, self.everybody)
        parts = map(xent_fast.ClassStatistics.from_array, self.everybody)
        return xent_fast.merge_class_statistics(parts)

    def measure(self, out: np.ndarray | None) -> xent_fast.ClassStatistics:
        return xent_fast.class_statistics(self.logits, self.labels, out=out, **self.options)

    def write(self, has_exponentials: bool) -> object:
        return xent_fast.grad_from_statistics(
            self.logits,
            self.labels,
            self.whole_rows,
            first_class=self.first,
            has_exponentials=has_exponentials,
            out=self.logits,
        )

    def alone(self) -> object:
        return xent_fast.softmax_cross_entropy_grad(
            self.logits, self.inside, out=self.logits, num_threads=1
        )

    def one_process(self, num_threads: int) -> object:
        logits = self.undivided
        return xent_fast.softmax_cross_entropy_grad(
            logits, self.labels[: len(logits)], out=logits, num_threads=num_threads
        )

    def by_hand(self) -> object:
        """Without the functions for shards: no lse of a row is known before its gradient is made.

        A row whose target lies elsewhere is given class 0 for one, which is taken back.
        """
        own = xent_fast.logsumexp(self.logits, num_threads=1)
        most, total = np.empty_like(own), np.empty_like(own)
        self.comm.Allreduce(own, most, MPI.MAX)
        self.comm.Allreduce(np.exp(own - most), total, MPI.SUM)
        lse = most + np.log(total)
        rows = np.arange(self.rows)
        is_here = self.labels // self.classes == self.comm.rank
        places = rows, np.where(is_here, self.inside, 0)
        losses = np.empty_like(own)
        self.comm.Allreduce(np.where(is_here, lse - self.logits[places], 0), losses, MPI.SUM)
        weights = np.exp(own - lse) / self.rows
        grad = xent_fast.softmax_cross_entropy_grad(
            self.logits,
            places[1],
            sample_weight=weights,
            reduction="sum",
            out=self.logits,
            num_threads=1,
        ).grad
        grad[places] += weights - is_here / self.rows
        return losses.mean(), grad

    def calls(self) -> dict[str, Callable[[], object]]:
        half, logits = np.float32(0.5), self.logits
        return {
            "whole": lambda: self.whole(logits),
            "whole, apart": lambda: self.whole(self.apart),
            "some rows a call": self.some_rows_a_call,
            "by hand": self.by_hand,
            "call": self.one_number_each,
            "statistics": lambda: self.measure(logits),
            "statistics, read": lambda: self.measure(None),
            "gradient": lambda: self.write(True),
            "gradient, again": lambda: self.write(False),
            "exchange": self.exchange,
            "empty collective": lambda: self.comm.Allgather(*np.zeros((2, 0))),
            "alone": self.alone,
            "one process": lambda: self.one_process(1),
            "one process, two threads": lambda: self.one_process(2),
            "one read and one write": lambda: np.multiply(logits, half, out=logits),
        }

    def before(self, name: str) -> None:
        np.copyto(self.logits, self.exponentials if name == "gradient" else self.pristine)
        if name.startswith("one process"):
            columns = self.undivided.reshape(len(self.undivided), self.comm.size, self.classes)
            np.copyto(columns, self.pristine[: len(columns), None])


def measure_ranks(rows: int, classes: int, calls: int) -> None:
    """Under mpiexec: the shard's call, its parts, and the undivided call on the shard alone."""
    comm = MPI.COMM_WORLD
    shard = Shard(comm, rows, classes)
    times = {name: [] for name in shard.calls()}
    for _ in range(calls):
        for name, call in shard.calls().items():
            shard.before(name)
            comm.barrier()
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    least = {name: comm.allreduce(min(values), MPI.MAX) for name, values in times.items()}
    if comm.rank == 0:
        sizes = {
            "sent": shard.statistics.array.nbytes,
            "everybody's": shard.everybody.nbytes,
            "some": SOME_ROWS,
        }
        print(json.dumps(least | sizes))
