"""Rows of logits and labels that stress one thing each.

Knows: what the logits look like, the dtypes' ranges, and that a seed makes the same rows again.
Must not know: kernels, oracles, error bounds.

Every distribution is a function (generator, rows, classes, dtype) -> (logits in float64, labels);
`draw` rounds the logits to the dtype. Elementary functions are taken in long double: NumPy's own of
float64 differ in last bits from one instruction set to the next, and rows would with them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]


def _any_label(generator: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    return generator.integers(0, classes, rows)


def _replace(logits: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    logits[np.arange(labels.size), labels] = values
    return logits


def _log_uniform(generator: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    exponents = generator.uniform(math.log(low), math.log(high), count)
    return np.exp(exponents.astype(np.longdouble)).astype(float)


def standard_normal(generator, rows, classes, dtype) -> Rows:
    """Logits of an untrained network."""
    return generator.standard_normal((rows, classes)), _any_label(generator, rows, classes)


def wide_normal(generator, rows, classes, dtype) -> Rows:
    """Normal, standard deviation 10: one or two classes hold the mass."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    return 10 * logits, labels


def small_uniform(generator, rows, classes, dtype) -> Rows:
    """Uniform in +-1e-3: every probability is close to 1/C."""
    return generator.uniform(-1e-3, 1e-3, (rows, classes)), _any_label(generator, rows, classes)


def all_equal(generator, rows, classes, dtype) -> Rows:
    """One value a row, -10 to 10: every rounding error of the sum points the same way."""
    values = generator.uniform(-10, 10, (rows, 1))
    return np.repeat(values, classes, axis=1), _any_label(generator, rows, classes)


def leader(generator, rows, classes, dtype) -> Rows:
    """One class leads all others, which are equal, by so much that each is about half an ulp of it.

    Added to the leader's exponential one by one they would all be rounded the same way.
    """
    low, high = (11, 19) if dtype == np.float32 else (28, 40)
    logits = np.repeat(-generator.uniform(low, high, (rows, 1)), classes, axis=1)
    leaders = _any_label(generator, rows, classes)
    logits = _replace(logits, leaders, generator.uniform(-1, 1, rows))
    return logits, _any_label(generator, rows, classes)


def near_tie(generator, rows, classes, dtype) -> Rows:
    """All classes equal but one, 1e-7 to 100 above or below, the target of every second row."""
    logits = np.repeat(generator.uniform(-10, 10, (rows, 1)), classes, axis=1)
    odd_class = _any_label(generator, rows, classes)
    gap = _log_uniform(generator, 1e-7, 100, rows) * generator.choice([-1, 1], rows)
    logits = _replace(logits, odd_class, logits[:, 0] + gap)
    return logits, np.where(np.arange(rows) % 2, odd_class, _any_label(generator, rows, classes))


def ties(generator, rows, classes, dtype) -> Rows:
    """Whole numbers, normal, standard deviation 3: many classes share each value, the top too."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    return np.rint(3 * logits), labels


def confident(generator, rows, classes, dtype) -> Rows:
    """Normal, the target 20 to 80 (float64: 700) above the rest: losses to 1e-35 (1e-304)."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    lead = generator.uniform(20, 80 if dtype == np.float32 else 700, rows)
    return _replace(logits, labels, logits.max(axis=1) + lead), labels


