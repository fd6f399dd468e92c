"""The loss where MPI processes have a range of the classes each, on mpi4py.

    grad = softmax_cross_entropy_grad(shard, labels, comm, first_class=first, num_classes=classes)

A process (rank) has the logits of its own classes, of the same rows as all others. What they say of
each row is sent to all by one exchange; loss and gradient follow from that.

Knows: what ranks tell each other; that an error of one is everybody's.
Must not know: what statistics hold; mpi4py itself, whose communicators come from the caller.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, options
from xent_fast._class_ranges import (
    Range,
    described,
    losses,
    measure,
    range_of,
    row_weights,
    settled,
    written,
)
from xent_fast._class_statistics import (
    HEADER,
    ClassStatistics,
    merge_class_statistics,
    most_numbers,
    without_rows,
)
from xent_fast._result import LossAndGrad

__all__ = ["Communicator", "softmax_cross_entropy", "softmax_cross_entropy_grad"]

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
Reduction = Literal["mean", "sum", "none"]


class Communicator(Protocol):
    """What is asked of a communicator: mpi4py's have it."""

    def Get_size(self) -> int:
        """Return the number of ranks."""

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> object:
        """Send an array to all ranks, all of one size.

        Parameters
        ----------
        sendbuf, recvbuf : ndarray
            What this rank sends; the place of what each has sent, in the order of the ranks.
        """

    def Allgatherv(self, sendbuf: Any, recvbuf: Any) -> object:
        """Send an array to all ranks.

        Parameters
        ----------
        sendbuf : ndarray
            What this rank sends.
        recvbuf : tuple
            The place of what each has sent, and how many numbers that is.
        """

    def allgather(self, sendobj: Any) -> list[Any]:
        """Send an object to all ranks; used where one has met an error.

        Parameters
        ----------
        sendobj : object
            What this rank sends.

        Returns
        -------
        list
            What each rank has sent, in the order of the ranks.
        """


def softmax_cross_entropy(
    shard: ArrayLike,
    targets: ArrayLike,
    comm: Communicator,
    *,
    first_class: SupportsIndex,
    num_classes: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    scale: float = 1.0,
) -> Any:
    """Softmax cross-entropy of logits whose classes are shared out among MPI processes.

    Every rank of the communicator makes this call, with the same rows and options.

    Parameters
    ----------
    shard : array_like with a class axis, float16, bfloat16, float32 or float64
        Logits in nats of this rank's classes, of which there may be none.
    targets : array_like
        Class indices among all classes, the same on every rank; or dense targets of this rank's
        classes.
    comm : Communicator
        A communicator of mpi4py, as ``MPI.COMM_WORLD``: any object with its ``allgather``.
    first_class : int
        The first of this rank's classes.
    num_classes : int
        How many classes there are in all. Each lies on exactly one rank; ranks may be in any order.
    axis : int, default -1
        The class axis.
    weight : array_like of shape (classes of this rank,), optional
        Class weights of this rank's classes. All ranks have them or none.
    sample_weight, ignore_index, label_smoothing, temperature, z_loss, reduction, scale
        As for `xent_fast.softmax_cross_entropy`, the same on every rank.

    Returns
    -------
    float or ndarray of the shard's shape without the class axis
        The loss over all classes in nats: the same bits on every rank.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As `xent_fast.softmax_cross_entropy`, and if ranges of classes overlap or leave classes out,
        or ranks differ in rows or options. An error on one rank is raised on all of them; the
        message names the rank.
    RuntimeError
        On all ranks, if one has met an error of another kind; on the others, if one was interrupted
        (Ctrl-C) before it has sent its statistics.

    See Also
    --------
    softmax_cross_entropy_grad : The gradient besides, with an example.
    """
    ready, told = _agreed(
        comm,
        lambda: _Ready.of(
            comm.Get_size(),
            (shard, targets, axis, weight),
            (first_class, num_classes, label_smoothing, temperature, ignore_index),
            (sample_weight, z_loss, reduction, scale),
        ),
    )
    everybody = _exchanged(comm, ready, told, leaves_exponentials=False)
    return ready.in_shape(losses(everybody, settled(everybody, **ready.settling)))


