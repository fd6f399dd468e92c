"""Numba: one fused loop nest, rows in order or in parallel.

Knows: how a careful user writes it. Must not know: shapes, timing, tables.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from benchmarks.implementations.contract import (
    PEER,
    Implementation,
    Runtime,
    Step,
    place_for_gradient,
)
from benchmarks.workloads import Case

RUNTIME = Runtime("Numba")
TOLERANCE = 512


@cache
def _compiled(*, parallel: bool, dense: bool, loss_only: bool, in_place: bool) -> Callable:
    """The loop nest; constants of this function choose what is compiled.

    In place it knows a single array, since two that may be the same keep loops from vectors.
    """
    import numba

    over_rows = numba.prange if parallel else range

    @numba.njit(parallel=parallel, fastmath=True)
    def loss_and_grad(x, targets, grad):
        rows, classes = x.shape
        one = x.dtype.type(1)
        share = x.dtype.type(1 / rows)
        losses = np.empty(rows, dtype=np.float64)
        for row in over_rows(rows):
            logits = x[row]
            largest = logits[0]
            for c in range(1, classes):
                largest = max(largest, logits[c])
            target_logit = x.dtype.type(0)
            if dense:
                for c in range(classes):
                    target_logit += targets[row, c] * (logits[c] - largest)
            else:
                target_logit = logits[targets[row]] - largest
            total = x.dtype.type(0)
            if loss_only:
                for c in range(classes):
                    total += np.exp(logits[c] - largest)
            else:
                grads = logits if in_place else grad[row]
                for c in range(classes):
                    exponential = np.exp(logits[c] - largest)
                    grads[c] = exponential
                    total += exponential
                factor = one / total
                if dense:
                    for c in range(classes):
                        grads[c] = (grads[c] * factor - targets[row, c]) * share
                else:
                    factor *= share
                    for c in range(classes):
                        grads[c] *= factor
                    grads[targets[row]] -= share
            losses[row] = np.log(total) - target_logit
        return losses.sum() / rows

    return loss_and_grad


def fused(*, parallel: bool) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        function = _compiled(
            parallel=parallel,
            dense=case.dense,
            loss_only=case.loss_only,
            in_place=case.in_place,
        )
        targets, place = case.targets, place_for_gradient(case)

        def step(x):
            grad = place(x)
            return function(x, targets, grad), grad

        return (lambda x: (function(x, targets, x), None)) if case.loss_only else step

    return make


def implementations() -> Iterator[Implementation]:
    for suffix, parallel in (("", True), (", 1 thread", False)):
        yield Implementation(
            f"Numba, fused{suffix}",
            PEER,
            RUNTIME,
            fused(parallel=parallel),
            needs=("numba",),
            tolerance=TOLERANCE,
        )
