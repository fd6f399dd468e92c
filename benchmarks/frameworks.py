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

import numpy as np

SHAPES = ((32, 10), (1024, 10), (256, 1000), (256, 32000))
FEATURES = 64
MEMORY_SHAPE = (1024, 32000)
SECONDS = 0.2  # that repetitions of one call take
PAGE = Path(__file__).parent.parent / "docs" / "frameworks.md"
HEADS = (
    *("loss", "lines to change", "derivatives"),
    *(f"{rows:,} x {classes:,}" for rows, classes in SHAPES),
    "peak memory",
)
# Lines that a program changes, and orders of derivatives that are right: tests/frameworks holds the
# modules to the latter.
LINES_AND_ORDERS = {
    "PyTorch": ("", "all"),
    "xent_fast.torch": ("1, the import", "2, then an error"),
    "xent_fast.torch, inplace": ("2, and the argument", "1, then an error"),
    "JAX jit, optax": ("", "all"),
    "xent_fast.jax": ("1, the import", "all"),
    "xent_fast.jax, on the host": ("a step in two functions", "1"),
    "Autograd": ("", "all"),
    "xent_fast.autograd": ("1, the import", "2, then an error"),
    "MyGrad": ("", "1"),
    "xent_fast.mygrad": ("1, the import", "1"),
}
BLOCKS = 5

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


def losses_of_torch() -> dict[str, Callable]:
    from functools import partial

    from torch.nn.functional import cross_entropy

    import xent_fast.torch

    ours = xent_fast.torch.cross_entropy

    def in_place(logits: object, labels: object) -> object:
        return ours(logits, labels, inplace=not logits.is_leaf)

    return {
        "PyTorch": cross_entropy,
        "xent_fast.torch": partial(ours),
        "xent_fast.torch, inplace": in_place,
    }


def losses_of_jax() -> dict[str, Callable]:
    import optax

    import xent_fast.jax

    return {
        "JAX jit, optax": optax.softmax_cross_entropy_with_integer_labels,
        "xent_fast.jax": xent_fast.jax.softmax_cross_entropy_with_integer_labels,
    }


def losses_on_host() -> dict[str, Callable]:
    import xent_fast.jax

    return {"xent_fast.jax, on the host": xent_fast.jax.value_and_grad_on_host}


def losses_of_autograd() -> dict[str, Callable]:
    import autograd.numpy as anp
    from autograd.scipy.special import logsumexp

    import xent_fast.autograd

    def own(logits: object, labels: np.ndarray) -> object:
        return anp.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])

    return {"Autograd": own, "xent_fast.autograd": xent_fast.autograd.softmax_cross_entropy}


def losses_of_mygrad() -> dict[str, Callable]:
    from mygrad.nnet import softmax_crossentropy

    import xent_fast.mygrad

    return {
        "MyGrad": softmax_crossentropy,
        "xent_fast.mygrad": xent_fast.mygrad.softmax_cross_entropy,
    }


FAMILIES = (
    ("PyTorch", with_torch, losses_of_torch),
    ("JAX", with_jax, losses_of_jax),
    ("JAX", with_jax_on_host, losses_on_host),
    ("Autograd", with_autograd, losses_of_autograd),
    ("MyGrad", with_mygrad, losses_of_mygrad),
)


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
    for _, make, losses in FAMILIES:
        if name in (chosen := losses()):
            # what a first step loads and keeps
            make(chosen[name], *SHAPES[1], 1)[1]()
            _, step = make(chosen[name], *MEMORY_SHAPE, 1)
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
    for name_of_family, make, losses in FAMILIES:
        if family not in (None, name_of_family):
            continue
        for name, loss in losses().items():
            cells = [name, *LINES_AND_ORDERS[name]]
            for shape in SHAPES:
                gradient, step = make(loss, *shape, FEATURES)
                cells.append(f"{least_milliseconds(gradient):.3g} / {least_milliseconds(step):.3g}")
            cells.append(f"{peak_arrays(name):.2f}")
            lines[name] = as_line(*cells)
            print(lines[name], flush=True)
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
    table = "\n".join([head, rule, *(kept[name] for name in LINES_AND_ORDERS if name in kept)])
    PAGE.write_text(before + table + "\n\n" + after.partition("\n\n")[2])


def print_limits() -> None:
    from xent_fast._torch import calls

    calls._SMALL = calls._SMALL_SHORT_ROWS = 0
    losses = losses_of_torch()
    print("| batch | PyTorch, µs | xent_fast.torch, µs |\n| --- | ---: | ---: |")
    for rows, classes in ((100, 10), (150, 10), (300, 10), (1000, 16), (300, 100), (600, 100),
                          (32, 1000), (64, 1000)):  # fmt: skip
        times = [
            1e3 * least_milliseconds(with_torch(losses[name], rows, classes, 1)[0])
            for name in ("PyTorch", "xent_fast.torch")
        ]
        print(f"| {rows} x {classes} | {times[0]:.0f} | {times[1]:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    families = sorted({family for family, *_ in FAMILIES})
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
        if chosen.write:
            write_table(found)
