"""One call or more of every public function, on inputs that many threads can share.

Knows the public functions' arguments. Must not know the right results, nor who calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import xent_fast as xf

Bits = bytes


@dataclass(frozen=True)
class Inputs:
    """What every thread reads: arrays of one shape, read-only."""

    logits: np.ndarray
    other: np.ndarray
    labels: np.ndarray
    dense: np.ndarray
    class_weight: np.ndarray
    sample_weight: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, rows: int, classes: int, dtype: type = np.float32, seed: int = 5) -> Inputs:
        rng = np.random.default_rng(seed)
        logits, other = (3 * rng.standard_normal((2, rows, classes))).astype(dtype)
        dense = rng.random((rows, classes)).astype(dtype)
        inputs = cls(
            logits,
            other,
            rng.integers(0, classes, rows),
            dense,
            (0.5 + rng.random(classes)).astype(dtype),
            rng.random(rows),
            xf.softmax(logits, num_threads=1),
        )
        for array in vars(inputs).values():
            array.flags.writeable = False
        return inputs


Call = Callable[[Inputs, int | None], Any]


def _loss(i: Inputs, threads: int | None) -> Any:
    return [
        xf.softmax_cross_entropy(i.logits, i.labels, num_threads=threads),
        xf.softmax_cross_entropy(i.logits, i.dense, reduction="none", num_threads=threads),
        xf.softmax_cross_entropy(
            i.logits, i.labels, return_statistics=True, temperature=2.0, num_threads=threads
        ),
    ]


def _loss_and_grad(i: Inputs, threads: int | None) -> Any:
    in_place, elsewhere = i.logits.copy(), np.full_like(i.logits, np.nan)
    columns = i.logits.T
    return [
        xf.softmax_cross_entropy_grad(i.logits, i.labels, num_threads=threads),
        xf.softmax_cross_entropy_grad(in_place, i.labels, out=in_place, num_threads=threads),
        xf.softmax_cross_entropy_grad(
            i.logits,
            i.labels,
            weight=i.class_weight,
            sample_weight=i.sample_weight,
            label_smoothing=0.1,
            z_loss=1e-3,
            ignore_index=1,
            out=elsewhere,
            num_threads=threads,
        ),
        xf.softmax_cross_entropy_grad(i.logits, i.dense, reduction="sum", num_threads=threads),
        xf.softmax_cross_entropy_grad(columns, i.labels, axis=0, num_threads=threads),
        xf.softmax_cross_entropy_grad(
            i.logits,
            i.labels,
            return_statistics=("entropy", "target_log_probability"),
            reduction="none",
            grad_output=i.sample_weight,
            num_threads=threads,
        ),
    ]


def _halves(i: Inputs) -> xf.ClassStatistics:
    parts = [i.logits[:, :1], i.logits[:, 1:]]
    return xf.merge_class_statistics(
        xf.class_statistics(part, i.labels, first_class=first) for first, part in enumerate(parts)
    )


CALLS: dict[str, Call] = {
    "softmax_cross_entropy": _loss,
    "softmax_cross_entropy_grad": _loss_and_grad,
    "softmax_loss": lambda i, threads: xf.softmax_loss(i.logits, i.labels),
    "softmax": lambda i, threads: [
        xf.softmax(i.logits, num_threads=threads),
        xf.softmax(i.logits, axis=0, num_threads=threads),
    ],
    "log_softmax": lambda i, threads: xf.log_softmax(
        i.logits, out=np.empty_like(i.logits), num_threads=threads
    ),
    "logsumexp": lambda i, threads: xf.logsumexp(i.logits, num_threads=threads),
    "softmax_vjp": lambda i, threads: xf.softmax_vjp(i.probabilities, i.other, num_threads=threads),
    "log_softmax_vjp": lambda i, threads: xf.log_softmax_vjp(
        i.logits, i.other, num_threads=threads
    ),
    "softmax_cross_entropy_hvp": lambda i, threads: xf.softmax_cross_entropy_hvp(
        i.logits, i.labels, i.other, num_threads=threads
    ),
    "softmax_cross_entropy_hessian_diagonal": lambda i, threads: (
        xf.softmax_cross_entropy_hessian_diagonal(i.logits, i.labels, num_threads=threads)
    ),
    "softmax_cross_entropy_grad_targets": lambda i, threads: xf.softmax_cross_entropy_grad_targets(
        i.logits, num_threads=threads
    ),
    "softmax_entropy": lambda i, threads: xf.softmax_entropy(i.logits, num_threads=threads),
    "softmax_entropy_grad": lambda i, threads: xf.softmax_entropy_grad(
        i.logits, grad_output=2.0, num_threads=threads
    ),
    "softmax_cross_entropy_grad_hessian": lambda i, threads: xf.softmax_cross_entropy_grad_hessian(
        i.logits, i.labels, num_threads=threads
    ),
    "cross_entropy": lambda i, threads: xf.cross_entropy(i.probabilities, i.labels),
    "cross_entropy_grad": lambda i, threads: xf.cross_entropy_grad(i.probabilities, i.labels),
    "distillation_loss_grad": lambda i, threads: xf.distillation_loss_grad(
        i.logits, i.other, i.labels, temperature=2.0, num_threads=threads
    ),
    # Few rows and features, so that NumPy's matrix products have one way only to be summed.
    "sampled_softmax_loss_grad": lambda i, threads: xf.sampled_softmax_loss_grad(
        i.other[:1, :3],
        i.logits[:, :3],
        None,
        np.arange(1) + len(i.logits) // 2,
        num_sampled=1,
        sampler="uniform",
        rng=7,
        num_threads=threads,
    ),
    # The same: one feature, so that a logit is one product, and one row in a chunk.
    "linear_softmax_cross_entropy": lambda i, threads: xf.linear_softmax_cross_entropy(
        i.other[:, :1], i.logits[:1].T, None, i.labels, num_threads=threads
    ),
    "linear_softmax_cross_entropy_grad": lambda i, threads: xf.linear_softmax_cross_entropy_grad(
        i.other[:2, :1],
        i.logits[:1].T,
        None,
        i.labels[:2],
        chunk_rows=1,
        class_weight=i.class_weight,
        num_threads=threads,
    )[:1],
    "class_statistics": lambda i, threads: (
        xf.class_statistics(i.logits, i.labels, first_class=0).array
    ),
    "merge_class_statistics": lambda i, threads: _halves(i).array,
    "loss_from_statistics": lambda i, threads: xf.loss_from_statistics(_halves(i)),
    "grad_from_statistics": lambda i, threads: xf.grad_from_statistics(
        i.logits[:, :1], i.labels, _halves(i), first_class=0
    ),
    "get_include": lambda i, threads: xf.get_include(),
    "show_config": lambda i, threads: xf.show_config("dicts")["isa"]["active"],
}


def public_functions() -> set[str]:
    return {
        name
        for name in xf.__all__
        if callable(getattr(xf, name)) and not isinstance(getattr(xf, name), type)
    }


def bits(result: Any) -> Bits:
    """Every bit of a result: arrays, floats, and tuples and lists of them."""
    if result is None:
        return b""
    if isinstance(result, (tuple, list)):
        return b"".join(map(bits, result))
    if isinstance(result, str):
        return result.encode()
    return np.asarray(result).tobytes()
