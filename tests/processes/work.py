"""The work that processes share out: a batch large enough for threads, and its bits.

Knows the public functions. Must not know who forks, or what else is loaded.
"""

from __future__ import annotations

import numpy as np

from xent_fast import softmax, softmax_cross_entropy_grad, softmax_vjp

# Both are shared out where threads are asked for, the first also by default.
SHAPES = ((10_000, 100), (3, 40_000))


def digest(num_threads: int | None = None, shape: tuple[int, int] = SHAPES[0]) -> bytes:
    """The bits of loss, gradient and softmax's backward pass."""
    rng = np.random.default_rng(6)
    logits = rng.standard_normal(shape).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0])
    p = softmax(logits, num_threads=num_threads)
    backward = softmax_vjp(p, logits, num_threads=num_threads)
    loss, grad = softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=num_threads)
    return np.float64(loss).tobytes() + grad.tobytes() + backward.tobytes()


def all_digests(num_threads: int | None = None) -> list[bytes]:
    return [digest(num_threads, shape) for shape in SHAPES]


def digest_of_job(job: int) -> bytes:
    """What a pool calls: every thread count in turn."""
    return digest((None, 1, 2, 4)[job % 4])