def softmax_cross_entropy_grad(
    shard: ArrayLike,
    targets: ArrayLike,
    comm: Communicator,
    *,
    first_class: SupportsIndex,
    num_classes: SupportsIndex,
    axis: SupportsIndex = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    scale: float = 1.0,
    out: FloatArray | None = None,
) -> LossAndGrad[Any, Any]:
    """Softmax cross-entropy over all ranks' classes, and its gradient for this rank's logits.

    Every rank of the communicator makes this call, with the same rows and options. The exponentials
    of the shard are taken once: they wait in the gradient's place for what the others say. Where
    that has 16 bits they are taken twice.

    Parameters
    ----------
    shard, targets, comm, first_class, num_classes, axis, weight
        As for `softmax_cross_entropy` of this module.
    sample_weight, ignore_index, label_smoothing, temperature, z_loss, reduction, scale
        As for `xent_fast.softmax_cross_entropy_grad`, the same on every rank.
    out : ndarray of the shard's shape and dtype, optional
        Takes the gradient. May be `shard`; for 16 bits also an array of float32.

    Returns
    -------
    loss : float or ndarray of the shard's shape without the class axis
        The loss over all classes in nats: the same bits on every rank.
    grad : ndarray of the shard's shape
        The gradient with respect to `shard`: `out`, or a new array.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As `xent_fast.softmax_cross_entropy_grad`, and if ranges of classes overlap or leave classes
        out, or ranks differ in rows or options. An error on one rank is raised on all of them,
        before any has written to `out`; the message names the rank.
    RuntimeError
        On all ranks, if one has met an error of another kind; on the others, if one was interrupted
        (Ctrl-C) before it has sent its statistics.

    See Also
    --------
    xent_fast.class_statistics : For other ways of sending, and what is sent.

    Notes
    -----
    One exchange a call, in the two steps of mpi4py's own ``allgather``. The first tells how much
    will be sent and whether all is right; nothing is written before that. The second takes 32 bytes
    a row and 80 for each block of 2,048 classes (of 1,024 in float64) to every rank. Room for all
    that is taken before the first. What happens after the second needs no other rank: should one
    have no memory left to lay as much side by side, it alone raises MemoryError, `out` part-way.

    Examples
    --------
    Two ranks with half of the classes each; run by ``mpiexec -n 2 python this_file.py``::

        from mpi4py import MPI

        from xent_fast.mpi import softmax_cross_entropy_grad

        comm = MPI.COMM_WORLD
        first, end = comm.rank * classes // comm.size, (comm.rank + 1) * classes // comm.size
        logits = hidden @ weight[first:end].T
        loss, grad = softmax_cross_entropy_grad(
            logits, labels, comm, first_class=first, num_classes=classes, out=logits
        )
        grad_hidden = comm.allreduce(grad @ weight[first:end])
    """
    ready, told = _agreed(
        comm,
        lambda: _Ready.of(
            comm.Get_size(),
            (shard, targets, axis, weight, out),
            (first_class, num_classes, label_smoothing, temperature, ignore_index),
            (sample_weight, z_loss, reduction, scale),
            with_grad=True,
        ),
    )
    everybody = _exchanged(comm, ready, told, leaves_exponentials=True)
    loss, grad = written(
        ready.measured_rows, everybody, first_class, **ready.settling, has_exponentials=True
    )
    return LossAndGrad(ready.in_shape(loss), grad)


