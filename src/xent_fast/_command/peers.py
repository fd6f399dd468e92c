"""What `bench` times: mean loss and gradient of one batch, as a user of each library has them.

Run as a module it times one of them, in a process of its own so that no two libraries' threads
meet: `python -m xent_fast._command.peers NAME THREADS` prints seconds for each batch as JSON.

Knows: how each library is called, how a call is timed. Must not know: tables, charts.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Rows, classes, and what such a batch is.
BATCHES = (
    (32, 10, "a small exercise"),
    (1024, 10, "MNIST"),
    (65_536, 10, "pixels"),
    (256, 1000, "ImageNet"),
    (128, 32_000, "language model"),
)
SECONDS_A_BATCH = 0.4
FEWEST_SAMPLES = 5
SAMPLE_SECONDS = 1e-3  # short calls are timed many at a time
TOLERANCE = 1e-4

Array = NDArray[Any]
Step = Callable[[], tuple[Any, Any]]
Maker = Callable[[Array, Array, int], Step]  # logits, labels, threads


def with_xent_fast(logits: Array, labels: Array, threads: int) -> Step:
    """Into an array that stays; on more than one thread it is left to choose how many."""
    import xent_fast

    grad = np.empty_like(logits)
    num_threads = 1 if threads == 1 else None
    return lambda: xent_fast.softmax_cross_entropy_grad(
        logits, labels, out=grad, num_threads=num_threads
    )


def with_numpy(logits: Array, labels: Array, _: int) -> Step:
    """By hand, with as few temporaries as one can."""
    rows = np.arange(len(labels))
    grad = np.empty_like(logits)

    def step() -> tuple[Any, Any]:
        np.subtract(logits, logits.max(axis=1, keepdims=True), out=grad)
        target_logits = grad[rows, labels]
        np.exp(grad, out=grad)
        sums = grad.sum(axis=1, keepdims=True)
        loss = (np.log(sums[:, 0]) - target_logits).mean()
        np.divide(grad, sums * len(logits), out=grad)
        grad[rows, labels] -= np.float32(1 / len(logits))
        return loss, grad

    return step


def with_scipy(logits: Array, labels: Array, _: int) -> Step:
    """`scipy.special.log_softmax`, and its exponential."""
    log_softmax = importlib.import_module("scipy.special").log_softmax
    rows = np.arange(len(labels))

    def step() -> tuple[Any, Any]:
        grad = log_softmax(logits, axis=1)
        loss = -grad[rows, labels].mean()
        np.exp(grad, out=grad)
        grad[rows, labels] -= 1
        grad /= len(logits)
        return loss, grad

    return step


def with_torch(logits: Array, labels: Array, threads: int) -> Step:
    """`cross_entropy` and autograd."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    x = torch.from_numpy(logits).requires_grad_()
    y = torch.from_numpy(labels)

    def step() -> tuple[Any, Any]:
        loss = torch.nn.functional.cross_entropy(x, y)
        (grad,) = torch.autograd.grad(loss, x)
        return loss.item(), grad

    return step


def with_jax(logits: Array, labels: Array, _: int) -> Step:
    """`jit` of `value_and_grad`."""
    jax = importlib.import_module("jax")
    x, y = jax.numpy.asarray(logits), jax.numpy.asarray(labels)

    def mean_loss(x: Any) -> Any:
        log_p = jax.nn.log_softmax(x, axis=1)
        return -jax.numpy.take_along_axis(log_p, y[:, None], axis=1).mean()

    function = jax.jit(jax.value_and_grad(mean_loss))

    def step() -> tuple[Any, Any]:
        loss, grad = function(x)
        return float(loss), jax.block_until_ready(grad)

    return step


def with_tensorflow(logits: Array, labels: Array, threads: int) -> Step:
    """`sparse_softmax_cross_entropy_with_logits` and a gradient tape, as one function."""
    tf = importlib.import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    x, y = tf.constant(logits), tf.constant(labels)

    @tf.function  # type: ignore[untyped-decorator]
    def function(x: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=x)
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(loss, x)

    def step() -> tuple[Any, Any]:
        loss, grad = function(x)
        return float(loss), grad

    return step


