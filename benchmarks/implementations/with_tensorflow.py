"""TensorFlow: its fused kernel called eagerly, and XLA of its loss and of a function by hand.

Knows: how a careful user calls it. Must not know: shapes, timing, tables.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from benchmarks.implementations.contract import (
    ALLOCATES,
    PEER,
    THREADS,
    Implementation,
    Runtime,
    Step,
)
from benchmarks.workloads import Case

RUNTIME = Runtime(
    "TensorFlow",
    (
        ("TF_CPP_MIN_LOG_LEVEL", "3"),
        # Huge pages for large tensors, as NumPy asks for them: half the time of large batches.
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    ),
)
TOLERANCE = 1024


@cache
def _tensorflow():
    import tensorflow

    tensorflow.get_logger().setLevel("ERROR")  # it warns of every new shape
    tensorflow.config.threading.set_intra_op_parallelism_threads(THREADS)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    return tensorflow


def tensor(buffer: np.ndarray):
    return _tensorflow().constant(buffer)


def _losses(tf, case: Case) -> Callable:
    if case.dense:
        return tf.nn.softmax_cross_entropy_with_logits
    return tf.nn.sparse_softmax_cross_entropy_with_logits


def _mean_loss(tf, case: Case) -> Callable:
    losses = _losses(tf, case)
    return lambda x, targets: tf.reduce_mean(losses(labels=targets, logits=x))


def fused_kernel(tf, case: Case) -> Callable:
    """Its kernel gives every row's loss and gradient at once; the tape would ask for no more."""
    kernel = (
        tf.raw_ops.SoftmaxCrossEntropyWithLogits
        if case.dense
        else tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits
    )

    def loss_and_grad(x, targets):
        losses, grad = kernel(features=x, labels=targets)
        return tf.reduce_mean(losses), grad * (1 / x.shape[0])

    return loss_and_grad


def tape(tf, case: Case) -> Callable:
    mean_loss = _mean_loss(tf, case)

    def loss_and_grad(x, targets):
        with tf.GradientTape() as recorded:
            recorded.watch(x)
            loss = mean_loss(x, targets)
        return loss, recorded.gradient(loss, x)

    return loss_and_grad


def by_hand(tf, case: Case) -> Callable:
    """Softmax minus targets, written so that the compiler fuses it."""

    def loss_and_grad(x, targets):
        largest = tf.reduce_max(x, 1, keepdims=True)
        exponentials = tf.exp(x - largest)
        sums = tf.reduce_sum(exponentials, 1, keepdims=True)
        share = 1 / x.shape[0]
        if case.dense:
            target_logits = tf.reduce_sum(targets * (x - largest), 1, keepdims=True)
            grad = (exponentials * (1 / sums) - targets) * share
        else:
            target_logits = tf.gather(x, targets[:, None], axis=1, batch_dims=1) - largest
            subtrahend = tf.one_hot(targets, x.shape[1], share, 0.0, dtype=x.dtype)
            grad = exponentials * (share / sums) - subtrahend
        return tf.reduce_mean(tf.math.log(sums) - target_logits), grad

    return loss_and_grad


def called(function_of: Callable, *, xla: bool) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        tf = _tensorflow()
        targets = tf.constant(case.targets if case.dense else case.targets.astype(np.int32))
        if case.loss_only:
            loss = _mean_loss(tf, case)
            loss = tf.function(loss, jit_compile=True) if xla else loss
            return lambda x: (float(loss(x, targets)), None)
        function = function_of(tf, case)
        function = tf.function(function, jit_compile=True) if xla else function

        def step(x):
            loss, grad = function(x, targets)
            return float(loss), grad

        return step

    return make


def implementations() -> Iterator[Implementation]:
    common = {"needs": ("tensorflow-cpu",), "tolerance": TOLERANCE}
    yield Implementation(
        "TensorFlow",
        PEER,
        RUNTIME,
        called(fused_kernel, xla=False),
        tensor,
        destinations=ALLOCATES,
        **common,
    )
    yield Implementation(
        "TensorFlow XLA",
        PEER,
        RUNTIME,
        called(tape, xla=True),
        tensor,
        destinations=ALLOCATES,
        variants=False,
        **common,
    )
    yield Implementation(
        "TensorFlow XLA by hand",
        PEER,
        RUNTIME,
        called(by_hand, xla=True),
        tensor,
        destinations=ALLOCATES,
        **common,
    )
