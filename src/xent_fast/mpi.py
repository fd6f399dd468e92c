"""The loss where MPI processes have a range of the classes each, on mpi4py.

    grad = softmax_cross_entropy_grad(shard, labels, comm, first_class=first, num_classes=classes)

A process (rank) has the logits of its own classes, of the same rows as all others. What they say of
each row is sent to all by one collective; loss and gradient follow from that.

Knows: what ranks tell each other; that an error of one is everybody's.
Must not know: what statistics hold; mpi4py itself, whose communicators come from the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, options
from xent_fast._classes import (
    ClassStatistics,
    Range,
    loss_from_statistics,
    measured,
    merge_class_statistics,
    rows_of_range,
    written,
)
from xent_fast._result import LossAndGrad

__all__ = ["Communicator", "softmax_cross_entropy", "softmax_cross_entropy_grad"]

FloatArray = NDArray[np.floating[Any]]
Reduction = Literal["mean", "sum", "none"]


class Communicator(Protocol):
    """What is asked of a communicator: mpi4py's have it."""

    def allgather(self, sendobj: Any) -> list[Any]:
        """Send an object to all ranks.

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
    shard : array_like with a class axis, float32 or float64
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
        On all ranks, if one has met an error of another kind.

    See Also
    --------
    softmax_cross_entropy_grad : The gradient besides, with an example.
    """
    ready, everybody = _exchanged(
        comm,
        lambda: _Ready.of(
            (shard, targets, axis, weight),
            (first_class, num_classes, label_smoothing, temperature, ignore_index),
            (sample_weight, z_loss, reduction, scale),
        ),
    )
    return ready.in_shape(loss_from_statistics(everybody, **ready.settling))


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

    Every rank of the communicator makes this call, with the same rows and options. The shard is
    read twice and the gradient is written once.

    Parameters
    ----------
    shard, targets, comm, first_class, num_classes, axis, weight
        As for `softmax_cross_entropy` of this module.
    sample_weight, ignore_index, label_smoothing, temperature, z_loss, reduction, scale
        As for `xent_fast.softmax_cross_entropy_grad`, the same on every rank.
    out : ndarray of the shard's shape and dtype, optional
        Takes the gradient. May be `shard`.

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
        On all ranks, if one has met an error of another kind.

    See Also
    --------
    xent_fast.class_statistics : For other ways of sending, and what is sent.

    Notes
    -----
    One ``allgather`` a call takes 32 bytes a row and 80 for each block of 2,048 classes (of 1,024
    in float64) to every rank. What happens after it needs no other rank.

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
    ready, everybody = _exchanged(
        comm,
        lambda: _Ready.of(
            (shard, targets, axis, weight, out),
            (first_class, num_classes, label_smoothing, temperature, ignore_index),
            (sample_weight, z_loss, reduction, scale),
            with_grad=True,
        ),
    )
    loss, grad = written(ready.rows, everybody, first_class, **ready.settling)
    return LossAndGrad(ready.in_shape(loss), grad)


class _Ready(NamedTuple):
    """What a rank has before the others are asked: everything checked, everything allocated."""

    rows: Range
    mine: ClassStatistics
    settling: dict[str, Any]  # the options that statistics do not hold; weights as rows
    row_shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        arrays: tuple[Any, ...],
        measuring: tuple[Any, ...],
        settling: tuple[Any, ...],
        *,
        with_grad: bool = False,
    ) -> _Ready:
        rows = rows_of_range(*arrays, with_grad=with_grad)
        first_class, num_classes, *others = measuring
        options.checked_integer(num_classes, "num_classes")
        mine = measured(rows, first_class, num_classes, *others)
        sample_weight, z_loss, reduction, scale = settling
        _, _, z_loss, scale = options.checked_options(0.0, 1.0, z_loss, reduction, scale)
        row_shape = rows.moved.shape[:-1]
        if sample_weight is not None:
            weights = arguments.checked_weights(sample_weight, row_shape, "sample_weight")
            sample_weight = np.array(weights, np.float64).reshape(-1)
        options_of_loss = {
            "sample_weight": sample_weight,
            "z_loss": z_loss,
            "reduction": reduction,
            "scale": scale,
        }
        return cls(rows, mine, options_of_loss, row_shape)

    def in_shape(self, loss: Any) -> Any:
        """A loss or a row's losses, as the shard's rows lie."""
        return loss.reshape(self.row_shape) if isinstance(loss, np.ndarray) else loss


class _Message(NamedTuple):
    """What a rank tells all others: statistics and options, or an error."""

    array: NDArray[np.float64] | None
    options: dict[str, Any]
    error: tuple[str, str] | None  # the name of its class, what it says


def _exchanged(comm: Communicator, prepare: Callable[[], _Ready]) -> tuple[_Ready, ClassStatistics]:
    """Own part and the statistics of all classes, by the one collective."""
    if not callable(getattr(comm, "allgather", None)):
        raise TypeError(
            f"comm must be a communicator of mpi4py, as MPI.COMM_WORLD, not {type(comm).__name__}"
        )
    ready, own_error = None, None
    try:
        ready = prepare()
        message = _Message(ready.mine.array, _to_compare(ready.settling), None)
    except Exception as error:
        own_error = error
        message = _Message(None, {}, (_class_to_tell(error), str(error)))
    messages: list[_Message] = comm.allgather(message)
    for rank, told in enumerate(messages):
        if told.error is not None:
            kind, text = told.error
            raise ERRORS[kind](f"rank {rank}: {text}") from own_error
    first = messages[0]
    for rank, told in enumerate(messages):
        for name, value in told.options.items():
            if value != first.options[name]:
                values = "" if name == "sample_weight" else f": {first.options[name]!r}, {value!r}"
                raise ValueError(f"{name} differs between rank 0 and rank {rank}{values}")
    assert ready is not None
    return ready, merge_class_statistics(
        ClassStatistics.from_array(told.array) for told in messages if told.array is not None
    )


# Other errors become a RuntimeError: not every exception can be made from what it says.
ERRORS: dict[str, Callable[[str], Exception]] = {
    each.__name__: each
    for each in (np.exceptions.AxisError, IndexError, MemoryError, TypeError, ValueError)
} | {"RuntimeError": RuntimeError}


def _class_to_tell(error: Exception) -> str:
    return next((c.__name__ for c in type(error).__mro__ if c.__name__ in ERRORS), "RuntimeError")


def _to_compare(settling: dict[str, Any]) -> dict[str, Any]:
    """The options, with a digest of the weights in their place."""
    weights = settling["sample_weight"]
    digest = None if weights is None else hashlib.blake2b(weights.tobytes()).digest()
    return settling | {"sample_weight": digest}
