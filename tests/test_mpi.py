"""Ranks with a range of the classes each: here threads that send as mpi4py's communicators do.

Knows: the public functions, what bad input must raise. Must not know: what ranks tell each other.
tests/frameworks/test_mpiexec.py runs processes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from xent_fast import mpi, reference, softmax_cross_entropy_grad

ROWS = 7
BLOCK = {np.float32: 2048, np.float64: 1024}
SECONDS = 20


class Ranks:
    """Communicators of as many threads, and how many collectives they took."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=SECONDS)
        self._sent: list[Any] = [None] * size
        self.size = size
        self.collectives = 0

    def run(self, work: Callable[[Any, int], Any]) -> list[Any]:
        """What each rank's work returns, or the error that it raises."""

        def one(rank: int) -> Any:
            try:
                return work(_Rank(self, rank), rank)
            except BaseException as error:
                return error

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(one, range(self.size)))


class _Rank:
    def __init__(self, ranks: Ranks, rank: int) -> None:
        self._ranks, self._rank = ranks, rank

    def Get_size(self) -> int:
        return self._ranks.size

    def allgather(self, sendobj: Any) -> list[Any]:
        ranks = self._ranks
        ranks._sent[self._rank] = sendobj
        ranks.collectives += self._rank == 0
        ranks._barrier.wait()
        everything = list(ranks._sent)
        ranks._barrier.wait()
        return everything

    def Allgather(self, sendbuf: np.ndarray, recvbuf: np.ndarray) -> None:
        recvbuf[...] = self.allgather(sendbuf.copy())

    def Allgatherv(self, sendbuf: np.ndarray, recvbuf: tuple[np.ndarray, list[int]]) -> None:
        place, counts = recvbuf
        everything = [sent.ravel() for sent in self.allgather(sendbuf.copy())]
        assert [len(sent) for sent in everything] == counts
        place[...] = np.concatenate(everything)


def shared_out(
    logits: np.ndarray, targets: np.ndarray, cuts: list[int], **options: Any
) -> tuple[list[Any], np.ndarray, Ranks]:
    """Every rank's loss, and the whole gradient; the last rank has the first classes."""
    classes = logits.shape[1]
    ranges = list(itertools.pairwise([0, *cuts, classes]))[::-1]
    ranks = Ranks(len(ranges))

    def work(comm: Any, rank: int) -> Any:
        first, end = ranges[rank]
        own = dict(options)
        if own.get("weight") is not None:
            own["weight"] = own["weight"][first:end]
        if own.get("out") is not None:
            own["out"] = own["out"][:, first:end]
        given = targets if targets.ndim == 1 else targets[:, first:end]
        return mpi.softmax_cross_entropy_grad(
            logits[:, first:end], given, comm, first_class=first, num_classes=classes, **own
        )

    results = ranks.run(work)
    for result in results:
        if isinstance(result, Exception):
            raise result
    grad = np.concatenate([r.grad for r in results[::-1]], axis=1)
    return [r.loss for r in results], grad, ranks


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum", "scale": 0.3},
    "none": {"reduction": "none", "temperature": 0.7},
    "ignored": {"ignore_index": 3},
    "every": {
        "ignore_index": 3,
        "label_smoothing": 0.1,
        "temperature": 1.5,
        "z_loss": 0.01,
        "weight": True,
        "sample_weight": True,
    },
    "dense": {"dense": True, "label_smoothing": 0.1},
}


