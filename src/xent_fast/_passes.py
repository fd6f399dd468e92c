"""What takes more than one pass over the logits: statistics by name.

Knows: which calls into the core make them up. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, loss_calls, softmax_calls
from xent_fast._result import (
    ChosenStatistics,
    LossAndChosenStatistics,
    LossGradAndChosenStatistics,
    RowStatistics,
)


class Arguments(NamedTuple):
    """A loss's arguments as they were given, in the core's order."""

    logits: ArrayLike
    targets: ArrayLike
    axis: SupportsIndex
    weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: SupportsIndex | None
    label_smoothing: float
    temperature: float
    z_loss: float
    reduction: str
    scale: float
    return_statistics: bool | Collection[str]
    num_threads: SupportsIndex | None


def loss(*values: Any) -> Any:
    """Return the loss, with statistics if they are asked for by name."""
    given = Arguments(*values)
    names = _names(given)
    if names is None:
        return _loss_alone(given)
    extra = _extra_statistics(given, names)
    result, rows = _loss_alone(given._replace(return_statistics=True))
    return LossAndChosenStatistics(result, _chosen(names, rows, extra))


def loss_and_grad(*values: Any) -> Any:
    """Return both, with statistics if they are asked for by name.

    The last values are `grad_output` and `out`.
    """
    *most, grad_output, out = values
    given = Arguments(*most)
    names = _names(given)
    if names is None:
        given = given._replace(return_statistics=bool(given.return_statistics))
        return loss_calls.compute_loss(True, *given, grad_output, out)
    extra = _extra_statistics(given, names)
    result = _loss_alone(given._replace(return_statistics=True))
    plain = given._replace(return_statistics=False)
    if out is None:
        grad = loss_calls.compute_loss(True, *plain, grad_output, None).grad
        return _together(names, result, extra, grad)
    # `out` is written last: nothing is left then that could fail
    together = _together(names, result, extra, out)
    loss_calls.compute_loss(True, *plain, grad_output, out)
    return together


def _loss_alone(given: Arguments) -> Any:
    return loss_calls.compute_loss(False, *given, None, None)


def _together(
    names: set[str], result: Any, extra: dict[str, NDArray[Any]], grad: NDArray[Any]
) -> Any:
    """What a caller gets of a loss with its statistics, and a gradient."""
    statistics = _chosen(names, result.statistics, extra)
    return LossGradAndChosenStatistics(result.loss, grad, statistics)


def _names(given: Arguments) -> set[str] | None:
    """The names of statistics that are asked for; None for anything else, whose truth counts."""
    asked = given.return_statistics
    if not isinstance(asked, (str, tuple, list, set, frozenset)):
        return None
    names = {asked} if isinstance(asked, str) else set(asked)
    for name in sorted(names - set(ChosenStatistics._fields), key=str):
        raise ValueError(
            f"return_statistics must be a bool or names among {', '.join(ChosenStatistics._fields)}"
            f", not {name!r}"
        )
    return names


def _place(
    given: Arguments, out: NDArray[np.floating[Any]] | None
) -> tuple[NDArray[Any], int, tuple[int, ...]]:
    """The logits as an array, the class axis, and their shape without it."""
    logits = arguments.checked_floats(given.logits, "logits", out)
    axis = arguments.checked_axis(given.axis, logits, "logits")
    return logits, axis, logits.shape[:axis] + logits.shape[axis + 1 :]


def _extra_statistics(given: Arguments, names: set[str]) -> dict[str, NDArray[Any]]:
    """Those that the loss does not learn: from a pass without options and, for entropies, one more.

    Every option but the temperature leaves the softmax as it is.
    """
    extra: dict[str, NDArray[Any]] = {}
    if not names & {"entropy", "target_log_probability"}:
        return extra
    logits, axis, row_shape = _place(given, None)
    targets = arguments.checked_targets(given.targets, logits, row_shape, "logits", axis)
    ignore_index = given.ignore_index
    if targets.shape == logits.shape:
        targets = targets.argmax(axis) if targets.size else np.zeros(row_shape, np.intp)
        ignore_index = None
    plain = Arguments(
        logits, targets, axis, None, None, ignore_index, 0.0, given.temperature, 0.0, "none",
        1.0, True, given.num_threads,
    )  # fmt: skip
    losses, rows = _loss_alone(plain)
    if "target_log_probability" in names:
        extra["target_log_probability"] = np.negative(losses, out=losses)
    if "entropy" in names:
        extra["entropy"] = softmax_calls.entropy(
            logits, axis, None, given.temperature, "none", 1.0, given.num_threads
        )
    for values in extra.values():
        values[rows.prediction < 0] = np.nan
    return extra


def _chosen(
    names: set[str], rows: RowStatistics[Any], extra: dict[str, NDArray[Any]]
) -> ChosenStatistics[Any]:
    usual = {name: value for name, value in rows._asdict().items() if name in names}
    return ChosenStatistics(**usual, **extra)
