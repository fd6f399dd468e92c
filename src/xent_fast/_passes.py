"""What takes more than one pass over the logits: statistics by name.

Knows: which calls make them up. Must not know: mathematics, memory layouts, threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._binding import arguments, softmax_calls
from xent_fast._result import (
    ChosenStatistics,
    LossAndChosenStatistics,
    LossGradAndChosenStatistics,
    RowStatistics,
)


def loss(
    loss_alone: Callable[..., Any],
    logits: ArrayLike,
    targets: ArrayLike,
    asked: object,
    **options: Any,
) -> Any:
    """Return the loss, with statistics if they are asked for by name.

    `loss_alone` computes it; `asked` is what its caller gave for `return_statistics`.
    """
    names = _names(asked)
    if names is None:
        return loss_alone(logits, targets, return_statistics=bool(asked), **options)
    extra = _extra_statistics(loss_alone, logits, targets, names, **options)
    result, rows = loss_alone(logits, targets, return_statistics=True, **options)
    return LossAndChosenStatistics(result, _chosen(names, rows, extra))


def loss_and_grad(
    loss_alone: Callable[..., Any],
    both: Callable[..., Any],
    logits: ArrayLike,
    targets: ArrayLike,
    asked: object,
    grad_output: ArrayLike | None,
    out: NDArray[np.floating[Any]] | None,
    **options: Any,
) -> Any:
    """Return both, with statistics if they are asked for by name."""
    names = _names(asked)
    if names is None:
        return both(
            logits,
            targets,
            return_statistics=bool(asked),
            grad_output=grad_output,
            out=out,
            **options,
        )
    extra = _extra_statistics(loss_alone, logits, targets, names, **options)
    result = loss_alone(logits, targets, return_statistics=True, **options)
    if out is None:
        grad = both(logits, targets, grad_output=grad_output, **options).grad
        return _together(names, result, extra, grad)
    # `out` is written last: nothing is left then that could fail
    together = _together(names, result, extra, out)
    both(logits, targets, grad_output=grad_output, out=out, **options)
    return together


def _together(
    names: set[str], result: Any, extra: dict[str, NDArray[Any]], grad: NDArray[Any]
) -> Any:
    """What a caller gets of a loss with its statistics, and a gradient."""
    statistics = _chosen(names, result.statistics, extra)
    return LossGradAndChosenStatistics(result.loss, grad, statistics)


def _names(asked: object) -> set[str] | None:
    """The names of statistics that are asked for; None for anything else, whose truth counts."""
    if not isinstance(asked, (str, tuple, list, set, frozenset)):
        return None
    names = {asked} if isinstance(asked, str) else set(asked)
    for name in sorted(names - set(ChosenStatistics._fields), key=str):
        raise ValueError(
            f"return_statistics must be a bool or names among {', '.join(ChosenStatistics._fields)}"
            f", not {name!r}"
        )
    return names


def _extra_statistics(
    loss_alone: Callable[..., Any],
    given_logits: ArrayLike,
    given_targets: ArrayLike,
    names: set[str],
    *,
    axis: SupportsIndex,
    ignore_index: SupportsIndex | None,
    temperature: float,
    num_threads: SupportsIndex | None,
    **_others: Any,
) -> dict[str, NDArray[Any]]:
    """Those that the loss does not learn: from a pass without options and, for entropies, one more.

    Every option but the temperature leaves the softmax as it is.
    """
    extra: dict[str, NDArray[Any]] = {}
    if not names & {"entropy", "target_log_probability"}:
        return extra
    logits = arguments.checked_floats(given_logits, "logits", None)
    axis = arguments.checked_axis(axis, logits, "logits")
    row_shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    targets = arguments.checked_targets(given_targets, logits, row_shape, "logits", axis)
    if targets.shape == logits.shape:
        targets = targets.argmax(axis) if targets.size else np.zeros(row_shape, np.intp)
        ignore_index = None
    losses, rows = loss_alone(
        logits, targets, axis=axis, ignore_index=ignore_index, temperature=temperature,
        reduction="none", return_statistics=True, num_threads=num_threads,
    )  # fmt: skip
    if "target_log_probability" in names:
        extra["target_log_probability"] = np.negative(losses, out=losses)
    if "entropy" in names:
        extra["entropy"] = softmax_calls.entropy(
            logits, axis, None, temperature, "none", 1.0, num_threads
        )
    for values in extra.values():
        values[rows.prediction < 0] = np.nan
    return extra


def _chosen(
    names: set[str], rows: RowStatistics[Any], extra: dict[str, NDArray[Any]]
) -> ChosenStatistics[Any]:
    usual = {name: value for name, value in rows._asdict().items() if name in names}
    return ChosenStatistics(**usual, **extra)
