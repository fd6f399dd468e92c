"""What docs/large_vocabularies.md says of time and memory, measured.

    python -m benchmarks.large_vocabularies            the tables of the page, printed
    python -m benchmarks.large_vocabularies --write    the same, written to the page
    python -m benchmarks.large_vocabularies --only layer   one of them: layer, larger layer, ranks
    python -m benchmarks.large_vocabularies --quick    small sizes: whether it works

Each way of training the layer runs in a process of its own; a time is the least of its calls. It
needs the extras `mpi` and `torch`, and `mpiexec`.

Knows: ways to train a last layer of many classes. Must not know: how any loss is computed.
"""

import argparse
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.where import where
from scripts.pages import table, write_block

PAGE = Path(__file__).parent.parent / "docs" / "large_vocabularies.md"
SHAPES = {
    "layer": (1024, 512, 32_000),
    "larger layer": (4096, 256, 50_257),
}  # rows, features, classes
QUICK_SHAPE = (128, 32, 4000)
CALLS = 3
SHARD = (512, 32_000)  # rows and classes of a rank
QUICK_SHARD = (64, 4000)
SOME_ROWS = 64  # those of both ranks lie in the cache that they share
PARTS = (*SHAPES, "ranks")
LIBRARIES = ("mpi4py", "mpich", "torch")
PRODUCTS = "the three products alone, NumPy"
PLAIN = "plain NumPy"
FUSED = "linear_softmax_cross_entropy_grad"
FUSED_512 = f"{FUSED}, chunk_rows=512"

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def data(rows: int, features: int, classes: int) -> Arrays:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows, features), np.float32) / np.float32(features**0.5)
    return (
        hidden,
        rng.standard_normal((classes, features), np.float32),
        rng.integers(0, classes, rows),
    )


# --- ways to the loss, grad_hidden and grad_weight ------------------------------------------------


def products(hidden: np.ndarray, weight: np.ndarray, labels: np.ndarray) -> object:
    logits = hidden @ weight.T
    return logits @ weight, logits.T @ hidden


def plain(hidden: np.ndarray, weight: np.ndarray, labels: np.ndarray) -> object:
    logits = hidden @ weight.T
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    sums = probabilities.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = np.mean(np.log(sums[:, 0]) - logits[rows, labels])
    probabilities /= sums
    probabilities[rows, labels] -= 1
    probabilities /= len(labels)
    return loss, probabilities @ weight, probabilities.T @ hidden


def between(hidden: np.ndarray, weight: np.ndarray, labels: np.ndarray) -> object:
    from xent_fast import softmax_cross_entropy_grad

    logits = hidden @ weight.T
    loss = softmax_cross_entropy_grad(logits, labels, out=logits).loss
    return loss, logits @ weight, logits.T @ hidden


def fused(
    hidden: np.ndarray, weight: np.ndarray, labels: np.ndarray, chunk_rows: int | None = None
) -> object:
    from xent_fast import linear_softmax_cross_entropy_grad

    return linear_softmax_cross_entropy_grad(hidden, weight, None, labels, chunk_rows=chunk_rows)


def with_torch(loss: Callable) -> Callable[..., object]:
    import torch

    def call(hidden: np.ndarray, weight: np.ndarray, labels: np.ndarray) -> object:
        h, w = (torch.from_numpy(a).requires_grad_() for a in (hidden, weight))
        value = loss(h, w, torch.from_numpy(labels))
        value.backward()
        return value.item(), h.grad, w.grad

    return call


def torch_plain() -> Callable[..., object]:
    from torch.nn.functional import cross_entropy

    return with_torch(lambda h, w, y: cross_entropy(h @ w.T, y))


def torch_own() -> Callable[..., object]:
    from torch.nn.functional import linear_cross_entropy

    return with_torch(linear_cross_entropy)


def torch_in_chunks(rows: int) -> Callable[..., object]:
    from torch.nn import LinearCrossEntropyOptions
    from torch.nn.functional import linear_cross_entropy

    options = LinearCrossEntropyOptions(batch_chunk_size=rows)
    return with_torch(lambda h, w, y: linear_cross_entropy(h, w, y, options=options))


WAYS: dict[str, Callable[[], Callable[..., object]]] = {
    PRODUCTS: lambda: products,
    PLAIN: lambda: plain,
    "softmax_cross_entropy_grad, in place": lambda: between,
    FUSED: lambda: fused,
    FUSED_512: lambda: functools.partial(fused, chunk_rows=512),
    "PyTorch, cross_entropy": torch_plain,
    "PyTorch, linear_cross_entropy": torch_own,
    "PyTorch, its chunks of 128 rows": lambda: torch_in_chunks(128),
    "PyTorch, its chunks of 256 rows": lambda: torch_in_chunks(256),
    "PyTorch, its chunks of 512 rows": lambda: torch_in_chunks(512),
}

QUICK_WAYS = (PRODUCTS, PLAIN, FUSED, "PyTorch, its chunks of 128 rows")