class _Ready(NamedTuple):
    """What a rank has before the others are asked: everything checked, everything allocated."""

    rows: Range
    mine: ClassStatistics  # before its rows are measured
    everybodys: Float64Array  # room for all ranks' statistics, however the classes are cut
    ignore_index: int | None
    settling: dict[str, Any]  # the options that statistics do not hold; weights as rows
    row_shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        ranks: int,
        arrays: tuple[Any, ...],
        measuring: tuple[Any, ...],
        settling: tuple[Any, ...],
        *,
        with_grad: bool = False,
    ) -> _Ready:
        rows = range_of(*arrays, with_grad=with_grad)
        first_class, num_classes, label_smoothing, temperature, ignore_index = measuring
        total = options.checked_integer(num_classes, "num_classes")
        mine = described(rows, first_class, num_classes, label_smoothing, temperature, ignore_index)
        sample_weight, z_loss, reduction, scale = settling
        _, _, z_loss, scale = options.checked_options(0.0, 1.0, z_loss, reduction, scale)
        row_shape = rows.moved.shape[:-1]
        sample_weight = row_weights(sample_weight, row_shape)
        if sample_weight is not None and reduction == "mean":
            arguments.checked_signs(sample_weight.reshape(row_shape), "sample_weight")
        options_of_loss = {
            "sample_weight": sample_weight,
            "z_loss": z_loss,
            "reduction": reduction,
            "scale": scale,
        }
        ignored = None if ignore_index is None else operator.index(ignore_index)
        room = np.empty(most_numbers(mine.rows, ranks, total))
        return cls(rows, mine, room, ignored, options_of_loss, row_shape)

    def in_shape(self, loss: Any) -> Any:
        """A loss or a row's losses, as the shard's rows lie."""
        return loss.reshape(self.row_shape) if isinstance(loss, np.ndarray) else loss

    @property
    def measured_rows(self) -> Range:
        """The rows with exponentials in the logits' place."""
        return self.rows._replace(logits=self.rows.grad)

    @property
    def labels(self) -> NDArray[Any] | None:
        """Class indices that count, the others -1; None for dense targets."""
        if self.rows.is_dense:
            return None
        if self.ignore_index is None:
            return self.rows.targets.astype(np.int64)
        is_ignored = self.rows.targets == self.ignore_index
        return np.where(is_ignored, -1, self.rows.targets.astype(np.int64))


# --- what ranks tell each other -------------------------------------------------------------------

REDUCTIONS = ("mean", "sum", "none")
# Of these all ranks must have the same. Of arrays a digest is sent.
SAME = ("rows", "z_loss", "reduction", "scale", "sample_weight", "targets")
OPTIONS_AT = HEADER + 2


def _hello(ready: _Ready) -> Float64Array:
    """What a rank tells of its arguments: the first row of its statistics, then `SAME`."""
    settling, labels = ready.settling, ready.labels
    told = np.zeros(OPTIONS_AT + len(SAME))
    told[:OPTIONS_AT] = ready.mine.array[0, :OPTIONS_AT]
    told[OPTIONS_AT:] = (
        ready.mine.rows,
        settling["z_loss"],
        REDUCTIONS.index(settling["reduction"]),
        settling["scale"],
        _digest(settling["sample_weight"]),
        _digest(labels),
    )
    return told


def _digest(array: NDArray[Any] | None) -> int:
    """Six bytes, which are a double without rounding."""
    if array is None:
        return 0
    return int.from_bytes(hashlib.blake2b(array.tobytes(), digest_size=6).digest())


