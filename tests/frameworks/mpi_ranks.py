"""What one rank does under mpiexec: test_mpiexec.py starts it and reads what rank 0 prints.

    mpiexec -n 3 python tests/frameworks/mpi_ranks.py

Every check is of this rank; rank 0 prints one line a check when all ranks have passed it.

Knows: mpi4py, the public functions. Must not know: pytest.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from xent_fast import mpi, reference, softmax_cross_entropy_grad

COMM = MPI.COMM_WORLD
Options = dict[str, Any]


def own_range(classes: int, block: int = 1) -> tuple[int, int]:
    """This rank's classes, the first rank having the last; borders at multiples of `block`."""
    place = COMM.size - 1 - COMM.rank
    first, end = (block * (classes // block * k // COMM.size) for k in (place, place + 1))
    return first, classes if place == COMM.size - 1 else end


def call(logits: np.ndarray, targets: Any, block: int = 1, **options: Any) -> Any:
    """Loss, own gradient and own range, in place in a copy."""
    first, end = own_range(logits.shape[1], block)
    own = dict(options)
    if "weight" in own:
        own["weight"] = own["weight"][first:end]
    shard = logits[:, first:end].copy()
    result = mpi.softmax_cross_entropy_grad(
        shard, targets, COMM, first_class=first, num_classes=logits.shape[1], out=shard, **own
    )
    assert result.grad is shard
    return result.loss, result.grad, slice(first, end)


def same_everywhere(loss: Any) -> bool:
    return len(set(COMM.allgather(np.asarray(loss).tobytes()))) == 1


def as_one_process() -> None:
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((40, 5000))).astype(np.float32)
    targets = rng.integers(0, 5000, 40)
    every: Options = {
        "ignore_index": int(targets[0]),
        "label_smoothing": 0.1,
        "temperature": 1.3,
        "z_loss": 1e-3,
        "weight": rng.random(5000) + 0.5,
        "sample_weight": rng.random(40) + 0.5,
    }
    for options in ({}, {"reduction": "none"}, every):
        loss, grad, own = call(logits, targets, **options)
        want = reference.softmax_cross_entropy_grad(logits, targets, **options)
        assert same_everywhere(loss)
        np.testing.assert_allclose(loss, want.loss, rtol=5e-7)
        bound = 1e-6 * np.abs(want.grad).max()
        np.testing.assert_allclose(grad, want.grad[:, own], rtol=0, atol=bound)


def same_bits_at_blocks() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((8, 7 * 2048 + 9)).astype(np.float32)
    targets = rng.integers(0, logits.shape[1], 8)
    loss, grad, own = call(logits, targets, 2048, reduction="none")
    want = softmax_cross_entropy_grad(logits, targets, reduction="none")
    np.testing.assert_array_equal(loss, want.loss)
    np.testing.assert_array_equal(grad, want.grad[:, own])


def tiny_loss() -> None:
    logits = np.zeros((1, 100), np.float32)
    logits[0, 70] = 34.2
    want = reference.softmax_cross_entropy_grad(logits, [70])
    loss, grad, own = call(logits, [70])
    assert abs(loss - want.loss) < 1e-6 * want.loss
    if own.start <= 70 < own.stop:
        error = grad[0, 70 - own.start] - want.grad[0, 70]
        assert abs(error) <= 4 * np.spacing(np.float32(1.4e-13)), error


def raises(kind: type[BaseException], part: str, work: Callable[[], Any]) -> None:
    try:
        work()
    except kind as error:
        told = str(error)
    else:
        told = "nothing"
    assert part in told, (part, told)


def errors_are_everybodys() -> None:
    logits, last = np.zeros((2, 12)), COMM.size - 1
    is_last = COMM.rank == last
    raises(
        IndexError,
        f"rank {last}: index 12 is out of bounds",
        lambda: call(logits, [0, 12 if is_last else 1]),
    )
    raises(
        ValueError,
        f"z_loss differs between rank 0 and rank {last}",
        lambda: call(logits, [0, 1], z_loss=0.5 if is_last else 0.0),
    )
    out = np.zeros((2, 3))

    def ranges(first: int, classes: int) -> Any:
        return mpi.softmax_cross_entropy_grad(
            np.zeros((2, 3)), [0, 1], COMM, first_class=first, num_classes=classes, out=out
        )

    raises(ValueError, "overlap", lambda: ranges(2 * COMM.rank, 3 * COMM.size))
    raises(ValueError, "leave classes out", lambda: ranges(4 * COMM.rank, 4 * COMM.size))
    raises(ValueError, "not of all", lambda: ranges(3 * COMM.rank, 3 * COMM.size + 1))
    assert not out.any()
    call(logits, [0, 1])  # everybody is still in step


def nobody_waits() -> None:
    """For a rank that is interrupted, or has no memory for what all would send."""
    logits, is_last = np.zeros((2, 12)), COMM.rank == COMM.size - 1

    class Interrupted:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    raises(
        KeyboardInterrupt if is_last else RuntimeError,
        "" if is_last else f"rank {COMM.size - 1}: KeyboardInterrupt",
        lambda: call(logits, Interrupted() if is_last else [0, 1]),
    )
    first, end = own_range(12)
    raises(
        MemoryError,
        f"rank {COMM.size - 1}: ",
        lambda: mpi.softmax_cross_entropy(
            logits[:, first:end],
            [0, 1],
            COMM,
            first_class=first,
            num_classes=1 << 58 if is_last else 12,
        ),
    )
    call(logits, [0, 1])  # everybody is still in step


def memory_is_the_shards() -> None:
    """Beside the shard, its gradient being in place: what is sent, a few times over."""
    first, end = own_range(120_000)
    shard = np.ones((256, end - first), np.float32)
    targets = np.zeros(256, int)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options: Options = {"first_class": first, "num_classes": 120_000, "out": shard}
    mpi.softmax_cross_entropy_grad(shard, targets, COMM, **options)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    sent = 256 * (32 * COMM.size + 80 * (120_000 // 2048 + COMM.size))
    assert grown < 8 * sent < shard.nbytes / 3, (grown, sent, shard.nbytes)


CHECKS = (
    as_one_process,
    same_bits_at_blocks,
    tiny_loss,
    errors_are_everybodys,
    nobody_waits,
    memory_is_the_shards,
)


def main() -> None:
    for check in CHECKS:
        try:
            check()
        except BaseException as error:
            print(f"rank {COMM.rank}, {check.__name__}: {error!r}", file=sys.stderr, flush=True)
            COMM.Abort(1)
        COMM.barrier()
        if COMM.rank == 0:
            print(f"passed {check.__name__} on {COMM.size}", flush=True)


if __name__ == "__main__":
    main()