def rss() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_way(name: str, shape: tuple[int, int, int], calls: int) -> dict[str, float]:
    """Least seconds, and the peak over the inputs and results; runs in a process of its own."""
    call = WAYS[name]()
    call(*data(32, 16, 64))
    arrays = data(*shape)
    before, seconds = rss(), []
    for _ in range(calls):
        started = time.perf_counter()
        result = call(*arrays)
        seconds.append(time.perf_counter() - started)
        del result
    results = arrays[0].nbytes + arrays[1].nbytes
    return {"seconds": min(seconds), "bytes": max(rss() - before - results, 0)}


# --- classes on two ranks -------------------------------------------------------------------------


def measure_ranks(rows: int, classes: int, calls: int) -> None:
    """Under mpiexec: the shard's call, its parts, and the undivided call on the shard alone."""
    from mpi4py import MPI

    import xent_fast
    from xent_fast import mpi

    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(comm.rank)
    labels = np.random.default_rng(9).integers(0, classes * comm.size, rows)
    pristine = rng.standard_normal((rows, classes), np.float32)
    shard = pristine.copy()
    first, total = classes * comm.rank, classes * comm.size
    inside = labels % classes
    apart = np.zeros_like(shard)
    options = {"first_class": first, "num_classes": total}
    statistics = xent_fast.class_statistics(shard, labels, **options)
    everybody = np.empty((comm.size, *statistics.array.shape))

    def whole(out: np.ndarray) -> object:
        return mpi.softmax_cross_entropy_grad(shard, labels, comm, out=out, **options)

    def some_rows_a_call() -> None:
        for start in range(0, rows, SOME_ROWS):
            some = slice(start, start + SOME_ROWS)
            mpi.softmax_cross_entropy_grad(
                shard[some], labels[some], comm, reduction="sum", out=shard[some], **options
            )

    def one_number_each() -> object:
        return mpi.softmax_cross_entropy_grad(
            shard[:1, :1], [0], comm, first_class=comm.rank, num_classes=comm.size
        )

    def exchange() -> xent_fast.ClassStatistics:
        comm.Allgather(statistics.array, everybody)
        return xent_fast.merge_class_statistics(
            map(xent_fast.ClassStatistics.from_array, everybody)
        )

    whole_rows = exchange()

    def measure(out: np.ndarray | None) -> object:
        return xent_fast.class_statistics(shard, labels, out=out, **options)

    def write(has_exponentials: bool) -> object:
        return xent_fast.grad_from_statistics(
            shard,
            labels,
            whole_rows,
            first_class=first,
            has_exponentials=has_exponentials,
            out=shard,
        )

    def alone() -> object:
        return xent_fast.softmax_cross_entropy_grad(shard, inside, out=shard, num_threads=1)

    calls_of = {
        "whole": lambda: whole(shard),
        "whole, apart": lambda: whole(apart),
        "some rows a call": some_rows_a_call,
        "call": one_number_each,
        "statistics": lambda: measure(shard),
        "statistics, read": lambda: measure(None),
        "gradient": lambda: write(True),
        "gradient, again": lambda: write(False),
        "exchange": exchange,
        "empty collective": lambda: comm.Allgather(*np.zeros((2, 0))),
        "alone": alone,
        "one read and one write": lambda: np.multiply(shard, np.float32(0.5), out=shard),
    }
    times = {name: [] for name in calls_of}
    for _ in range(calls):
        for name, call in calls_of.items():
            np.copyto(shard, pristine)
            comm.barrier()
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    least = {name: comm.allreduce(min(values), MPI.MAX) for name, values in times.items()}
    if comm.rank == 0:
        sizes = {"sent": statistics.array.nbytes, "everybody's": everybody.nbytes}
        print(json.dumps(least | sizes))


def tiny_loss_error() -> tuple[float, float]:
    """A loss of 1.4e-13, and how many ulp the target's gradient is off, the target in either."""
    import xent_fast
    from xent_fast import reference

    logits, worst = np.zeros((1, 100), np.float32), 0.0
    logits[0, 70] = 34.2
    want = reference.softmax_cross_entropy_grad(logits, [70])
    for cut in (10, 50, 71, 99):
        ranges = (slice(0, cut), slice(cut, 100))
        statistics = xent_fast.merge_class_statistics(
            xent_fast.class_statistics(logits[:, some], [70], first_class=some.start)
            for some in ranges
        )
        for some in ranges:
            if some.start <= 70 < some.stop:
                grad = xent_fast.grad_from_statistics(
                    logits[:, some], [70], statistics, first_class=some.start
                ).grad[0, 70 - some.start]
                exact = want.grad[0, 70]
                worst = max(worst, abs(float(grad) - exact) / np.spacing(np.float32(abs(exact))))
    return want.loss, worst


# --- all of it ------------------------------------------------------------------------------------


