"""Rows of known loss and gradient, and the table of special values.

Knows the formula and the decided semantics; computes expected numbers with mpmath or by hand.
Must not compare with the reference implementation, which it judges as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import mpmath
import numpy as np
import pytest
from helpers import (
    assert_same_bits,
    assert_within,
    assert_within_spacings,
    effective_mass,
    make_logits,
    make_targets,
    one_hot,
    poisoned,
)
from instruction_sets import AVAILABLE, in_force

import xent_fast
from xent_fast import reference

LOSS_SPACINGS = 3
GRADIENT_SPACINGS = 4
BLOCK = 2048
HUGE = {np.float32: 3e38, np.float64: 1e300}
WIDTHS = (2, 3, 16, 33, 129, 1000, 5000)


@pytest.fixture(params=[*AVAILABLE, "reference"])
def implementation(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The library on each instruction set, and the definition that other tests compare with."""
    if request.param == "reference":
        yield reference
    else:
        with in_force(request.param):
            yield xent_fast


@dataclass(frozen=True)
class Run:
    """`count` neighbouring classes that share one logit."""

    count: int
    logit: float


def row_of(runs: list[Run], dtype: type) -> np.ndarray:
    """The logits of one row."""
    return np.repeat([run.logit for run in runs], [run.count for run in runs]).astype(dtype)


def closed_form(runs: list[Run], target_run: int) -> tuple[float, float, list[float]]:
    """Loss and target's gradient for a target in `target_run`, and each run's probability.

    The gradient is summed over the other classes, so that nothing cancels.
    """
    with mpmath.workdps(60):
        top = mpmath.mpf(max(run.logit for run in runs))
        exponentials = [mpmath.exp(mpmath.mpf(run.logit) - top) for run in runs]
        total = mpmath.fsum(run.count * each for run, each in zip(runs, exponentials, strict=True))
        others = mpmath.fsum(
            (run.count - (position == target_run)) * each
            for position, (run, each) in enumerate(zip(runs, exponentials, strict=True))
        )
        loss = _log_of_sum(others, exponentials[target_run]) + (top - runs[target_run].logit)
        probabilities = [float(each / total) for each in exponentials]
        return float(loss), float(-others / total), probabilities


def _log_of_sum(others: mpmath.mpf, target: mpmath.mpf) -> mpmath.mpf:
    """log(others + target), exact also where the target is 1 and the others are tiny."""
    return mpmath.log1p(others + (target - 1))


def check_runs(implementation: ModuleType, runs: list[Run], target_run: int, dtype: type) -> None:
    """One row made of runs: loss, the target's gradient, and every other class's."""
    logits = row_of(runs, dtype)[np.newaxis]
    rounded = [Run(run.count, float(dtype(run.logit))) for run in runs]
    target = sum(run.count for run in runs[:target_run])
    want_loss, want_target, probabilities = closed_form(rounded, target_run)
    output = poisoned(1, logits.size, dtype)

    loss, grad = implementation.softmax_cross_entropy_grad(
        logits, np.array([target]), reduction="none", out=output.array
    )

    output.assert_guards_intact()
    assert_within_spacings(loss, [want_loss], loss.dtype.type, LOSS_SPACINGS)
    want = np.repeat(probabilities, [run.count for run in runs])
    want[target] = want_target
    assert_within_spacings(grad[0], want, dtype, GRADIENT_SPACINGS)


@pytest.mark.parametrize("value", (0.0, 1.0, -87.5, 1e4, 1e8, -1e8, "huge", "-huge"))
def test_equal_logits(implementation: ModuleType, dtype: type, value: float | str) -> None:
    """Loss log C and p = 1/C however large the logits are."""
    for classes in WIDTHS:
        if isinstance(value, str):
            value = math.copysign(HUGE[dtype], -1.0 if value.startswith("-") else 1.0)
        logits = np.full((2, classes), value, dtype)
        loss, grad = implementation.softmax_cross_entropy_grad(
            logits, np.array([0, classes - 1]), reduction="none"
        )
        assert_within_spacings(loss, np.full(2, math.log(classes)), dtype, LOSS_SPACINGS)
        want = np.full((2, classes), 1 / classes)
        want[[0, 1], [0, classes - 1]] = -(classes - 1) / classes
        assert_within_spacings(grad, want, dtype, GRADIENT_SPACINGS)


