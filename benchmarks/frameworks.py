"""Times and memory of the modules for frameworks, beside each framework's own loss.

    python -m benchmarks.frameworks                the table of docs/frameworks.md, printed
    python -m benchmarks.frameworks --write        the same, written to the page
    python -m benchmarks.frameworks --only JAX     its rows alone; --write leaves the others
    python -m benchmarks.frameworks --limits       where PyTorch itself computes small inputs

It needs the extra `test-frameworks`. A time is the least of several repetitions, on as many threads
as each library takes by itself (`OMP_NUM_THREADS` sets them).

Knows: how each framework trains its last layer. Must not know: how either loss is computed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import glue
from benchmarks.where import where

SHAPES = ((32, 10), (1024, 10), (256, 1000), (256, 32000))
FEATURES = 64
MEMORY_SHAPE = (1024, 32000)
SECONDS = 0.2  # that repetitions of one call take
PAGE = Path(__file__).parent.parent / "docs" / "frameworks.md"
HEADS = (
    *("loss", "lines by hand", "lines", "derivatives"),
    *(f"{rows:,} x {classes:,}" for rows, classes in SHAPES),
    "peak memory",
)
BLOCKS = 5
LIBRARIES = ("torch", "jax", "optax", "autograd", "mygrad")

Call = Callable[[], object]


def data(rows: int, classes: int, features: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((rows, features), np.float32)
    weight = rng.standard_normal((features, classes), np.float32)
    return hidden, weight, rng.integers(0, classes, rows)


# Each gives two calls: loss and gradient of logits that exist, and a step of training a layer.


def with_torch(loss: Callable, rows: int, classes: int, features: int) -> tuple[Call, Call]:
    import torch

    arrays = data(rows, classes, features)
    hidden, weight, labels = (torch.from_numpy(array) for array in arrays)
    logits = (hidden @ weight).requires_grad_()
    weight.requires_grad_()

    def gradient() -> None:
        logits.grad = None
        loss(logits, labels).backward()

    def step() -> None:
        weight.grad = None
        loss(hidden @ weight, labels).backward()
        with torch.no_grad():
            weight.sub_(weight.grad, alpha=1e-3)

    return gradient, step


def with_jax(loss: Callable, rows: int, classes: int, features: int) -> tuple[Call, Call]:
    import jax

    hidden, weight, labels = map(jax.numpy.asarray, data(rows, classes, features))
    logits = jax.block_until_ready(hidden @ weight)
    gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, labels).mean()))
    layer = jax.jit(jax.value_and_grad(lambda w: loss(hidden @ w, labels).mean()))

    @jax.jit
    def update(w: jax.Array) -> jax.Array:
        return w - 1e-3 * layer(w)[1]

    return (
        lambda: jax.block_until_ready(gradient(logits)),
        lambda: jax.block_until_ready(update(weight)),
    )


def with_jax_on_host(loss: Callable, rows: int, classes: int, features: int) -> tuple[Call, Call]:
    import jax

    hidden, weight, labels = map(jax.numpy.asarray, data(rows, classes, features))
    forward = jax.jit(lambda w: hidden @ w)
    update = jax.jit(lambda w, grad: w - 1e-3 * (hidden.T @ grad))
    logits = jax.block_until_ready(forward(weight))
    return (
        lambda: jax.block_until_ready(loss(logits, labels)),
        lambda: jax.block_until_ready(update(weight, loss(forward(weight), labels)[1])),
    )


def with_autograd(loss: Callable, rows: int, classes: int, features: int) -> tuple[Call, Call]:
    import autograd
    import autograd.numpy as anp

    hidden, weight, labels = data(rows, classes, features)
    logits = hidden @ weight
    gradient = autograd.value_and_grad(lambda x: loss(x, labels))
    layer = autograd.value_and_grad(lambda w: loss(anp.dot(hidden, w), labels))

    def step() -> None:
        weight[...] -= np.float32(1e-3) * layer(weight)[1]

    return lambda: gradient(logits), step


def with_mygrad(loss: Callable, rows: int, classes: int, features: int) -> tuple[Call, Call]:
    import mygrad

    hidden, weight, labels = data(rows, classes, features)
    logits, parameter = mygrad.tensor(hidden @ weight), mygrad.tensor(weight)

    def step() -> None:
        loss(mygrad.matmul(hidden, parameter), labels).backward()
        parameter.data[...] -= np.float32(1e-3) * parameter.grad

    return lambda: loss(logits, labels).backward(), step


class Row(NamedTuple):
    """A line of the table: a loss, how its program is timed, what it saves and what it can do."""

    name: str
    family: str
    make: Callable
    loss: Callable
    by_hand: Callable | None
    # Orders of derivatives that are right: tests/frameworks holds the modules to them.
    orders: str


ROWS = (
    Row("PyTorch", "PyTorch", with_torch, glue.torch_itself, None, "all"),
    Row("xent_fast.torch", "PyTorch", with_torch, glue.torch_by_module, glue.torch_by_hand,
        "2, then an error"),
    Row("xent_fast.torch, inplace", "PyTorch", with_torch, glue.torch_by_module_in_place,
        glue.torch_by_hand, "1, then an error"),
    Row("JAX jit, optax", "JAX", with_jax, glue.jax_itself, None, "all"),
    Row("xent_fast.jax", "JAX", with_jax, glue.jax_by_module, glue.jax_by_hand, "all"),
    Row("xent_fast.jax, on the host", "JAX", with_jax_on_host, glue.jax_on_host_by_module,
        glue.jax_on_host_by_hand, "1"),
    Row("Autograd", "Autograd", with_autograd, glue.autograd_itself, None, "all"),
    Row("xent_fast.autograd", "Autograd", with_autograd, glue.autograd_by_module,
        glue.autograd_by_hand, "2, then an error"),
    Row("MyGrad", "MyGrad", with_mygrad, glue.mygrad_itself, None, "1"),
    Row("xent_fast.mygrad", "MyGrad", with_mygrad, glue.mygrad_by_module, glue.mygrad_by_hand,
        "1"),
)  # fmt: skip


def least_milliseconds(call: Call) -> float:
    call()
    started = time.perf_counter()
    call()
    once = max(time.perf_counter() - started, 1e-6)
    repetitions = max(1, int(SECONDS / BLOCKS / once))
    times = []
    for _ in range(BLOCKS):
        started = time.perf_counter()
        for _ in range(repetitions):
            call()
        times.append((time.perf_counter() - started) / repetitions)
    return 1e3 * min(times)


def peak_arrays(name: str) -> float:
    """Memory of one step beyond what stood before, in arrays of the logits' size; in a process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.frameworks", "--memory-of", name],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout)