def in_a_process(*arguments: object, launcher: tuple[str, ...] = (), threads: int = 0) -> dict:
    command = [*launcher, sys.executable, "-m", "benchmarks.large_vocabularies"]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    finished = subprocess.run(
        [*command, "--worker", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def layer_table(shape: tuple[int, int, int], calls: int, ways: tuple[str, ...]) -> str:
    rows, features, classes = shape
    found = {name: in_a_process("way", name, *shape, calls) for name in ways}
    seconds = {name: each["seconds"] for name, each in found.items()}
    peaks = {name: each["bytes"] for name, each in found.items()}
    lines = [
        (
            name,
            f"{1e3 * seconds[name]:,.0f}",
            f"{seconds[name] / seconds[PRODUCTS]:.2f}",
            f"{peaks[name] / 1e6:,.0f}",
            f"{peaks[name] / max(peaks[PLAIN], 1):.2f}",
        )
        for name in ways
    ]
    head = (f"{rows:,} x {features} -> {classes:,}", "ms", "of the products", "MB", "of plain")
    return table(head, lines)


def ranks_text(rows: int, classes: int, calls: int) -> str:
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    mpiexec = mpiexec or shutil.which("mpiexec") or "mpiexec"
    found = in_a_process("ranks", rows, classes, calls, launcher=(mpiexec, "-n", "2"), threads=1)
    ms = {name: 1e3 * value for name, value in found.items()}
    lines = [
        ("`xent_fast.mpi.softmax_cross_entropy_grad`, in place", f"{ms['whole']:.1f}"),
        ("the same, `out` another array", f"{ms['whole, apart']:.1f}"),
        (f"the same, in place, {SOME_ROWS} rows a call", f"{ms['some rows a call']:.1f}"),
        ("`class_statistics`, exponentials in the shard's place", f"{ms['statistics']:.1f}"),
        ("`class_statistics`, nothing written to the shard", f"{ms['statistics, read']:.1f}"),
        ("sending and merging statistics", f"{ms['exchange']:.1f}"),
        ("`grad_from_statistics` from the exponentials, in place", f"{ms['gradient']:.1f}"),
        ("`grad_from_statistics` from the logits, in place", f"{ms['gradient, again']:.1f}"),
        ("`softmax_cross_entropy_grad` of the shard alone, in place", f"{ms['alone']:.1f}"),
        ("one read and one write of the shard, by NumPy", f"{ms['one read and one write']:.1f}"),
        ("a call with one row of one class each", f"{ms['call']:.2f}"),
        ("a collective that sends nothing", f"{ms['empty collective']:.2f}"),
    ]
    head = (f"two ranks, {rows} x {classes:,} each, one thread each", "ms")
    bytes_a_row = found["sent"] / (rows + 1)
    compute = (found["whole"] - found["exchange"] - found["call"]) / (rows * classes)
    # All statistics, over the time until a rank has merged them.
    rate = found["everybody's"] / max(found["exchange"] - found["empty collective"], 1e-9)
    bytes_a_class = 80 / 2048
    most = compute * rate / bytes_a_class
    least_rows = found["call"] / (compute * classes)
    giga = rate / 1e9
    share = 100 * bytes_a_row / (4 * classes)
    loss, ulp = tiny_loss_error()
    return "\n".join(
        (
            table(head, lines),
            "",
            f"Each rank sends {bytes_a_row:,.0f} bytes a row: {share:.1f} % of its logits.",
            "On paper, with these constants, R rows and C classes on P ranks take",
            "",
            f"    its classes         R C / P x {1e9 * compute:.2f} ns",
            f"    everybody's         R (C x {bytes_a_class:.3f} + 32 P) bytes, {giga:.2f} GB/s",
            f"    the call itself     {ms['call']:.2f} ms",
            "",
            "The work of a rank shrinks with P, what it receives does not: both take as long at",
            f"P = {most:,.0f}, whatever R and C are. The call itself, two collectives and what",
            "Python does, is a tenth of the work at",
            f"{10 * least_rows:,.0f} rows of {classes:,} classes a rank, and binds below that.",
            "",
            f"A loss of {loss:.1e}, its classes in two ranges: the target's gradient is right to",
            f"{ulp:.1f} ulp, wherever the border lies.",
        )
    )


def part(name: str, quick: bool) -> str:
    if name == "ranks":
        return ranks_text(*(QUICK_SHARD if quick else SHARD), 3 if quick else 40)
    if quick:
        return layer_table(QUICK_SHAPE, 1, QUICK_WAYS)
    return layer_table(SHAPES[name], CALLS, tuple(WAYS))


def work(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "way":
        name, rows, features, classes, calls = rest
        shape = (int(rows), int(features), int(classes))
        print(json.dumps(measure_way(name, shape, int(calls))))
    else:
        measure_ranks(*map(int, rest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into the page")
    parser.add_argument("--only", choices=PARTS, help="one of the tables")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    parts = ("layer", "ranks") if arguments.quick else PARTS
    for name in [arguments.only] if arguments.only else parts:
        text = f"{part(name, arguments.quick)}\n\n{where(*LIBRARIES)}"
        print(text, end="\n\n")
        if arguments.write:
            write_block(PAGE, f"measured: {name}", text)


if __name__ == "__main__":
    main()
