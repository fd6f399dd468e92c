"""NumPy by hand, and the libraries that build on it: SciPy, scikit-learn's private loss kernel.

Knows: how a careful user calls each. Must not know: shapes, timing, tables.
"""

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.implementations.contract import (
    ALLOCATES,
    PEER,
    THREADS,
    Implementation,
    Runtime,
    Step,
    place_for_gradient,
)
from benchmarks.workloads import INDEX, Case

RUNTIME = Runtime("NumPy")
TOLERANCE = 64
SCIKIT_LEARN_TOLERANCE = 512  # it adds the exponentials of a row one by one
BLOCK_BYTES = 2**18  # of the logits that the blocked form takes at a time: half an L2


# NumPy --------------------------------------------------------------------------------------------


def plain(case: Case) -> Step:
    rows, targets = np.arange(len(case.targets)), case.targets

    def loss_of(shifted, sums):
        if case.dense:  # rows of targets sum to 1
            return float(np.mean(np.log(sums[:, 0]) - (targets * shifted).sum(axis=1)))
        return float(np.mean(np.log(sums[:, 0]) - shifted[rows, targets]))

    def loss_step(x):
        shifted = x - x.max(axis=1, keepdims=True)
        return loss_of(shifted, np.exp(shifted).sum(axis=1, keepdims=True)), None

    def step(x):
        shifted = x - x.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        sums = exponentials.sum(axis=1, keepdims=True)
        grad = exponentials / sums
        if case.dense:
            grad -= targets
        else:
            grad[rows, targets] -= 1
        grad /= len(x)
        return loss_of(shifted, sums), grad

    return loss_step if case.loss_only else step


def _target_logits(x, rows, targets) -> np.ndarray:
    """Of every row the sum of targets * x, with no temporary of the logits' size."""
    if targets.ndim == 2:
        return np.einsum("ij,ij->i", targets, x)
    return x[rows, targets]


def _loss_over(x, shifted, rows, targets) -> tuple[np.floating, np.ndarray]:
    """The sum of the losses, and of every row that of the exponentials, which `shifted` takes."""
    np.subtract(x, x.max(axis=1, keepdims=True), out=shifted)
    target_logits = _target_logits(shifted, rows, targets)
    np.exp(shifted, out=shifted)
    sums = shifted.sum(axis=1, keepdims=True)
    return (np.log(sums[:, 0]) - target_logits).sum(dtype=np.float64), sums


def _loss_and_gradient_over(x, grad, rows, targets, total_rows) -> np.floating:
    """The sum of the losses; the gradient of the mean over `total_rows` goes into `grad`."""
    loss, sums = _loss_over(x, grad, rows, targets)
    share = x.dtype.type(1 / total_rows)
    if targets.ndim == 2:
        grad *= np.reciprocal(sums, out=sums)
        grad -= targets
        grad *= share
    else:
        sums *= total_rows
        grad *= np.reciprocal(sums, out=sums)
        grad[rows, targets] -= share
    return loss


def in_place(case: Case) -> Step:
    rows, targets = np.arange(len(case.targets)), case.targets
    place, scratch = place_for_gradient(case), np.empty_like(case.logits)

    def loss_step(x):
        return float(_loss_over(x, scratch, rows, targets)[0] / len(x)), None

    def step(x):
        grad = place(x)
        return float(_loss_and_gradient_over(x, grad, rows, targets, len(x)) / len(x)), grad

    return loss_step if case.loss_only else step


def in_blocks(case: Case) -> Step:
    """As `in_place`, a few rows at a time, so that the later sweeps find them in the cache."""
    total_rows, classes = case.logits.shape
    size = max(1, BLOCK_BYTES // (classes * case.logits.itemsize))
    blocks = [slice(start, start + size) for start in range(0, total_rows, size)]
    parts = [(block, np.arange(len(case.targets[block])), case.targets[block]) for block in blocks]
    place, scratch = place_for_gradient(case), np.empty_like(case.logits[:size])

    def loss_step(x):
        loss = 0.0
        for block, rows, targets in parts:
            loss += _loss_over(x[block], scratch[: len(rows)], rows, targets)[0]
        return float(loss / total_rows), None

    def step(x):
        grad, loss = place(x), 0.0
        for block, rows, targets in parts:
            loss += _loss_and_gradient_over(x[block], grad[block], rows, targets, total_rows)
        return float(loss / total_rows), grad

    return loss_step if case.loss_only else step


# SciPy --------------------------------------------------------------------------------------------


def scipy_log_softmax(case: Case) -> Step:
    from scipy.special import log_softmax, logsumexp

    rows, targets = np.arange(len(case.targets)), case.targets

    def loss_step(x):
        return float(np.mean(logsumexp(x, axis=1) - _target_logits(x, rows, targets))), None

    def step(x):
        grad = log_softmax(x, axis=1)
        loss = -_target_logits(grad, rows, targets).mean()
        np.exp(grad, out=grad)
        if case.dense:
            grad -= targets
        else:
            grad[rows, targets] -= 1
        grad /= len(x)
        return float(loss), grad

    return loss_step if case.loss_only else step


# scikit-learn -------------------------------------------------------------------------------------


def scikit_learn_on(threads: int) -> Callable[[Case], Step]:
    """Sample weights of 1 / rows make its losses and gradients those of the mean, in one pass."""

    def make(case: Case) -> Step:
        from sklearn._loss import HalfMultinomialLoss

        dtype, (rows, classes) = case.logits.dtype, case.logits.shape
        kernel = HalfMultinomialLoss(n_classes=classes)
        given = {
            "y_true": case.targets.astype(dtype),  # class indices as floating-point numbers
            "sample_weight": np.full(rows, 1 / rows, dtype=dtype),
            "n_threads": threads,
        }
        place = place_for_gradient(case)

        def loss_step(x):
            losses = kernel.loss(raw_prediction=x, **given)
            return float(losses.sum(dtype=np.float64)), None

        def step(x):
            losses, grad = kernel.loss_gradient(raw_prediction=x, gradient_out=place(x), **given)
            return float(losses.sum(dtype=np.float64)), grad

        return loss_step if case.loss_only else step

    return make


BASELINE = "NumPy in place"


def implementations() -> Iterator[Implementation]:
    yield Implementation(
        "NumPy, plain",
        PEER,
        RUNTIME,
        plain,
        tolerance=TOLERANCE,
        destinations=ALLOCATES,
        variants=False,
    )
    yield Implementation(BASELINE, PEER, RUNTIME, in_place, tolerance=TOLERANCE)
    yield Implementation(f"{BASELINE}, in blocks", PEER, RUNTIME, in_blocks, tolerance=TOLERANCE)
    yield Implementation(
        "SciPy",
        PEER,
        RUNTIME,
        scipy_log_softmax,
        needs=("scipy",),
        tolerance=TOLERANCE,
        destinations=ALLOCATES,
        variants=False,
    )
    for suffix, threads in (("", THREADS), (", 1 thread", 1)):
        yield Implementation(
            f"scikit-learn{suffix}",
            PEER,
            RUNTIME,
            scikit_learn_on(threads),
            needs=("scikit-learn",),
            tolerance=SCIKIT_LEARN_TOLERANCE,
            targets=(INDEX,),
            variants=threads == THREADS,
        )