GAPS = (1e-7, 1e-4, 0.1, 0.5, 1.0, 3.0, 8.0, 15.9, 40.0, 80.0, 87.0, 100.0, 300.0, 700.0, 1e4)


def test_two_classes(implementation: ModuleType, dtype: type) -> None:
    """Loss log1p(exp(-d)), however small, and d + log1p(exp(-d)) for the other label."""
    for gap in GAPS:
        runs = [Run(1, gap), Run(1, 0.0)]
        for target_run in (0, 1):
            check_runs(implementation, runs, target_run, dtype)
            check_runs(implementation, runs[::-1], target_run, dtype)


@pytest.mark.parametrize("gap", (20.0, 80.0))
def test_tiny_loss(implementation: ModuleType, dtype: type, gap: float) -> None:
    """A target far above the others: loss log1p((C - 1) exp(-d)), no difference of logarithms."""
    for classes in WIDTHS:
        for target in sorted({0, classes // 2, classes - 1}):
            runs = [Run(target, -gap), Run(1, 0.0), Run(classes - 1 - target, -gap)]
            check_runs(implementation, runs, 1, dtype)


@pytest.mark.parametrize("classes", WIDTHS)
def test_offset_of_1e8(implementation: ModuleType, dtype: type, classes: int) -> None:
    """Adding 1e8 to logits that stay exact changes nothing beyond rounding."""
    steps = np.random.default_rng(classes).integers(-4, 5, (3, classes))
    logits = (8.0 * steps).astype(dtype)
    labels = np.array([0, classes // 2, classes - 1])
    near = implementation.softmax_cross_entropy_grad(logits, labels, reduction="none")
    for offset in (1e8, -1e8):
        far = implementation.softmax_cross_entropy_grad(
            logits + dtype(offset), labels, reduction="none"
        )
        assert_within_spacings(far.loss, near.loss, dtype, 2 * LOSS_SPACINGS)
        assert_within_spacings(far.grad, near.grad, dtype, 2 * GRADIENT_SPACINGS)


@pytest.mark.parametrize("classes", (3, 16, 33, 5000))
@pytest.mark.parametrize("huge", (1e30, -1e30))
def test_huge_beside_normal_logits(
    implementation: ModuleType, dtype: type, huge: float, classes: int
) -> None:
    """One logit of 1e30 takes all the mass, one of -1e30 takes none, at any place in the row."""
    for place in sorted({0, 1, classes // 2, classes - 1}):
        runs = [
            *([Run(place, 0.5)] if place else []),
            Run(1, huge),
            *([Run(classes - 1 - place, 0.5)] if place < classes - 1 else []),
        ]
        for target_run in range(len(runs)):
            check_runs(implementation, runs, target_run, dtype)


BLOCK_CASES = {
    "later_far_below": [Run(BLOCK, 0.0), Run(BLOCK, -90.0), Run(904, -150.0)],
    "later_out_of_reach": [Run(BLOCK, 0.0), Run(BLOCK, -1e30), Run(904, -1e30)],
    "rising": [Run(BLOCK, 0.0), Run(BLOCK, 100.0), Run(904, 200.0)],
    "falling": [Run(BLOCK, 200.0), Run(BLOCK, 100.0), Run(904, 0.0)],
    "peak_in_the_middle": [Run(BLOCK, -100.0), Run(BLOCK, 60.0), Run(904, 59.5)],
    "peak_last_class": [Run(4999, -20.0), Run(1, 0.0)],
    "peak_first_class": [Run(1, 0.0), Run(4999, -20.0)],
    "peak_at_block_border": [Run(BLOCK - 1, -8.0), Run(1, 3.0), Run(1, 3.0), Run(2951, -8.0)],
    "alternating_1e6": [
        Run(length, 1e6 * (position % 2))
        for position, length in enumerate((BLOCK, BLOCK, BLOCK, BLOCK, 100))
    ],
    "alternating_classes_1e6": [Run(1, 1e6 * (place % 2)) for place in range(64)],
    "steps_of_1e6": [
        Run(length, 1e6 * position) for position, length in enumerate((BLOCK, BLOCK, BLOCK, 1))
    ],
    "all_3e38": [Run(BLOCK, 3e38), Run(BLOCK, 3e38), Run(BLOCK, 3e38), Run(7, 3e38)],
    "3e38_and_opposite": [Run(BLOCK, -3e38), Run(BLOCK, 3e38), Run(904, -3e38)],
    "3e38_and_zero": [Run(BLOCK, 0.0), Run(904, 3e38), Run(BLOCK, 0.0)],
}


@pytest.mark.parametrize("case", BLOCK_CASES)
def test_blocks(implementation: ModuleType, dtype: type, case: str) -> None:
    """Sums over blocks whose references are equal, close, hundreds apart or beyond any reach."""
    runs = BLOCK_CASES[case]
    for target_run in sorted({0, 1, len(runs) - 1}):
        check_runs(implementation, runs, target_run, dtype)


@pytest.mark.parametrize("value", (0.0, -5.5, 1e8, "huge"))
def test_one_class(implementation: ModuleType, dtype: type, value: float | str) -> None:
    """Loss and gradient are exactly 0."""
    logits = np.full((17, 1), HUGE[dtype] if value == "huge" else value, dtype)
    for targets in (np.zeros(17, int), np.full((17, 1), 0.75, dtype)):
        loss, grad = implementation.softmax_cross_entropy_grad(logits, targets, reduction="none")
        assert not loss.any()
        assert not grad.any()


SPECIAL_WIDTHS = (2, 3, 10, 16, 33, 47, 128, 129, 2049, 5000)


def _places(classes: int) -> list[int]:
    """Class positions in the first, a middle and the last lane and block."""
    return sorted({0, 1, classes // 2, classes - 2, classes - 1})


def test_minus_infinity_has_no_probability(implementation: ModuleType, dtype: type) -> None:
    """A class at -inf has gradient exactly 0, and the others what the row without it has."""
    for classes in SPECIAL_WIDTHS:
        logits = make_logits(np.random.default_rng(classes), 1, classes, dtype)
        for place in _places(classes):
            label = (place + 1) % classes
            row = logits.copy()
            row[0, place] = -np.inf
            rest = np.arange(classes) != place
            without = implementation.softmax_cross_entropy_grad(
                row[:, rest], np.array([label - (label > place)]), reduction="none"
            )
            dense = one_hot(np.array([label]), classes, dtype)
            for targets in (np.array([label]), dense):
                loss, grad = implementation.softmax_cross_entropy_grad(
                    row, targets, reduction="none"
                )
                assert grad[0, place] == 0
                tolerance = 8 * np.finfo(dtype).eps
                assert_within(loss, without.loss, tolerance * (1 + without.loss))
                assert_within(grad[:, rest], without.grad, tolerance)


def test_minus_infinite_target(implementation: ModuleType, dtype: type, kind: str) -> None:
    """Mass on a class at -inf: the loss is +inf, the gradient Q p - q stays finite."""
    for classes in SPECIAL_WIDTHS:
        rng = np.random.default_rng(classes)
        for place in _places(classes):
            logits = make_logits(rng, 1, classes, dtype)
            logits[0, place] = -np.inf
            targets = {
                "index": np.array([place]),
                "one_hot": one_hot(np.array([place]), classes, dtype),
                "dense": np.full((1, classes), 0.5, dtype),
            }[kind]
            mass = effective_mass(targets, classes)[0]
            loss, grad = implementation.softmax_cross_entropy_grad(
                logits, targets, reduction="none"
            )
            assert loss[0] == np.inf
            exponentials = np.exp(logits[0].astype(np.float64))
            want = mass.sum() * exponentials / exponentials.sum() - mass
            assert_within(grad[0], want, 8 * np.finfo(dtype).eps * (np.abs(want) + 2 * mass))
            assert_within_spacings(grad[0, place], -mass[place], dtype, GRADIENT_SPACINGS)
            assert implementation.softmax_cross_entropy(logits, targets, reduction="sum") == np.inf


SPECIAL_ROWS = {
    "nan": (np.nan,),
    "plus_infinity": (np.inf,),
    "both_infinities": (-np.inf, np.inf),
    "nan_and_infinity": (np.inf, np.nan),
    "nan_and_minus_infinity": (-np.inf, np.nan),
}


def test_undefined_rows(implementation: ModuleType, dtype: type, kind: str) -> None:
    """A NaN or +inf makes its row's loss and whole gradient NaN; the other rows keep their bits."""
    for special in SPECIAL_ROWS:
        for classes in SPECIAL_WIDTHS:
            rng = np.random.default_rng(classes)
            rows = 20 if classes <= 129 else 6
            logits = make_logits(rng, rows, classes, dtype)
            targets = make_targets(kind, rng, rows, classes, dtype)
            clean = implementation.softmax_cross_entropy_grad(logits, targets, reduction="none")
            bad = np.arange(rows) % 4 == 1
            values = SPECIAL_ROWS[special]
            for shift, row in enumerate(np.flatnonzero(bad)):
                places = _places(classes)
                for value, place in zip(values, np.roll(places, -shift), strict=False):
                    logits[row, place] = value
            check_bad_rows(implementation, logits, targets, bad, clean)


def test_all_minus_infinity(implementation: ModuleType, dtype: type, kind: str) -> None:
    """A row of nothing but -inf has no softmax: NaN, alone among its neighbours."""
    for classes in (1, *SPECIAL_WIDTHS):
        rng = np.random.default_rng(classes)
        logits = make_logits(rng, 20, classes, dtype)
        targets = make_targets(kind, rng, 20, classes, dtype)
        clean = implementation.softmax_cross_entropy_grad(logits, targets, reduction="none")
        bad = np.arange(20) % 4 == 1
        logits[bad] = -np.inf
        check_bad_rows(implementation, logits, targets, bad, clean)


def check_bad_rows(
    implementation: ModuleType,
    logits: np.ndarray,
    targets: np.ndarray,
    bad: np.ndarray,
    clean: tuple,
) -> None:
    """NaN all over the bad rows, the bits of `clean` in the others, in place and not."""
    elsewhere = implementation.softmax_cross_entropy_grad(logits, targets, reduction="none")
    assert np.isnan(implementation.softmax_cross_entropy(logits, targets))
    in_place = implementation.softmax_cross_entropy_grad(
        logits, targets, reduction="none", out=logits
    )
    for loss, grad in (elsewhere, in_place):
        assert np.isnan(loss[bad]).all()
        assert np.isnan(grad[bad]).all()
        assert_same_bits(loss[~bad], clean[0][~bad])
        assert_same_bits(grad[~bad], clean[1][~bad].astype(grad.dtype))


def test_weight_of_zero(implementation: ModuleType, dtype: type, kind: str) -> None:
    """0 * inf = 0: a row of weight 0 with an infinite loss counts 0; an undefined row stays NaN."""
    for classes in (3, 40, 5000):
        rng = np.random.default_rng(classes)
        logits = make_logits(rng, 3, classes, dtype)
        targets = make_targets(kind, rng, 3, classes, dtype)
        logits[1] = 0.0
        logits[1, _some_class_with_mass(targets[1])] = -np.inf
        weight = np.array([1.0, 0.0, 1.0])
        loss, grad = implementation.softmax_cross_entropy_grad(
            logits, targets, sample_weight=weight, reduction="none"
        )
        assert loss[1] == 0
        assert not grad[1].any()
        assert np.isfinite(
            implementation.softmax_cross_entropy(logits, targets, sample_weight=weight)
        )
        logits[1, 0] = np.nan
        loss, grad = implementation.softmax_cross_entropy_grad(
            logits, targets, sample_weight=weight, reduction="none"
        )
        assert np.isnan(loss[1])
        assert np.isnan(grad[1]).all()


def _some_class_with_mass(target: np.ndarray) -> int:
    return int(target) if target.ndim == 0 else int(np.argmax(target))


def test_zero_denominator(implementation: ModuleType, dtype: type, kind: str) -> None:
    """Weights that add up to 0: mean NaN, sum 0, gradient exactly 0, even over an undefined row."""
    for classes in (3, 40):
        rng = np.random.default_rng(classes)
        logits = make_logits(rng, 5, classes, dtype)
        targets = make_targets(kind, rng, 5, classes, dtype)
        zeros = np.zeros(5, dtype)
        total = implementation.softmax_cross_entropy_grad(
            logits, targets, sample_weight=zeros, reduction="sum"
        )
        assert total.loss == 0
        assert not total.grad.any()
        logits[2, 1] = np.nan
        output = poisoned(5, classes, dtype)
        mean = implementation.softmax_cross_entropy_grad(
            logits, targets, sample_weight=zeros, out=output.array
        )
        output.assert_guards_intact()
        assert np.isnan(mean.loss)
        assert_same_bits(mean.grad, np.zeros_like(logits))
        assert np.isnan(implementation.softmax_cross_entropy(logits, targets, sample_weight=zeros))


def test_infinite_denominator(implementation: ModuleType, dtype: type, kind: str) -> None:
    """A mean over an infinite weight is inf / inf: NaN throughout."""
    for classes in (3, 40):
        rng = np.random.default_rng(classes)
        logits = make_logits(rng, 5, classes, dtype)
        targets = make_targets(kind, rng, 5, classes, dtype)
        some = {"sample_weight": np.array([1, 1, np.inf, 1, 1])}
        every = {"weight": np.full(classes, np.inf)} if kind == "index" else some
        for options in (some, every):
            loss, grad = implementation.softmax_cross_entropy_grad(logits, targets, **options)
            assert np.isnan(loss)
            assert np.isnan(grad).all()
            assert np.isnan(implementation.softmax_cross_entropy(logits, targets, **options))


@pytest.mark.parametrize("classes", (3, 40))
def test_all_ignored(implementation: ModuleType, dtype: type, classes: int) -> None:
    """Every row ignored: mean NaN, sum and row losses 0, gradient 0, though the logits are NaN."""
    logits = np.full((5, classes), np.nan, dtype)
    labels = np.full(5, -100)
    for reduction, want in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(5, dtype))):
        output = poisoned(5, classes, dtype)
        loss, grad = implementation.softmax_cross_entropy_grad(
            logits, labels, ignore_index=-100, reduction=reduction, out=output.array
        )
        output.assert_guards_intact()
        np.testing.assert_array_equal(loss, want)
        assert_same_bits(grad, np.zeros((5, classes), dtype))


@pytest.mark.parametrize(
    "options",
    [{"weight": np.nan}, {"weight": np.inf, "label_smoothing": 0.1}, {"z_loss": np.inf}],
    ids=["NaN as weight", "infinite mass", "infinite z_loss"],
)
@pytest.mark.parametrize("classes", (3, 40))
def test_ignored_rows_have_no_mass(
    implementation: ModuleType, dtype: type, classes: int, options: dict
) -> None:
    """Gradient and loss of ignored rows are 0 where those of the others are not numbers."""
    if "weight" in options:
        options = options | {"weight": np.full(classes, options["weight"])}
    logits = np.full((3, classes), -5, dtype)
    loss, grad = implementation.softmax_cross_entropy_grad(
        logits, [1, -100, 2], ignore_index=-100, reduction="none", **options
    )
    assert not np.isfinite(loss[[0, 2]]).any()
    assert_same_bits(loss[1], loss.dtype.type(0))
    assert_same_bits(grad[1], np.zeros(classes, grad.dtype))


@pytest.mark.parametrize("distance", [30.0, 100.0, 1e4, 1e8, 1e30, math.inf])
def test_lse_of_distant_targets(implementation: ModuleType, dtype: type, distance: float) -> None:
    """log(width - 1 + exp(-distance)), and with z_loss its slope, however far below x_y lies.

    Where x_y + loss is taken, it is off by an ulp of the loss, which cancels.
    """
    for width in [3, 40, 3000]:
        logits = np.zeros((2, width), dtype)
        logits[1, -1] = -distance
        labels = np.full(2, width - 1)
        lse = implementation.softmax_cross_entropy(
            logits, labels, return_statistics=True
        ).statistics.lse
        want = math.log(width - 1 + math.exp(-distance))
        assert_within_spacings(lse[1], want, dtype, 64 if distance <= 100 else 4)
        grad = implementation.softmax_cross_entropy_grad(
            logits, labels, z_loss=1.0, reduction="none"
        ).grad
        slope = (1 + 2 * math.log(width - 1)) / (width - 1)
        assert_within_spacings(grad[1, :-1], np.full(width - 1, slope), dtype, 64)