def with_numba(logits: Array, labels: Array, threads: int) -> Step:
    """Loops over rows, compiled."""
    numba = importlib.import_module("numba")
    numba.set_num_threads(threads)
    grad = np.empty_like(logits)

    @numba.njit(parallel=True, fastmath=True)  # type: ignore[untyped-decorator]
    def fill(x: Array, y: Array, grad: Array) -> Any:
        rows, classes = x.shape
        loss = 0.0
        for row in numba.prange(rows):
            largest = x[row, 0]
            for k in range(classes):
                largest = max(largest, x[row, k])
            total = np.float32(0)
            for k in range(classes):
                grad[row, k] = np.exp(x[row, k] - largest)
                total += grad[row, k]
            loss += np.log(total) - (x[row, y[row]] - largest)
            factor = np.float32(1) / (total * np.float32(rows))
            for k in range(classes):
                grad[row, k] *= factor
            grad[row, y[row]] -= np.float32(1) / np.float32(rows)
        return loss / rows

    return lambda: (fill(logits, labels, grad), grad)


class Contestant(NamedTuple):
    """What is timed: a maker of steps, the module that it needs, on how many threads."""

    make: Maker
    module: str
    threads: int | None  # None: as many as there are

    @property
    def is_installed(self) -> bool:
        """Whether its module can be found (it is not imported)."""
        return importlib.util.find_spec(self.module) is not None


LIBRARY, LIBRARY_ALONE, BASELINE = "xent_fast", "xent_fast, 1 thread", "NumPy, 1 thread"
CONTESTANTS = {
    LIBRARY: Contestant(with_xent_fast, "xent_fast", None),
    LIBRARY_ALONE: Contestant(with_xent_fast, "xent_fast", 1),
    BASELINE: Contestant(with_numpy, "numpy", 1),
    "SciPy, 1 thread": Contestant(with_scipy, "scipy", 1),
    "PyTorch": Contestant(with_torch, "torch", None),
    "JAX": Contestant(with_jax, "jax", None),
    "TensorFlow": Contestant(with_tensorflow, "tensorflow", None),
    "Numba": Contestant(with_numba, "numba", None),
}


def make_batch(rows: int, classes: int) -> tuple[Array, Array]:
    """Random logits and class indices."""
    rng = np.random.default_rng(rows)
    logits = 3 * rng.standard_normal((rows, classes), dtype=np.float32)
    return logits, rng.integers(0, classes, rows)


def verify(step: Step, logits: Array, labels: Array) -> None:
    """Hold one result against the formula in float64: who is wrong is not timed."""
    loss, grad = step()
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    want_loss = -log_p[np.arange(len(labels)), labels].mean()
    want = np.exp(log_p)
    want[np.arange(len(labels)), labels] -= 1
    error = np.abs(np.asarray(grad) - want / len(logits)).max() * len(logits)
    if not (abs(float(loss) - want_loss) <= TOLERANCE * want_loss and error <= TOLERANCE):
        raise ArithmeticError(f"wrong loss or gradient of {len(logits)} x {logits.shape[1]}")


def seconds_of(step: Step) -> float:
    """The median of one call's time."""
    start = time.perf_counter()
    step()
    calls = max(1, int(SAMPLE_SECONDS / (time.perf_counter() - start)))
    samples: list[float] = []
    end = time.perf_counter() + SECONDS_A_BATCH
    while len(samples) < FEWEST_SAMPLES or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            step()
        samples.append((time.perf_counter() - start) / calls)
    return median(samples)


def main() -> None:
    """Time one contestant and print its seconds."""
    name, threads = sys.argv[1], int(sys.argv[2])
    seconds = []
    for rows, classes, _ in BATCHES:
        logits, labels = make_batch(rows, classes)
        step = CONTESTANTS[name].make(logits, labels, threads)
        verify(step, logits, labels)
        seconds.append(seconds_of(step))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
