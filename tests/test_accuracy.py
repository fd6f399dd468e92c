"""Error bounds in ulps, for every instruction set, against arithmetics wider than the result.

Knows rows of many kinds, how accurate they are, and the entries of which that is said. The bounds
that docs/numerics.md states are those of rows that a search found: tests/test_worst_rows.py.
Must not know how exact values come about (docs/numerics/oracle.py) nor how a kernel works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from instruction_sets import AVAILABLE, forced

from docs.numerics.distributions import DISTRIBUTIONS, draw, draw_rounded, soft_targets
from docs.numerics.judgement import (
    Tally,
    judge_dense_targets,
    judge_functions,
    judge_index_targets,
    judge_rounded_gradient,
)
from docs.numerics.oracle import (
    EXTENDED,
    FLOAT64,
    QUADRUPLE,
    Exact,
    arithmetic_for,
    disagreement,
    effective_mass,
    evaluate,
    evaluate_by_definition,
    ulp_errors,
)
from xent_fast import log_softmax, logsumexp, softmax, softmax_cross_entropy_grad

ULPS = 4  # of the rows drawn here, as the next
LOSS_ULPS = 3
GRADIENT_ULPS = 5  # of rows that are drawn; docs/numerics.md has what a search finds
INDEX_BOUNDS = {
    "loss": 4.5,
    "target": GRADIENT_ULPS,
    "others": GRADIENT_ULPS,
    "subnormal": GRADIENT_ULPS,
}
DENSE_BOUNDS = {"loss": LOSS_ULPS, "gradient": GRADIENT_ULPS}
FUNCTION_BOUNDS = dict.fromkeys(("p", "small p", "log p", "lse"), ULPS)
# Of 16 bits; loss and lse are float32.
HALF_BOUNDS = dict.fromkeys(("gradient", "p", "small p", "log p"), 0.51)
HALF_BOUNDS |= {"loss": ULPS, "lse": ULPS}

# Rows side by side up to 128 classes, classes side by side beyond, several blocks from 2048 on.
QUICK_CLASSES = (2, 3, 10, 33, 128, 129, 1000, 5000)
QUICK_ENTRIES = 8_000
ALL_CLASSES = (3, 10, 1000, 32000, 128256)
ALL_ENTRIES = {np.float32: 1_000_000, np.float64: 200_000}
A_MILLION = 1_000_003
HARD_FOR_A_MILLION = ("near tie", "ties", "language model", "offset 1e8", "slope", "vanishing")

# The worst errors that were measured, cell by cell. Another C library may draw rows that differ in
# last bits.
RECORD = Path(__file__).with_name("accuracy_record.json")
RECORD_SLACK = 0.05  # ulp

CheckCell = Callable[[str, dict[str, Tally]], None]


@pytest.fixture(scope="session")
def check_cell(pytestconfig: pytest.Config) -> Iterator[CheckCell]:
    """Compare a cell's worst errors with the record; with --renew-accuracy make them the record."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    renews = pytestconfig.getoption("--renew-accuracy")

    def check(cell: str, tallies: dict[str, Tally]) -> None:
        worst = {quantity: round(tally.worst, 3) for quantity, tally in tallies.items()}
        if renews:
            recorded[cell] = worst
        for quantity, error in worst.items():
            allowed = 1.02 * recorded[cell][quantity] + RECORD_SLACK
            assert error <= allowed, (
                f"{quantity} of {cell}: {error} ulp, recorded {recorded[cell][quantity]}"
            )

    yield check
    if renews:
        lines = (f"{json.dumps(cell)}: {json.dumps(recorded[cell])}" for cell in sorted(recorded))
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def check_whole_cell(check_cell: CheckCell, distribution: str, classes: int, dtype: type) -> None:
    """Every row that belongs to one cell: within the bounds, and no worse than the record.

    Drawing rows and their exact results takes longest: every instruction set is judged by them.
    Dense targets, of the first rows, are held to the bounds alone.
    """
    arithmetic = arithmetic_for(dtype)
    whole: dict[str, dict[str, Tally]] = {isa: {} for isa in AVAILABLE}
    drawn = draw(distribution, classes, dtype, ALL_ENTRIES[dtype])
    for chunk, (logits, labels) in enumerate(drawn):
        mass = effective_mass(labels, classes, row_weights(labels.size))
        exact = evaluate(logits, mass, arithmetic)
        exact_dense = None
        if chunk == 0:
            dense = dense_mass(logits, labels)
            exact_dense = evaluate(logits, dense, arithmetic)
        for isa, tallies in whole.items():
            case = f"{distribution}, {classes} classes, {np.dtype(dtype)}, {isa}"
            with forced(isa):
                found = check_index_targets(logits, labels, exact, case)
                if exact_dense:
                    check_dense_targets(logits, dense, exact_dense, case)
            for quantity, tally in found.items():
                tallies.setdefault(quantity, Tally()).merge(tally)
    for isa, tallies in whole.items():
        family = "portable" if isa == "portable" else "fma"
        check_cell(f"{np.dtype(dtype)}, {family}, {distribution}, {classes} classes", tallies)


