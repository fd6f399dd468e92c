"""Draws classes for the sampled softmax, and says how often each class was to be expected.

Knows: distributions over class numbers, and what a caller may give in place of one. Must not know:
logits, losses, gradients.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast import _remedies
from xent_fast._binding import arguments

Float64Array = NDArray[np.float64]
ClassArray = NDArray[np.intp]

Sampler = str | tuple[ArrayLike, ArrayLike]


class Candidates(NamedTuple):
    """Sampled classes, and the expected number of times that any class is among them."""

    samples: ClassArray
    expected_count: Callable[[ClassArray], Float64Array]


def draw_candidates(
    sampler: Sampler, num_sampled: SupportsIndex, num_classes: int, rng: np.random.Generator
) -> Candidates:
    """Draw `num_sampled` classes of `num_classes` as `sampler` says, or check those it holds.

    The named distributions give distinct classes. Errors are those of
    `xent_fast.sampled_softmax_loss_grad`.
    """
    count = _as_count(num_sampled)
    if isinstance(sampler, str):
        if sampler not in _DISTRIBUTIONS:
            names = ", ".join(map(repr, _DISTRIBUTIONS))
            raise ValueError(
                f"sampler must be {names} or (samples, expected_counts), not {sampler!r}"
            )
        if count > num_classes:
            raise ValueError(
                f"num_sampled must be at most the number of classes {num_classes}, not {count}"
            )
        return _draw_distinct(_DISTRIBUTIONS[sampler], count, num_classes, rng)
    return _given_candidates(sampler, count, num_classes)


def _as_count(num_sampled: SupportsIndex) -> int:
    if isinstance(num_sampled, (bool, np.bool_)):
        raise TypeError(f"num_sampled must be an integer, not {type(num_sampled).__name__}")
    try:
        count = operator.index(num_sampled)
    except TypeError:
        raise TypeError(
            f"num_sampled must be an integer, not {type(num_sampled).__name__}"
        ) from None
    if count < 1:
        raise ValueError(f"num_sampled must be at least 1, not {count}")
    return count


# --- distributions --------------------------------------------------------------------------------


class _Distribution(NamedTuple):
    """Probabilities of classes, and classes for uniform numbers in [0, 1)."""

    probability: Callable[[ClassArray, int], Float64Array]
    quantile: Callable[[Float64Array, int], Float64Array]


def _log_uniform_probability(classes: ClassArray, num_classes: int) -> Float64Array:
    """log((k + 2) / (k + 1)) / log(C + 1): nearly 1 / k, for classes in order of frequency."""
    probability: Float64Array = np.log1p(1.0 / (classes + 1.0)) / math.log1p(num_classes)
    return probability


def _log_uniform_quantile(uniform: Float64Array, num_classes: int) -> Float64Array:
    """The k whose cumulative probability log(k + 2) / log(C + 1) is the first beyond the number."""
    return np.expm1(uniform * math.log1p(num_classes))


def _uniform_probability(classes: ClassArray, num_classes: int) -> Float64Array:
    return np.full(classes.shape, 1.0 / num_classes)


def _uniform_quantile(uniform: Float64Array, num_classes: int) -> Float64Array:
    return uniform * num_classes


# So many draws for each class that is wanted are made one by one.
_MOST_DRAWS_A_SAMPLE = 8

_DISTRIBUTIONS = {
    "log_uniform": _Distribution(_log_uniform_probability, _log_uniform_quantile),
    "uniform": _Distribution(_uniform_probability, _uniform_quantile),
}


def _draw_distinct(
    distribution: _Distribution, count: int, num_classes: int, rng: np.random.Generator
) -> Candidates:
    """Draw until `count` classes are distinct.

    After n draws class k is expected among them 1 - (1 - P(k))^n times. Where every class is to be
    drawn, each is there once.

    The last of nearly all classes would take very many draws, which are then not made one by one:
    `_finish_drawing`.
    """
    if count == num_classes:
        return Candidates(np.arange(num_classes), lambda classes: np.ones(classes.shape))
    drawn = np.empty(0, dtype=np.intp)
    while True:
        uniform = rng.random(max(2 * count, len(drawn)))
        new = np.minimum(distribution.quantile(uniform, num_classes), num_classes - 1)
        drawn = np.concatenate([drawn, new.astype(np.intp)])
        _, first_places = np.unique(drawn, return_index=True)
        if len(first_places) >= count or len(drawn) >= _MOST_DRAWS_A_SAMPLE * count:
            break
    places = np.sort(first_places)[:count]
    samples = drawn[places]
    draws = int(places[-1]) + 1
    if len(samples) < count:
        samples, draws = _finish_drawing(distribution, samples, len(drawn), count, num_classes, rng)

    def expected_count(classes: ClassArray) -> Float64Array:
        probability = distribution.probability(classes, num_classes)
        expected: Float64Array = -np.expm1(draws * np.log1p(-probability))
        return expected

    return Candidates(samples, expected_count)


def _finish_drawing(
    distribution: _Distribution,
    seen: ClassArray,
    draws: int,
    count: int,
    num_classes: int,
    rng: np.random.Generator,
) -> tuple[ClassArray, int]:
    """The distinct classes and the number of draws, where `draws` draws have given those seen.

    What further draws would give, by its distribution alone: classes not yet seen come in the order
    of exponential numbers of rate P(k); and of the draws, each is one of a class not yet seen with
    these classes' whole probability, so that the next of them takes a geometric number of draws.
    """
    unseen = np.ones(num_classes, dtype=bool)
    unseen[seen] = False
    classes = np.flatnonzero(unseen)
    probability = distribution.probability(classes, num_classes)
    order = np.argsort(rng.standard_exponential(len(classes)) / probability)
    chance = np.minimum(np.cumsum(probability[order][::-1])[::-1], 1.0)
    missing = count - len(seen)
    draws += int(rng.geometric(chance[:missing]).sum())
    return np.concatenate([seen, classes[order[:missing]]]), draws


# --- classes that the caller drew -----------------------------------------------------------------


def _given_candidates(
    given: tuple[ArrayLike, ArrayLike], count: int, num_classes: int
) -> Candidates:
    """Samples and one expected count a class, checked."""
    try:
        given_samples, given_counts = given
    except (TypeError, ValueError):
        raise TypeError(
            f"sampler must be a name or (samples, expected_counts), not {type(given).__name__}"
        ) from None
    samples = as_classes(given_samples, num_classes, "samples")
    if samples.shape != (count,):
        raise ValueError(f"samples must have shape ({count},) as num_sampled, not {samples.shape}")
    counts = arguments.checked_weights(given_counts, (num_classes,), "expected_counts")

    def expected_count(classes: ClassArray) -> Float64Array:
        expected = counts[classes].astype(np.float64)
        not_positive = ~((expected > 0) & (expected < np.inf))
        if not_positive.any():
            position = int(np.argmax(not_positive))
            raise ValueError(
                f"expected_counts[{classes[position]}] must be positive and finite, not "
                f"{expected[position]}"
            )
        return expected

    return Candidates(samples, expected_count)


def as_classes(given: ArrayLike, num_classes: int, name: str) -> ClassArray:
    """Class numbers of any integer dtype as intp, all in ``range(num_classes)``.

    IndexError where one is out of bounds, TypeError where they are no integers; both call them by
    their name.
    """
    classes = arguments.checked_array(given, name)
    if classes.size == 0 and not isinstance(given, np.ndarray):
        classes = classes.astype(np.intp)  # NumPy makes float64 of an empty list
    if classes.dtype.kind not in "iu":
        raise TypeError(
            f"class indices must be integers, not {_remedies.described(given, classes)} ({name})"
            f"{_remedies.for_labels(given, classes, name, may_be_ignored=False)}"
        )
    out_of_bounds = (classes < 0) | (classes >= num_classes)
    if out_of_bounds.any():
        place = int(np.argmax(out_of_bounds))
        raise IndexError(
            f"index {classes.flat[place]} is out of bounds for axis 0 with size {num_classes} "
            f"({name}[{place}])"
            f"{_remedies.for_label_out_of_bounds(classes.flat[place], num_classes, False)}"
        )
    return classes.astype(np.intp)
