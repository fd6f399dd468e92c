"""Who computes it: one table of implementations, and why a missing one is missing.

An implementation makes for a case a *step*: a function that takes one buffer of logits and returns
the mean loss and its gradient, written over the logits where the implementation can do that.
`adopt` turns a buffer into what the step takes; it runs outside the timed region, as does all
preparation of targets.

Knows: how a careful user calls each library. Must not know: shapes, timing, tables.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import xent_fast
from benchmarks.workloads import Case
from xent_fast import _core

Step = Callable[[Any], tuple[Any, Any]]
CONFIGURATION = _core.configuration()
DEFAULT_ISA: str = CONFIGURATION["isa"]["active"]
THREADS: int = CONFIGURATION["threads"]["default"]

LIBRARY, PEER, LIMIT = "library", "peer", "limit"
NUMPY_BLOCK_BYTES = 2**18  # of the logits that the blocked NumPy form takes at a time: half an L2
SCALING_FACTOR = 0.999


@dataclass(frozen=True)
class Implementation:
    """`make(case)` prepares a step; `isa` is what xent_fast computes with meanwhile."""

    name: str
    role: str
    make: Callable[[Case], Step]
    adopt: Callable[[np.ndarray], Any] = lambda buffer: buffer
    needs: tuple[str, ...] = ()
    isa: str = DEFAULT_ISA

    @property
    def missing(self) -> list[str]:
        """The distributions it needs that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        previous = _core.use_isa(self.isa)
        try:
            yield
        finally:
            _core.use_isa(previous)


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# This library -------------------------------------------------------------------------------------


def xent_fast_on(num_threads: int | None) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        targets, function = case.targets, xent_fast.softmax_cross_entropy_grad
        if num_threads is None:
            return lambda x: function(x, targets, out=x)
        return lambda x: function(x, targets, out=x, num_threads=num_threads)

    return make


def _every_xent_fast() -> Iterator[Implementation]:
    others = [isa for isa in _core.available_isas() if isa != DEFAULT_ISA]
    for isa in [DEFAULT_ISA, *others]:
        name = "xent_fast" if isa == DEFAULT_ISA else f"xent_fast, {isa}"
        yield Implementation(name, LIBRARY, xent_fast_on(None), isa=isa)
        yield Implementation(f"{name}, 1 thread", LIBRARY, xent_fast_on(1), isa=isa)


# NumPy and SciPy ----------------------------------------------------------------------------------


def numpy_plain(case: Case) -> Step:
    rows, targets = np.arange(len(case.targets)), case.targets

    def step(x):
        shifted = x - x.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        sums = exponentials.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(sums[:, 0]) - shifted[rows, targets])
        grad = exponentials / sums
        grad[rows, targets] -= 1
        grad /= len(x)
        return float(loss), grad

    return step


def _numpy_over_logits(x, rows, targets, total_rows) -> np.floating:
    """The sum of the losses of `x`; its gradient of the mean over `total_rows` takes its place."""
    x -= x.max(axis=1, keepdims=True)
    target_logits = x[rows, targets]
    np.exp(x, out=x)
    sums = x.sum(axis=1, keepdims=True)
    loss = (np.log(sums[:, 0]) - target_logits).sum(dtype=np.float64)
    sums *= total_rows
    x *= np.reciprocal(sums, out=sums)
    x[rows, targets] -= x.dtype.type(1 / total_rows)
    return loss


def numpy_in_place(case: Case) -> Step:
    rows, targets = np.arange(len(case.targets)), case.targets

    def step(x):
        return float(_numpy_over_logits(x, rows, targets, len(x)) / len(x)), x

    return step