def row_weights(rows: int) -> np.ndarray:
    """1 for every second row, anything from a tenth to 1 for the others.

    A larger weight would multiply the rounding of subnormal numbers.
    """
    weights = np.random.default_rng(rows).uniform(0.1, 1, rows)
    weights[::2] = 1
    return weights


def dense_mass(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-hot rows and soft ones in turn, without mass where the logit is -inf."""
    soft = soft_targets(labels, logits.shape[1], logits.dtype)
    one_hot = np.zeros_like(logits)
    one_hot[np.arange(len(labels)), labels] = 1
    mass = np.where(np.arange(len(labels))[:, None] % 2 == 0, soft, one_hot)
    mass[np.isneginf(logits)] = 0
    return mass


def assert_within_bounds(tallies: dict[str, Tally], bounds: dict[str, float], case: str) -> None:
    for quantity, tally in tallies.items():
        bound = bounds[quantity]
        assert tally.worst <= bound, (
            f"{quantity} of {case}: {tally.worst:.4g} ulp, {bound} allowed; {tally.witness}"
        )


def check_index_targets(
    logits: np.ndarray, labels: np.ndarray, exact: Exact, case: str
) -> dict[str, Tally]:
    loss, gradient = softmax_cross_entropy_grad(
        logits, labels, sample_weight=row_weights(labels.size), reduction="none"
    )
    tallies = judge_index_targets(loss, gradient, exact, labels)
    assert_within_bounds(tallies, INDEX_BOUNDS, case)
    return tallies


def check_dense_targets(logits: np.ndarray, mass: np.ndarray, exact: Exact, case: str) -> None:
    loss, gradient = softmax_cross_entropy_grad(logits, mass, reduction="none")
    assert_within_bounds(judge_dense_targets(loss, gradient, exact, mass), DENSE_BOUNDS, case)


def check_functions(logits: np.ndarray, exact: Exact, case: str) -> None:
    results = softmax(logits), log_softmax(logits), logsumexp(logits)
    assert_within_bounds(judge_functions(*results, exact, logits), FUNCTION_BOUNDS, case)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_bounds(distribution: str, dtype: type) -> None:
    arithmetic = arithmetic_for(dtype)
    for classes in QUICK_CLASSES:
        for logits, labels in draw(distribution, classes, dtype, QUICK_ENTRIES):
            mass = effective_mass(labels, classes, row_weights(labels.size))
            exact, dense = evaluate(logits, mass, arithmetic), dense_mass(logits, labels)
            exact_dense = evaluate(logits, dense, arithmetic)
            for isa in AVAILABLE:
                case = f"{distribution}, {logits.shape}, {logits.dtype}, {isa}"
                with forced(isa):
                    check_index_targets(logits, labels, exact, case)
                    check_dense_targets(logits, dense, exact_dense, case)
                    check_functions(logits, exact, case)


def judge_16_bits(logits: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, Tally]]:
    """Tallies of class indices, of dense targets in float32, and of functions of the softmax."""
    exact = evaluate(logits, effective_mass(labels, logits.shape[1], np.ones(labels.size)), FLOAT64)
    mass = dense_mass(logits.astype(np.float32), labels)
    exact_dense = evaluate(logits, mass, FLOAT64)
    of_index = softmax_cross_entropy_grad(logits, labels, reduction="none")
    of_dense = softmax_cross_entropy_grad(logits, mass, reduction="none")
    of_softmax = softmax(logits), log_softmax(logits), logsumexp(logits)
    return {
        "index": judge_rounded_gradient(*of_index, exact),
        "dense": judge_dense_targets(*of_dense, exact_dense, mass),
        "functions": judge_functions(*of_softmax, exact, logits),
    }


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_bounds_of_16_bits(half: type, isa: str, check_cell: CheckCell) -> None:
    """Within the bounds, and no worse than the record, which has all distributions together."""
    whole: dict[str, dict[str, Tally]] = {}
    for distribution in DISTRIBUTIONS:
        for classes in QUICK_CLASSES:
            for rows in draw_rounded(distribution, classes, np.dtype(half), QUICK_ENTRIES):
                for kind, tallies in judge_16_bits(*rows).items():
                    assert_within_bounds(tallies, HALF_BOUNDS, f"{distribution}, {classes}, {kind}")
                    for quantity, tally in tallies.items():
                        whole.setdefault(kind, {}).setdefault(quantity, Tally()).merge(tally)
    family = "portable" if isa == "portable" else "fma"
    for kind, tallies in whole.items():
        check_cell(f"{np.dtype(half).name}, {family}, {kind}", tallies)


# By random search: the worst losses and the worst lse that were met, float32.
HARD_ROWS = (
    (1, [-10.127479553, -0.66147077084, -6.7664794922, -5.8859519958, -18.218654633, -9.535593987]),
    (3, [-4.41392707824707, -4.076200485229492, -6.337156772613525, -0.015220889821648598]),
)


@pytest.mark.parametrize(("label", "row"), HARD_ROWS, ids=["loss", "lse"])
def test_rows_that_were_searched_for(label: int, row: list[float], isa: str) -> None:
    logits = np.array([row], np.float32)
    labels = np.array([label])
    exact = evaluate(logits, effective_mass(labels, len(row), np.ones(1)), FLOAT64)
    tallies = judge_index_targets(
        *softmax_cross_entropy_grad(logits, labels, reduction="none"), exact, labels
    )
    assert_within_bounds(tallies, dict.fromkeys(INDEX_BOUNDS, ULPS), isa)
    check_functions(logits, exact, isa)


@pytest.mark.parametrize("classes", (129, 300, 1000, 5000))
def test_log_probability_of_the_largest(classes: int, isa: str) -> None:
    """Minus the logarithm of the sum, which float32 has in double beyond 128 classes."""
    logits, labels = next(draw("standard normal", classes, np.float32, 40 * classes))
    exact = evaluate(logits, effective_mass(labels, classes, np.ones(labels.size)), FLOAT64)
    places = np.arange(len(logits)), logits.argmax(axis=1)
    errors = ulp_errors(log_softmax(logits)[places], exact.log_probabilities[places])
    assert errors.max() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("classes", ALL_CLASSES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_bounds_over_a_million_entries(
    distribution: str, classes: int, dtype: type, check_cell: CheckCell
) -> None:
    check_whole_cell(check_cell, distribution, classes, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", HARD_FOR_A_MILLION)
def test_bounds_of_a_million_classes(distribution: str, dtype: type, check_cell: CheckCell) -> None:
    check_whole_cell(check_cell, distribution, A_MILLION, dtype)


@pytest.mark.parametrize("classes", [10, 33, 1100, 2048, 4097, 65537])
def test_equal_logits(classes: int, dtype: type, isa: str) -> None:
    """p = 1/C and loss = log C, whatever the logit: the roundings of the sum all point one way."""
    rows = np.arange(max(8, 400_000 // classes))
    values = np.random.default_rng(classes).uniform(-10, 10, (rows.size, 1)).astype(dtype)
    labels = rows % classes
    loss, gradient = softmax_cross_entropy_grad(
        np.repeat(values, classes, axis=1), labels, reduction="none"
    )
    number = np.longdouble if np.finfo(np.longdouble).nmant >= 63 else np.float64
    count = np.full(rows.size, classes, number)
    others, targets = gradient[rows, labels - 1], gradient[rows, labels]
    assert ulp_errors(loss, np.log(count)).max() <= LOSS_ULPS
    assert ulp_errors(others, 1 / count).max() <= GRADIENT_ULPS
    assert ulp_errors(targets, 1 / count - 1).max() <= GRADIENT_ULPS
    assert np.count_nonzero(gradient != others[:, None]) <= rows.size


@pytest.mark.parametrize("classes", [10, 100, 5000])
@pytest.mark.parametrize("power", [-95, -66, 66])
def test_scale_far_from_1(power: int, classes: int, dtype: type, isa: str) -> None:
    scale = 2.0 ** (power if dtype == np.float32 else 9 * power) / 3
    logits, labels = next(draw("standard normal", classes, dtype, QUICK_ENTRIES))
    mass = effective_mass(labels, classes, np.full(labels.size, scale))
    exact = evaluate(logits, mass, arithmetic_for(dtype))
    loss, gradient = softmax_cross_entropy_grad(logits, labels, scale=scale, reduction="none")
    case = f"scale {scale}, {logits.shape}, {logits.dtype}, {isa}"
    tallies = judge_index_targets(loss, gradient, exact, labels)
    assert_within_bounds(tallies, INDEX_BOUNDS, case)


def test_weights_are_not_rounded_to_the_logits_dtype(isa: str) -> None:
    """Of five equal classes each has the probability 1/5: a factor of w / 5 and its product."""
    weights = np.random.default_rng(3).uniform(0.5, 1, 4000)
    gradient = softmax_cross_entropy_grad(
        np.zeros((4000, 5), np.float32),
        np.zeros(4000, np.int64),
        sample_weight=weights,
        reduction="sum",
    ).grad
    assert ulp_errors(gradient[:, 1], weights / 5).max() <= 1.75


# The share of an ulp that the judge itself may be wrong by.
ORACLE_ERROR = {
    np.float32: {FLOAT64: 2.0**-16},
    np.float64: {EXTENDED: 2.0**-7, QUADRUPLE: 2.0**-50},
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_oracle_agrees_with_the_definition(distribution: str, dtype: type) -> None:
    for classes, entries in ((2, 20), (20, 40)):
        logits, labels = next(draw(distribution, classes, dtype, entries))
        weighted = effective_mass(labels, classes, row_weights(labels.size))
        for mass in (weighted, dense_mass(logits, labels)):
            definition = evaluate_by_definition(logits, mass)
            for arithmetic, allowed in ORACLE_ERROR[dtype].items():
                assert disagreement(logits, mass, arithmetic, definition) <= allowed


def test_judge_tells_a_rounded_result_from_one_a_few_spacings_off(dtype: type) -> None:
    logits, labels = next(draw("standard normal", 10, dtype, 1000))
    exact = evaluate(
        logits, effective_mass(labels, 10, np.ones(labels.size)), arithmetic_for(dtype)
    )
    loss, gradient = exact.loss.astype(dtype), exact.gradient.astype(dtype)
    tallies = judge_index_targets(loss, gradient, exact, labels)
    assert max(tally.worst for tally in tallies.values()) <= 0.5

    loss[7] += 4 * np.spacing(loss[7])
    gradient[5, labels[5]] *= 1 + 16 * np.finfo(dtype).eps
    gradient[3, (labels[3] + 1) % 10] = np.nan
    tallies = judge_index_targets(loss, gradient, exact, labels)
    assert 3.5 <= tallies["loss"].worst <= 4.5
    assert 7.5 <= tallies["target"].worst <= 32.5
    assert tallies["others"].worst == np.inf