def _agreed(comm: Communicator, prepare: Callable[[], _Ready]) -> tuple[_Ready, Float64Array]:
    """Own part, and what all have told; or an error on all ranks, before anything is written."""
    for name in ("allgather", "Allgather", "Allgatherv"):
        if not callable(getattr(comm, name, None)):
            raise TypeError(
                f"comm must be a communicator of mpi4py, as MPI.COMM_WORLD, "
                f"not {type(comm).__name__}"
            )
    ready, own_error, mine = None, None, np.zeros(OPTIONS_AT + len(SAME))
    try:
        ready = prepare()
        mine = _hello(ready)
    except BaseException as error:  # Ctrl-C too: the others would wait for this rank
        own_error, mine[0] = error, 0
    size = comm.Get_size()
    told = np.empty((size, len(mine)))
    comm.Allgather(mine, told)
    if ready is None or not told[:, 0].all():  # statistics have a version there
        raise _error_of_all(comm, own_error)
    together = merge_class_statistics(without_rows(one[:OPTIONS_AT]) for one in told)
    for rank, one in enumerate(told):
        for name, value, other in zip(SAME, told[0, OPTIONS_AT:], one[OPTIONS_AT:], strict=True):
            if value.tobytes() != other.tobytes():
                raise _difference(comm, ready, rank, name, (value, other))
    settled(together, None, *(ready.settling[name] for name in ("z_loss", "reduction", "scale")))
    return ready, told


def _difference(
    comm: Communicator, ready: _Ready, rank: int, name: str, values: tuple[Any, Any]
) -> ValueError:
    """What rank 0 and another do not have in common; class indices are sent to say in which row."""
    where, shown = "", ", ".join(str(float(value)) for value in values)
    if name == "rows":
        shown = ", ".join(str(int(value)) for value in values)
    elif name == "reduction":
        shown = ", ".join(repr(REDUCTIONS[int(value)]) for value in values)
    elif name == "sample_weight":
        shown = ""
    elif name == "targets":
        labels = comm.allgather(ready.labels)
        row = int(np.flatnonzero(labels[0] != labels[rank])[0])
        where, shown = f" in row {row}", f"{labels[0][row]}, {labels[rank][row]}"
    verb = "differ" if name in ("rows", "targets") else "differs"
    return ValueError(
        f"{name} {verb} between rank 0 and rank {rank}{where}{': ' if shown else ''}{shown}"
    )


def _exchanged(
    comm: Communicator, ready: _Ready, told: Float64Array, *, leaves_exponentials: bool
) -> ClassStatistics:
    """The statistics of all classes, measured and sent."""
    mine, own_error = ready.mine, None
    try:
        measure(
            ready.rows,
            mine,
            ready.ignore_index,
            ready.settling["z_loss"],
            leaves_exponentials=leaves_exponentials,
        )
    except BaseException as error:
        own_error = error
        mine.array.fill(np.nan)
    shapes = [(1 + mine.rows, without_rows(one[:OPTIONS_AT]).array.shape[1]) for one in told]
    counts = [math.prod(shape) for shape in shapes]
    everything = ready.everybodys[: sum(counts)]
    comm.Allgatherv(mine.array, (everything, counts))
    parts = [
        part.reshape(shape)
        for part, shape in zip(np.split(everything, np.cumsum(counts)[:-1]), shapes, strict=True)
    ]
    if any(np.isnan(part[0, 0]) for part in parts):
        raise _error_of_all(comm, own_error)
    return merge_class_statistics(map(ClassStatistics, parts))


# Other errors become a RuntimeError: not every exception can be made from what it says.
ERRORS: dict[str, Callable[[str], Exception]] = {
    each.__name__: each
    for each in (np.exceptions.AxisError, IndexError, MemoryError, TypeError, ValueError)
} | {"RuntimeError": RuntimeError}


def _error_of_all(comm: Communicator, own: BaseException | None) -> BaseException:
    """The error of the first rank that has one, with its rank; or what has interrupted this one."""
    mine = None if own is None else (_class_to_tell(own), str(own) or type(own).__name__)
    everybodys = comm.allgather(mine)
    if own is not None and not isinstance(own, Exception):
        return own
    for rank, told in enumerate(everybodys):
        if told is not None:
            kind, text = told
            error = ERRORS[kind](f"rank {rank}: {text}")
            error.__cause__ = own
            return error
    raise AssertionError("no rank has an error")


def _class_to_tell(error: BaseException) -> str:
    return next((c.__name__ for c in type(error).__mro__ if c.__name__ in ERRORS), "RuntimeError")