def wrongly_confident(generator, rows, classes, dtype) -> Rows:
    """Normal, the target 10 to 1e30 below the rest: huge losses."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    return _replace(logits, labels, -_log_uniform(generator, 10, 1e30, rows)), labels


def language_model(generator, rows, classes, dtype) -> Rows:
    """Normal, standard deviation 3, with a heavy tail (Student's t, 3 degrees).

    One class in five is masked: by -inf in every second row, by -1e9 in the others.
    """
    logits = 3 * generator.standard_normal((rows, classes))
    logits += generator.standard_t(3, (rows, classes))
    labels = _any_label(generator, rows, classes)
    masked = generator.random((rows, classes)) < 0.2
    masked[np.arange(rows), labels] = False
    mask_values = np.where(np.arange(rows) % 2, -np.inf, -1e9)
    return np.where(masked, mask_values[:, None], logits), labels


def offset_1e4(generator, rows, classes, dtype) -> Rows:
    """Normal, standard deviation 5, around 1e4."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    return 1e4 + 5 * logits, labels


def offset_1e6(generator, rows, classes, dtype) -> Rows:
    """Normal, standard deviation 5, around -1e6: float32 logits are multiples of 1/16."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    return -1e6 + 5 * logits, labels


def offset_1e8(generator, rows, classes, dtype) -> Rows:
    """Normal, standard deviation 30, around 1e8: float32 logits are multiples of 8."""
    logits, labels = standard_normal(generator, rows, classes, dtype)
    return 1e8 + 30 * logits, labels


def straddling(generator, rows, classes, dtype) -> Rows:
    """Normal, standard deviation 5, around the largest logits that are taken as they are.

    Rows stand at 2^16 or -2^16 (float64: 2^29), and wave along the classes so that the largest
    logits of some thousand neighbours are now below that border, now above.
    """
    logits, labels = standard_normal(generator, rows, classes, dtype)
    border = 2.0**16 if dtype == np.float32 else 2.0**29
    wave = 10 * np.sin(np.arange(classes, dtype=np.longdouble) / 700).astype(float) - 15
    return generator.choice([-border, border], (rows, 1)) + wave + 5 * logits, labels


def slope(generator, rows, classes, dtype) -> Rows:
    """Normal on a slope of -86 (float64: -707) from first to last class: whole blocks far below.

    Every second row runs the other way.
    """
    logits, labels = standard_normal(generator, rows, classes, dtype)
    lowest = -86 if dtype == np.float32 else -707
    logits += np.linspace(0, lowest, classes)
    logits[1::2] = logits[1::2, ::-1].copy()
    return logits, labels


def vanishing(generator, rows, classes, dtype) -> Rows:
    """One class leads by so much that the others' probabilities are subnormal or less.

    It is the target of every second row; the others' sum is then the loss, subnormal itself in two
    rows of four.
    """
    nearest, farthest = (-86, -112) if dtype == np.float32 else (-707, -754)
    logits = generator.uniform(farthest, nearest, (rows, classes))
    logits[np.arange(rows) % 4 < 2] -= 22 if dtype == np.float32 else 36
    leader = _any_label(generator, rows, classes)
    logits = _replace(logits, leader, np.zeros(rows))
    return logits, np.where(np.arange(rows) % 2, leader, _any_label(generator, rows, classes))


DISTRIBUTIONS: dict[str, Callable[..., Rows]] = {
    "standard normal": standard_normal,
    "normal x 10": wide_normal,
    "uniform 1e-3": small_uniform,
    "all equal": all_equal,
    "leader": leader,
    "near tie": near_tie,
    "ties": ties,
    "confident": confident,
    "wrongly confident": wrongly_confident,
    "language model": language_model,
    "offset 1e4": offset_1e4,
    "offset -1e6": offset_1e6,
    "offset 1e8": offset_1e8,
    "straddling": straddling,
    "slope": slope,
    "vanishing": vanishing,
}


def draw(
    distribution: str, classes: int, dtype: np.dtype, entries: int, chunk_entries: int = 2**19
) -> Iterator[Rows]:
    """About `entries` logits, two rows at least, in chunks of (logits, labels); always the same."""
    name = f"{distribution}, {classes} classes, {np.dtype(dtype).name}"
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    remaining = max(2, entries // classes)
    while remaining > 0:
        rows = min(remaining, max(1, chunk_entries // classes))
        logits, labels = DISTRIBUTIONS[distribution](generator, rows, classes, np.dtype(dtype))
        yield logits.astype(dtype), labels
        remaining -= rows


def draw_rounded(distribution: str, classes: int, dtype: np.dtype, entries: int) -> Iterator[Rows]:
    """The rows of float32, rounded to 16 bits, where largest logit and target's stay finite."""
    for logits, labels in draw(distribution, classes, np.dtype(np.float32), entries):
        with np.errstate(over="ignore"):
            rounded = logits.astype(dtype)
        kept = np.isfinite(rounded.max(axis=1)) & np.isfinite(
            rounded[np.arange(len(labels)), labels]
        )
        if kept.any():
            yield rounded[kept], labels[kept]


def soft_targets(labels: np.ndarray, classes: int, dtype: np.dtype) -> np.ndarray:
    """Dense targets as in distillation: 0.9 at the label, 0.1 spread as random numbers."""
    generator = np.random.default_rng(classes)
    targets = generator.random((labels.size, classes))
    targets *= 0.1 / targets.sum(axis=1, keepdims=True)
    targets[np.arange(labels.size), labels] += 0.9
    return targets.astype(dtype)