def print_peak(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    loss = row.loss()
    # what a first step loads and keeps
    row.make(loss, *SHAPES[1], 1)[1]()
    _, step = row.make(loss, *MEMORY_SHAPE, 1)
    before = peak_bytes()
    step()
    print((peak_bytes() - before) / (4 * MEMORY_SHAPE[0] * MEMORY_SHAPE[1]))


def peak_bytes() -> int:
    """Of this process, on Linux; getrusage would begin with the parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measured_rows(family: str | None) -> dict[str, str]:
    """The table's lines by the loss's name, each printed as soon as it is there."""
    lines = {}
    for row in ROWS:
        if family not in (None, row.family):
            continue
        loss = row.loss()
        by_hand = str(glue.lines_of(row.by_hand)) if row.by_hand else ""
        cells = [row.name, by_hand, str(glue.lines_of(row.loss)), row.orders]
        for shape in SHAPES:
            gradient, step = row.make(loss, *shape, FEATURES)
            cells.append(f"{least_milliseconds(gradient):.3g} / {least_milliseconds(step):.3g}")
        cells.append(f"{peak_arrays(row.name):.2f}")
        lines[row.name] = as_line(*cells)
        print(lines[row.name], flush=True)
    return lines


def as_line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def write_table(lines: dict[str, str]) -> None:
    """Take the place of the page's rows with these names; all columns are the page's."""
    text = PAGE.read_text()
    head = as_line(*HEADS)
    before, _, after = text.partition(head)
    if not after:
        raise SystemExit(f"{PAGE.name} has no table with the head {head}")
    rule, *rows = after.strip("\n").partition("\n\n")[0].split("\n")
    kept = {row.split(" | ")[0].removeprefix("| "): row for row in rows} | lines
    table = "\n".join([head, rule, *(kept[row.name] for row in ROWS if row.name in kept)])
    PAGE.write_text(before + table + "\n\n" + after.partition("\n\n")[2])


def print_limits() -> None:
    from xent_fast._torch import calls

    calls._SMALL = calls._SMALL_SHORT_ROWS = 0
    losses = glue.torch_itself(), glue.torch_by_module()
    print("| batch | PyTorch, µs | xent_fast.torch, µs |\n| --- | ---: | ---: |")
    for rows, classes in ((100, 10), (150, 10), (300, 10), (1000, 16), (300, 100), (600, 100),
                          (32, 1000), (64, 1000)):  # fmt: skip
        times = [1e3 * least_milliseconds(with_torch(loss, rows, classes, 1)[0]) for loss in losses]
        print(f"| {rows} x {classes} | {times[0]:.0f} | {times[1]:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    families = sorted({row.family for row in ROWS})
    parser.add_argument("--write", action="store_true", help="renew the table of the page")
    parser.add_argument("--only", choices=families, help="the rows of one framework alone")
    parser.add_argument("--limits", action="store_true", help="PyTorch's small inputs alone")
    parser.add_argument("--memory-of", metavar="LOSS", help="one loss's memory, in this process")
    chosen = parser.parse_args()
    if chosen.memory_of:
        print_peak(chosen.memory_of)
    elif chosen.limits:
        print_limits()
    else:
        found = measured_rows(chosen.only)
        print(f"\n{where(*LIBRARIES)}")
        if chosen.write:
            write_table(found)