def make_problem(name: str, classes: int, dtype: Any, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    options = dict(OPTIONS[name])
    logits = (3 * rng.standard_normal((ROWS, classes))).astype(dtype)
    targets: Any = rng.integers(0, classes, ROWS)
    targets[:2] = 3
    if options.pop("dense", False):
        targets = rng.random((ROWS, classes)).astype(dtype)
    if "weight" in options:
        options["weight"] = rng.random(classes) + 0.5
    if "sample_weight" in options:
        options["sample_weight"] = rng.random(ROWS) + 0.5
    return logits, targets, options


@pytest.mark.parametrize("name", OPTIONS)
def test_as_one_process(dtype: type, name: str) -> None:
    logits, targets, options = make_problem(name, 500, dtype)
    losses, grad, ranks = shared_out(logits, targets, [100, 100, 350], **options)
    want = reference.softmax_cross_entropy_grad(logits, targets, **options)
    assert ranks.collectives == 2  # the sizes and whether all is right; the statistics
    assert all(np.array_equal(loss, losses[0]) for loss in losses)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(losses[0], want.loss, rtol=4 * eps)
    np.testing.assert_allclose(grad, want.grad, rtol=0, atol=8 * eps * np.abs(want.grad).max())


def test_same_bits_where_ranges_end_at_blocks(dtype: type) -> None:
    block = BLOCK[dtype]
    logits, targets, options = make_problem("none", 3 * block + 5, dtype)
    losses, grad, _ = shared_out(logits, targets, [block, 2 * block], **options)
    want = softmax_cross_entropy_grad(logits, targets, **options)
    np.testing.assert_array_equal(losses[0], want.loss)
    np.testing.assert_array_equal(grad, want.grad)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_shards_of_16_bits(name: str, half: str) -> None:
    """The results of the same numbers in float32, the gradient rounded once; in place too."""
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), half, half))
    logits, targets, options = make_problem(name, 300, np.float32)
    logits = logits.astype(dtype)
    losses, grad, _ = shared_out(logits, targets, [50, 120], **options)
    wide = logits.astype(np.float32)
    want_losses, want, _ = shared_out(wide, targets, [50, 120], **options)
    np.testing.assert_array_equal(losses, want_losses)
    np.testing.assert_array_equal(grad.view(np.uint16), want.astype(dtype).view(np.uint16))
    for out in (np.empty(logits.shape, np.float32), logits):
        losses, grad, _ = shared_out(logits, targets, [50, 120], out=out, **options)
        np.testing.assert_array_equal(losses, want_losses)
        np.testing.assert_array_equal(grad, want.astype(out.dtype))
        np.testing.assert_array_equal(out, grad)


def test_loss_alone_and_shapes(dtype: type) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 60, 4)).astype(dtype)
    labels = rng.integers(0, 60, (2, 4))
    weights = rng.random((2, 4))
    want = softmax_cross_entropy_grad(
        logits, labels, axis=1, sample_weight=weights, reduction="none"
    )
    ranks = Ranks(2)

    def work(comm: Any, rank: int) -> Any:
        shard = logits[:, 30 * rank : 30 * (rank + 1)]
        options: dict[str, Any] = {
            "axis": 1,
            "sample_weight": weights,
            "reduction": "none",
            "first_class": 30 * rank,
            "num_classes": 60,
        }
        loss = mpi.softmax_cross_entropy(shard, labels, comm, **options)
        result = mpi.softmax_cross_entropy_grad(shard, labels, comm, out=shard, **options)
        assert result.grad is shard
        np.testing.assert_array_equal(result.loss, loss)
        return loss

    losses = ranks.run(work)
    np.testing.assert_allclose(losses[0], want.loss, rtol=1e-5)
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_allclose(logits, want.grad, atol=1e-6)


# --- errors ---------------------------------------------------------------------------------------


def raised_by_all(
    change: dict[str, Any],
    *,
    whose: int = 1,
    shards: tuple[tuple[int, int], ...] = ((0, 4), (4, 8), (8, 10)),
) -> set[tuple[type, str]]:
    """What ranks raise where one has other arguments; nothing may have been written."""
    ranks = Ranks(len(shards))
    outs = [np.full((2, end - first), 7.0) for first, end in shards]

    def work(comm: Any, rank: int) -> Any:
        first, end = shards[rank]
        arguments: dict[str, Any] = {
            "shard": np.zeros((2, end - first)),
            "targets": [0, 9],
            "first_class": first,
            "num_classes": 10,
            "out": outs[rank],
            "sample_weight": [1.0, 2.0],
        }
        arguments.update(change if rank == whose else {})
        shard, targets = arguments.pop("shard"), arguments.pop("targets")
        return mpi.softmax_cross_entropy_grad(shard, targets, comm, **arguments)

    results = ranks.run(work)
    assert all(isinstance(result, Exception) for result in results), results
    assert all((out == 7).all() for out in outs)
    return {(type(result), str(result)) for result in results}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"targets": [0, 10]}, IndexError, "rank 1: index 10 is out of bounds"),
        ({"targets": [0.0, 1.0]}, TypeError, "rank 1: .*integers"),
        ({"targets": [0, 8]}, ValueError, "targets differ between .* in row 1: 9, 8"),
        ({"shard": np.zeros((2, 4), int)}, TypeError, "rank 1: logits must be"),
        ({"shard": None}, TypeError, "rank 1: "),
        ({"out": np.zeros((2, 3))}, ValueError, "rank 1: .*out"),
        ({"axis": 2}, np.exceptions.AxisError, "rank 1: axis 2"),
        ({"temperature": -1.0}, ValueError, "rank 1: temperature"),
        ({"temperature": 2.0}, ValueError, "other options"),
        ({"ignore_index": 9}, ValueError, "targets differ between .* in row 1: 9, -1"),
        ({"sample_weight": [1.0, -1.0]}, ValueError, "rank 1: sample_weight must not be negative"),
        ({"z_loss": 0.1}, ValueError, "z_loss differs between rank 0 and rank 1: 0.0, 0.1"),
        ({"reduction": "sum"}, ValueError, "reduction differs .*'mean', 'sum'"),
        ({"scale": 2}, ValueError, "scale differs"),
        ({"sample_weight": [1.0, 3.0]}, ValueError, "sample_weight differs between rank 0 and"),
        ({"sample_weight": [1.0]}, ValueError, "rank 1: .*sample_weight"),
        ({"num_classes": None}, TypeError, "rank 1: num_classes"),
        ({"num_classes": 7}, ValueError, r"rank 1: .*\[4, 8\) does not lie in \[0, 7\)"),
        ({"first_class": 3}, ValueError, r"\[0, 4\) and \[3, 7\) overlap"),
        ({"first_class": 5}, ValueError, r"\[0, 4\) and \[5, 9\) leave classes out"),
    ],
)
def test_an_error_of_one_rank_is_everybodys(
    change: dict[str, Any], kind: type, message: str
) -> None:
    errors = raised_by_all(change)
    assert {error for error, _ in errors} == {kind}
    for _, text in errors:
        with pytest.raises(kind, match=message):
            raise kind(text)


