"""When a second thread pays: calls of this library on one thread and on two.

Knows: the public functions, what a caller does between two calls.
Must not know: how threads are chosen when nobody chooses, tables' layout.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from tables import number, table
from tqdm import tqdm

from xent_fast import softmax_cross_entropy_grad

CLASSES = (3, 10, 100, 1_000, 32_000)
LOGITS = tuple(2**power for power in range(12, 20))
ROUNDS, VISIT = 4, 8
MATRIX = 384  # a product of two such matrices takes about as long as a small layer
CALLERS = (1, 2, 4, 8)
CALLERS_SECONDS = 0.5


def be_busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def make_product() -> Callable[[], object]:
    left = np.ones((MATRIX, MATRIX), np.float32)
    result = np.empty_like(left)
    return lambda: np.matmul(left, left, out=result)


CONDITIONS: dict[str, Callable[[], object]] = {
    "at once": lambda: None,
    "after 1 ms": lambda: be_busy(1e-3),
    "after 10 ms": lambda: be_busy(10e-3),
}


def batch(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, classes), np.float32), rng.integers(0, classes, rows)


def time_both(rows: int, classes: int, before: Callable[[], object]) -> dict[int, float]:
    """Median microseconds of a call by number of threads, in turns."""
    pristine, labels = batch(rows, classes)
    logits = pristine.copy()
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for threads, samples in times.items():
            for visit in range(VISIT):
                np.copyto(logits, pristine)
                before()
                start = time.perf_counter()
                softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=threads)
                elapsed = time.perf_counter() - start
                if visit:
                    samples.append(elapsed * 1e6)
    return {threads: median(samples) for threads, samples in times.items()}


def crossover() -> str:
    """Time on one thread and on two, by shape and by what came before."""
    lines, pays_from = [], {(classes, name): "" for classes in CLASSES for name in CONDITIONS}
    cells = [(c, n) for c in CLASSES for n in LOGITS if n >= 2 * c]
    gc.disable()
    for classes, logits in tqdm(cells, unit="shape", leave=False):
        rows = logits // classes
        line = [f"{classes:,}", f"{rows:,}", f"{rows * classes:,}"]
        for name, before in CONDITIONS.items():
            times = time_both(rows, classes, before)
            ratio = times[1] / times[2]
            line.append(f"{number(times[1])} / {number(times[2])} = {ratio:.2f}")
            if ratio < 1.05:
                pays_from[classes, name] = ""
            elif not pays_from[classes, name]:
                pays_from[classes, name] = f"{rows * classes:,} ({number(times[1])} µs)"
        lines.append(line)
    gc.enable()
    summary = [
        [f"{classes:,}", *(pays_from[classes, name] or "beyond" for name in CONDITIONS)]
        for classes in CLASSES
    ]
    return (
        "Logits from which two threads are at least 1.05 times as fast (time of one thread):\n\n"
        + table(["classes", *CONDITIONS], summary)
        + "\nMicroseconds on one thread / on two = ratio:\n\n"
        + table(["classes", "rows", "logits", *CONDITIONS], lines)
    )


def training_steps() -> str:
    """A step is four matrix products and a call: what spinning threads cost the products."""
    product = make_product()
    lines = []
    for rows, classes in ((1_024, 10), (4_096, 10), (64, 1_000), (256, 1_000), (1_024, 1_000)):
        pristine, labels = batch(rows, classes)
        logits = pristine.copy()
        times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for threads, samples in times.items():
                for visit in range(2 * VISIT):
                    np.copyto(logits, pristine)
                    start = time.perf_counter()
                    for _ in range(4):
                        product()
                    middle = time.perf_counter()
                    softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=threads)
                    end = time.perf_counter()
                    if visit > 1:
                        samples.append((middle - start, end - middle))
        line = [f"{rows:,} x {classes:,}"]
        for samples in times.values():
            line += [
                number(1e6 * median(products)) for products in (list(zip(*samples, strict=True)))
            ]
        lines.append(line)
    header = ["batch", "1 thread: products", "call", "2 threads: products", "call"]
    return table(header, lines)


def calls_a_second(callers: int, rows: int, classes: int, num_threads: int | None) -> float:
    counts = [0] * callers
    barrier = threading.Barrier(callers)
    logits, labels = batch(rows, classes)

    def work(caller: int) -> None:
        own = logits.copy()
        barrier.wait()
        end = time.perf_counter() + CALLERS_SECONDS
        while time.perf_counter() < end:
            softmax_cross_entropy_grad(own, labels, out=own, num_threads=num_threads)
            counts[caller] += 1

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def many_callers() -> str:
    lines = []
    for rows, classes in ((64, 10), (64, 1_000), (256, 1_000), (1_024, 1_000)):
        for callers in CALLERS:
            rates = [calls_a_second(callers, rows, classes, threads) for threads in (1, 2)]
            lines.append([f"{rows:,} x {classes:,}", str(callers), *(f"{r:,.0f}" for r in rates)])
    header = ["batch", "Python threads that call", "`num_threads=1`", "`num_threads=2`"]
    return "Calls a second, all callers together:\n\n" + table(header, lines)
