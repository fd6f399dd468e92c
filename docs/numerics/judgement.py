"""Errors of one result, sorted by what is promised of each entry, and tallies of many.

Knows: which entry belongs to which promise; worst, mean and witness of a set of errors.
Must not know: which library is measured, or where the rows come from.

Quantities, all in ulps (see oracle.py):

    loss        loss of each row
    target      gradient of the target's class                       index targets
    others      gradient of the other classes where p is normal      index targets
    subnormal   gradient of the other classes where p is subnormal   index targets
    gradient    every entry, in ulps of max(|Q p|, |q|)              dense targets
    gradient    every entry                                          index targets of 16 bits
    p, small p  probabilities that are normal numbers, and the rest  functions of the softmax
    log p       of finite logits                                     the same
    lse         in ulps of max(|lse|, |m|, lse - m)                  the same
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from docs.numerics.oracle import Exact, lse_scale, ulp_errors


@dataclass
class Tally:
    """Worst and mean of the errors added so far, and where the worst one stood."""

    worst: float = 0.0
    total: float = 0.0
    count: int = 0
    witness: str = ""

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else np.nan

    def merge(self, other: Tally) -> None:
        if other.worst > self.worst or not self.count:
            self.worst, self.witness = other.worst, other.witness
        self.total += other.total
        self.count += other.count


@dataclass(frozen=True)
class Entries:
    """Some entries of a result: their places (as np.nonzero gives them), values and errors."""

    places: tuple[np.ndarray, ...]
    got: np.ndarray
    want: np.ndarray
    errors: np.ndarray

    def tally(self) -> Tally:
        if not self.errors.size:
            return Tally()
        worst = int(self.errors.argmax())
        place = tuple(int(indices[worst]) for indices in self.places)
        witness = f"at {place}: got {self.got[worst]!r}, exact {float(self.want[worst])!r}"
        return Tally(float(self.errors[worst]), float(self.errors.sum()), self.errors.size, witness)


def smallest_normal(dtype: np.dtype) -> float:
    """The smallest normal number of a dtype, ml_dtypes' bfloat16 too."""
    return 2.0**-126 if dtype.name == "bfloat16" else float(np.finfo(dtype).tiny)


def _entries(
    selected: np.ndarray, got: np.ndarray, want: np.ndarray, scale: np.ndarray | None = None
) -> Entries:
    places = np.nonzero(selected)
    scale_there = None if scale is None else scale[places]
    errors = ulp_errors(got[places], want[places], scale_there)
    return Entries(places, got[places], want[places], errors)


def judge_index_targets(
    loss: np.ndarray, gradient: np.ndarray, exact: Exact, labels: np.ndarray
) -> dict[str, Tally]:
    """Tallies of "loss", "target", "others" and "subnormal"."""
    is_target = np.arange(gradient.shape[1]) == labels[:, None]
    is_normal = exact.probabilities >= np.finfo(gradient.dtype).tiny
    selections = {
        "target": is_target,
        "others": ~is_target & is_normal,
        "subnormal": ~is_target & ~is_normal,
    }
    tallies = {"loss": _entries(np.ones(len(loss), bool), loss, exact.loss).tally()}
    for quantity, selected in selections.items():
        tallies[quantity] = _entries(selected, gradient, exact.gradient).tally()
    return tallies


def judge_rounded_gradient(
    loss: np.ndarray, gradient: np.ndarray, exact: Exact
) -> dict[str, Tally]:
    """Tallies of "loss" and "gradient" of class indices, the gradient of 16 bits."""
    every_row, every_entry = np.ones(len(loss), bool), np.ones(gradient.shape, bool)
    return {
        "loss": _entries(every_row, loss, exact.loss).tally(),
        "gradient": _entries(every_entry, gradient, exact.gradient).tally(),
    }


def judge_dense_targets(
    loss: np.ndarray, gradient: np.ndarray, exact: Exact, mass: np.ndarray
) -> dict[str, Tally]:
    """Tallies of "loss" and "gradient"."""
    larger_term = np.maximum(exact.scaled_probabilities, np.abs(mass))
    every_entry = np.ones(gradient.shape, bool)
    return {
        "loss": _entries(np.ones(len(loss), bool), loss, exact.loss).tally(),
        "gradient": _entries(every_entry, gradient, exact.gradient, larger_term).tally(),
    }


def judge_functions(
    probabilities: np.ndarray,
    log_probabilities: np.ndarray,
    lse: np.ndarray,
    exact: Exact,
    logits: np.ndarray,
) -> dict[str, Tally]:
    """Tallies of "p", "small p", "log p" and "lse"."""
    is_normal = exact.probabilities >= smallest_normal(logits.dtype)
    is_finite = np.isfinite(logits)
    if not np.isneginf(log_probabilities[~is_finite]).all():
        raise AssertionError("the logarithm of an exact 0 is not -inf")
    every_row = np.ones(len(lse), bool)
    return {
        "p": _entries(is_normal, probabilities, exact.probabilities).tally(),
        "small p": _entries(~is_normal, probabilities, exact.probabilities).tally(),
        "log p": _entries(is_finite, log_probabilities, exact.log_probabilities).tally(),
        "lse": _entries(every_row, lse, exact.lse, lse_scale(logits, exact)).tally(),
    }
