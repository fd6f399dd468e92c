"""JAX: jit of `value_and_grad`, also with the logits donated, and of a function fused by hand.

Knows: how a careful user calls it. Must not know: shapes, timing, tables.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from benchmarks.implementations.contract import (
    ALLOCATES,
    PEER,
    Implementation,
    Runtime,
    Step,
)
from benchmarks.workloads import IN_PLACE, NEW, Case

RUNTIME = Runtime(
    "JAX",
    (
        ("JAX_PLATFORMS", "cpu"),
        # Huge pages for large arrays, as NumPy asks for them: half the time of large batches.
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    ),
)
TOLERANCE = 512


@cache
def _jax():
    import jax

    jax.config.update("jax_enable_x64", True)  # else float64 becomes float32
    return jax


def array(buffer: np.ndarray):
    jax = _jax()
    return jax.block_until_ready(jax.numpy.array(buffer, copy=True))


def _mean_loss(case: Case) -> Callable:
    jax, jnp = _jax(), _jax().numpy

    def mean_loss(x, targets):
        log_p = jax.nn.log_softmax(x, axis=1)
        if case.dense:
            return -jnp.mean(jnp.sum(targets * log_p, axis=1))
        return -jnp.mean(jnp.take_along_axis(log_p, targets[:, None], axis=1))

    return mean_loss


def _by_hand(case: Case) -> Callable:
    """Softmax minus targets, written so that the compiler fuses it."""
    jnp = _jax().numpy

    def loss_and_grad(x, targets):
        largest = x.max(axis=1, keepdims=True)
        exponentials = jnp.exp(x - largest)
        sums = exponentials.sum(axis=1, keepdims=True)
        share = 1 / x.shape[0]
        if case.dense:
            target_logits = jnp.sum(targets * (x - largest), axis=1, keepdims=True)
            grad = (exponentials * (1 / sums) - targets) * share
        else:
            target_logits = jnp.take_along_axis(x, targets[:, None], axis=1) - largest
            is_target = jnp.arange(x.shape[1])[None] == targets[:, None]
            grad = exponentials * (share / sums) - jnp.where(is_target, share, 0).astype(x.dtype)
        return jnp.mean(jnp.log(sums) - target_logits), grad

    return loss_and_grad


def jit(function_of: Callable[[Case], Callable], *, donated: bool = False) -> Callable:
    def make(case: Case) -> Step:
        jax = _jax()
        narrow = case.targets if case.dense else case.targets.astype(np.int32)
        targets = jax.numpy.asarray(narrow)
        if case.loss_only:
            loss = jax.jit(_mean_loss(case))
            return lambda x: (float(loss(x, targets)), None)
        function = jax.jit(function_of(case), donate_argnums=(0,) if donated else ())

        def step(x):
            loss, grad = function(x, targets)
            return float(loss), jax.block_until_ready(grad)

        return step

    return make


def _value_and_grad(case: Case) -> Callable:
    return _jax().value_and_grad(_mean_loss(case))


def implementations() -> Iterator[Implementation]:
    common = {"needs": ("jax",), "tolerance": TOLERANCE}
    yield Implementation(
        "JAX jit", PEER, RUNTIME, jit(_value_and_grad), array, destinations=ALLOCATES, **common
    )
    yield Implementation(
        "JAX jit, donated",
        PEER,
        RUNTIME,
        jit(_value_and_grad, donated=True),
        array,
        destinations=(IN_PLACE,),
        variants=False,
        **common,
    )
    yield Implementation(
        "JAX jit by hand",
        PEER,
        RUNTIME,
        jit(_by_hand),
        array,
        destinations=(IN_PLACE, NEW),
        **common,
    )