def numpy_in_blocks(case: Case) -> Step:
    """In place, a few rows at a time, so that the later sweeps find them in the cache."""
    total_rows, classes = case.logits.shape
    size = max(1, NUMPY_BLOCK_BYTES // (classes * case.logits.itemsize))
    blocks = [slice(start, start + size) for start in range(0, total_rows, size)]
    parts = [(block, np.arange(len(case.targets[block])), case.targets[block]) for block in blocks]

    def step(x):
        loss = 0.0
        for block, rows, targets in parts:
            loss += _numpy_over_logits(x[block], rows, targets, total_rows)
        return float(loss / total_rows), x

    return step


def scipy_log_softmax(case: Case) -> Step:
    from scipy.special import log_softmax

    rows, targets = np.arange(len(case.targets)), case.targets

    def step(x):
        grad = log_softmax(x, axis=1)
        loss = -np.mean(grad[rows, targets])
        np.exp(grad, out=grad)
        grad[rows, targets] -= 1
        grad /= len(x)
        return float(loss), grad

    return step


# Compiled peers -----------------------------------------------------------------------------------


def scikit_learn_on(threads: int) -> Callable[[Case], Step]:
    """Sample weights of 1 / rows make its losses and gradients those of the mean, in one pass."""

    def make(case: Case) -> Step:
        from sklearn._loss import HalfMultinomialLoss

        dtype, (rows, classes) = case.logits.dtype, case.logits.shape
        function = HalfMultinomialLoss(n_classes=classes).loss_gradient
        targets = case.targets.astype(dtype)  # it takes class indices as floating-point numbers
        weights = np.full(rows, 1 / rows, dtype=dtype)

        def step(x):
            losses, grad = function(
                y_true=targets,
                raw_prediction=x,
                sample_weight=weights,
                gradient_out=x,
                n_threads=threads,
            )
            return float(losses.sum(dtype=np.float64)), grad

        return step

    return make


def numba_fused(*, parallel: bool) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        import numba

        over_rows = numba.prange if parallel else range

        @numba.njit(parallel=parallel, fastmath=True)
        def loss_and_grad(x, targets):
            rows, classes = x.shape
            losses = np.empty(rows, dtype=np.float64)
            for row in over_rows(rows):
                largest = x[row, 0]
                for c in range(1, classes):
                    largest = max(largest, x[row, c])
                target_logit = x[row, targets[row]] - largest
                total = x.dtype.type(0)
                for c in range(classes):
                    exponential = np.exp(x[row, c] - largest)
                    x[row, c] = exponential
                    total += exponential
                losses[row] = np.log(total) - target_logit
                factor = x.dtype.type(1 / (total * rows))
                for c in range(classes):
                    x[row, c] *= factor
                x[row, targets[row]] -= x.dtype.type(1 / rows)
            return losses.sum() / rows, x

        targets = case.targets
        loss_and_grad(case.logits.copy(), targets)  # compiles
        return lambda x: loss_and_grad(x, targets)

    return make


def pytorch_eager(case: Case) -> Step:
    import torch

    targets = torch.from_numpy(case.targets)

    def step(x):
        loss = torch.nn.functional.cross_entropy(x, targets)
        (grad,) = torch.autograd.grad(loss, x)
        return loss.item(), grad.numpy()

    return step


def pytorch_leaf(buffer: np.ndarray):
    import torch

    return torch.from_numpy(buffer).requires_grad_()


def jax_jit(case: Case) -> Step:
    import jax
    import jax.numpy as jnp

    targets = jnp.asarray(case.targets)

    def mean_loss(x):
        log_p = jax.nn.log_softmax(x, axis=1)
        return -jnp.mean(jnp.take_along_axis(log_p, targets[:, None], axis=1))

    function = jax.jit(jax.value_and_grad(mean_loss))
    return lambda x: jax.block_until_ready(function(x))


def jax_array(buffer: np.ndarray):
    import jax
    import jax.numpy as jnp

    return jax.block_until_ready(jnp.array(buffer, copy=True))


# The physical limit -------------------------------------------------------------------------------


def scale_on(threads: int) -> Callable[[Case], Step]:
    """One read and one write of every logit: a scaling in place. Its result is the scaled logits.

    No lower bound where a batch is so small that NumPy's own call or handing work to a thread
    costs more than the scaling.
    """

    def make(case: Case) -> Step:
        factor = case.logits.dtype.type(SCALING_FACTOR)
        if threads == 1:
            return lambda x: (0.0, np.multiply(x, factor, out=x))
        pool = ThreadPoolExecutor(threads - 1)

        def scale(part):
            np.multiply(part, factor, out=part)

        def step(x):
            *others, own = np.array_split(x.reshape(-1), threads)
            pending = [pool.submit(scale, part) for part in others]
            scale(own)
            for future in pending:
                future.result()
            return 0.0, x

        return step

    return make


IMPLEMENTATIONS = (
    *_every_xent_fast(),
    Implementation("NumPy, plain", PEER, numpy_plain),
    Implementation("NumPy in place", PEER, numpy_in_place),
    Implementation("NumPy in place, in blocks", PEER, numpy_in_blocks),
    Implementation("SciPy", PEER, scipy_log_softmax, needs=("scipy",)),
    Implementation("scikit-learn", PEER, scikit_learn_on(THREADS), needs=("scikit-learn",)),
    Implementation("scikit-learn, 1 thread", PEER, scikit_learn_on(1), needs=("scikit-learn",)),
    Implementation("Numba, fused", PEER, numba_fused(parallel=True), needs=("numba",)),
    Implementation("Numba, fused, 1 thread", PEER, numba_fused(parallel=False), needs=("numba",)),
    Implementation("PyTorch", PEER, pytorch_eager, pytorch_leaf, needs=("torch",)),
    Implementation("JAX jit", PEER, jax_jit, jax_array, needs=("jax",)),
    Implementation(f"scaling, {THREADS} threads", LIMIT, scale_on(THREADS)),
    Implementation("scaling, 1 thread", LIMIT, scale_on(1)),
)
BASELINE = "NumPy in place"
OURS = "xent_fast"