def test_the_last_classes_are_missing() -> None:
    errors = raised_by_all({}, shards=((0, 4), (4, 8)))
    assert {kind for kind, _ in errors} == {ValueError}
    assert all("not of all, [0, 10)" in text for _, text in errors)


def test_an_error_of_another_kind() -> None:
    class Odd:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise OSError("the disk is away")

    errors = raised_by_all({"shard": Odd(), "out": None}, whose=2)
    assert errors == {(RuntimeError, "rank 2: the disk is away")}


def test_no_communicator() -> None:
    with pytest.raises(TypeError, match=r"communicator of mpi4py, as MPI\.COMM_WORLD, not int"):
        mpi.softmax_cross_entropy(
            np.zeros((1, 2)),
            [0],
            3,  # type: ignore[arg-type]
            first_class=0,
            num_classes=2,
        )


def test_logits_are_whole_after_an_error_of_another_rank() -> None:
    """In place too, though exponentials take the logits' place before everybody's are known."""
    shards = [np.full((2, 3), 7.0), np.full((2, 3), 7.0)]
    ranks = Ranks(2)

    def work(comm: Any, rank: int) -> Any:
        labels = [0, 5] if rank == 0 else [0, 6]
        return mpi.softmax_cross_entropy_grad(
            shards[rank], labels, comm, first_class=3 * rank, num_classes=6, out=shards[rank]
        )

    assert [type(error) for error in ranks.run(work)] == [IndexError] * 2
    assert all((shard == 7).all() for shard in shards)
    assert ranks.collectives == 2  # whether all is right; what is not


def test_memory_that_ends_between_the_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that cannot measure tells the others, which would wait for it."""
    measure = mpi.measure

    def fail(rows: Any, *arguments: Any, **options: Any) -> None:
        if rows.logits[0, 0] == 1:
            raise MemoryError("no workspace")
        measure(rows, *arguments, **options)

    monkeypatch.setattr(mpi, "measure", fail)

    def work(comm: Any, rank: int) -> Any:
        shard = np.full((2, 3), float(rank))
        return mpi.softmax_cross_entropy_grad(
            shard, [0, 5], comm, first_class=3 * rank, num_classes=6
        )

    errors = {(type(error), str(error)) for error in Ranks(2).run(work)}
    assert errors == {(MemoryError, "rank 1: no workspace")}


def test_room_for_all_statistics_is_taken_first() -> None:
    """What no rank has memory for is an error of all, before anything is written."""
    errors = raised_by_all({"num_classes": 1 << 58})
    assert {kind for kind, _ in errors} == {MemoryError}
    assert all(text.startswith("rank 1: ") for _, text in errors)


@pytest.mark.parametrize("stage", ["range_of", "measure"])
def test_a_rank_is_interrupted(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """It goes on as interrupted, the others with an error, and nobody waits."""
    whole = getattr(mpi, stage)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        result = whole(*arguments, **options)
        if threading.current_thread() is interrupted_thread[0]:
            raise KeyboardInterrupt
        return result

    interrupted_thread: list[Any] = [None]
    monkeypatch.setattr(mpi, stage, interrupted)

    def work(comm: Any, rank: int) -> Any:
        if rank == 1:
            interrupted_thread[0] = threading.current_thread()
        return mpi.softmax_cross_entropy_grad(
            np.zeros((2, 3)), [0, 5], comm, first_class=3 * rank, num_classes=9
        )

    results = [(type(error), str(error)) for error in Ranks(3).run(work)]
    told = (RuntimeError, "rank 1: KeyboardInterrupt")
    assert results == [told, (KeyboardInterrupt, ""), told]
