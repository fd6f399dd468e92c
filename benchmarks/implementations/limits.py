"""The physical limit: what reading the logits and writing as many numbers costs, and no more.

In place, every logit is scaled; out of place, copied; for the loss alone, the largest is found.
Dense targets are the factors of a product in place. No lower bound where a batch is so small that
the call or handing work to a thread costs more than that.

Knows: how to touch memory fast from Python. Must not know: softmax.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from benchmarks.implementations import with_numba, with_xent_fast
from benchmarks.implementations.contract import (
    LIMIT,
    THREADS,
    Implementation,
    Step,
    place_for_gradient,
)
from benchmarks.workloads import IN_PLACE, INTO_OUT, NEW, Case

SCALING_FACTOR = 0.999


def expected(case: Case) -> tuple[float, np.ndarray | None]:
    """What the steps here must return."""
    if case.loss_only:
        return float(case.logits.max()), None
    if case.dense:
        return 0.0, case.logits * case.targets
    if case.in_place:
        return 0.0, case.logits * case.logits.dtype.type(SCALING_FACTOR)
    return 0.0, case.logits


def in_pieces(work: Callable, threads: int) -> Callable:
    """`work(*arrays)` done piece by piece, one piece a thread; the list of what they return."""
    pool = ThreadPoolExecutor(max(1, threads - 1))

    def on_all(*arrays):
        pieces = zip(*(np.array_split(one.reshape(-1), threads) for one in arrays), strict=True)
        *others, own = pieces
        pending = [pool.submit(work, *piece) for piece in others]
        return [work(*own), *(future.result() for future in pending)]

    return (lambda *arrays: [work(*arrays)]) if threads == 1 else on_all


def with_numpy_on(threads: int) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        factor, place = case.logits.dtype.type(SCALING_FACTOR), place_for_gradient(case)
        scale = in_pieces(lambda x: np.multiply(x, factor, out=x), threads)
        multiply = in_pieces(lambda x, t, out: np.multiply(x, t, out=out), threads)
        copy = in_pieces(lambda x, out: np.copyto(out, x), threads)
        largest = in_pieces(np.max, threads)

        def dense_step(x):
            grad = place(x)
            multiply(x, case.targets, grad)
            return 0.0, grad

        def scaling_step(x):
            scale(x)
            return 0.0, x

        def copying_step(x):
            grad = place(x)
            copy(x, grad)
            return 0.0, grad

        if case.loss_only:
            return lambda x: (float(max(largest(x))), None)
        if case.dense:
            return dense_step
        return scaling_step if case.in_place else copying_step

    return make


@cache
def _numba_loops() -> tuple[Callable, Callable, Callable]:
    import numba

    @numba.njit(parallel=True)
    def scale(x, factor):
        for i in numba.prange(x.size):
            x[i] *= factor

    @numba.njit(parallel=True)
    def multiply(x, targets, out):
        for i in numba.prange(x.size):
            out[i] = x[i] * targets[i]

    @numba.njit(parallel=True)
    def copy(x, out):
        for i in numba.prange(x.size):
            out[i] = x[i]

    return scale, multiply, copy


def with_numba_loops(case: Case) -> Step:
    """Numba hands work to threads sooner than Python can."""
    scale, multiply, copy = _numba_loops()
    factor, place = case.logits.dtype.type(SCALING_FACTOR), place_for_gradient(case)

    def dense_step(x):
        grad = place(x)
        multiply(x.reshape(-1), case.targets.reshape(-1), grad.reshape(-1))
        return 0.0, grad

    def scaling_step(x):
        scale(x.reshape(-1), factor)
        return 0.0, x

    def copying_step(x):
        grad = place(x)
        copy(x.reshape(-1), grad.reshape(-1))
        return 0.0, grad

    if case.dense:
        return dense_step
    return scaling_step if case.in_place else copying_step


def implementations() -> Iterator[Implementation]:
    runtime = with_xent_fast.RUNTIME
    yield Implementation("limit, 1 thread", LIMIT, runtime, with_numpy_on(1))
    if THREADS > 1:
        yield Implementation(f"limit, {THREADS} threads", LIMIT, runtime, with_numpy_on(THREADS))
        yield Implementation(
            f"limit, {THREADS} threads of Numba",
            LIMIT,
            with_numba.RUNTIME,
            with_numba_loops,
            needs=("numba",),
            destinations=(IN_PLACE, INTO_OUT, NEW),
        )
