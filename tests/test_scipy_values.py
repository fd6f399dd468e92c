"""The inputs and values that SciPy documents and tests its softmax, log_softmax and logsumexp with.

Knows those inputs, the published values among them, and the formulas, evaluated in 200 digits.
Must not know SciPy: it need not be installed.
"""

from __future__ import annotations

import math
from types import ModuleType

import mpmath
import numpy as np
import pytest

DIGITS = 200
# What SciPy asks of itself.
RELATIVE_TOLERANCE = 1e-13

ROWS = {
    "0 to 3": [0, 1, 2, 3],
    "100 to 103": [100, 101, 102, 103],
    "4 to 7": [4, 5, 6, 7],
    "0 to 199": range(200),
    "0 to 9": range(10),
    "equal": [1, 1],
    "0 and 1": [0, 1],
    "one far above": [1000, 0, 0, 0],
    "far and near": [1000, 1],
    "large and equal": [1000, 1000],
    "many, large and equal": [10000] * 1000,
    "-25 to 50": [-25, 0, 25, 50],
    "1 to 750": [1, 325, 749, 750],
    "documentation, row 0": [1, 0.5, 0.2, 3],
    "documentation, row 1": [1, -1, 7, 3],
    "documentation, row 2": [2, 12, 13, 3],
    "40 apart": [0, -40],
    "1e10 and 1e-10": [1e10, 1e-10],
    "a single one": [1000],
}


def exact(row: list[float]) -> tuple[list[mpmath.mpf], list[mpmath.mpf], mpmath.mpf]:
    """Probabilities, their logarithms and the logarithm of the exponentials' sum."""
    with mpmath.workdps(DIGITS):
        x = [mpmath.mpf(float(value)) for value in row]
        lse = max(x) + mpmath.log(mpmath.fsum(mpmath.exp(value - max(x)) for value in x))
        return [mpmath.exp(value - lse) for value in x], [value - lse for value in x], lse


def assert_close(got: np.ndarray, want: object) -> None:
    want = np.asarray(want, dtype=np.float64)
    assert np.shape(got) == want.shape
    np.testing.assert_allclose(got, want, rtol=RELATIVE_TOLERANCE, atol=0)


@pytest.mark.parametrize("name", ROWS)
def test_row(implementation: ModuleType, name: str) -> None:
    row = np.array(ROWS[name], dtype=np.float64)
    probabilities, log_probabilities, lse = exact(row)
    assert_close(implementation.softmax(row), probabilities)
    assert_close(implementation.log_softmax(row), log_probabilities)
    assert_close(implementation.logsumexp(row), lse)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_matrix(implementation: ModuleType, axis: int) -> None:
    """Classes down the columns or along the rows."""
    for first, second in (
        ("documentation, row 0", "documentation, row 1"),
        ("-25 to 50", "1 to 750"),
        ("0 to 3", "4 to 7"),
    ):
        matrix = np.array([ROWS[first], ROWS[second]], dtype=np.float64)
        moved = matrix if axis in (1, -1) else np.ascontiguousarray(matrix.T)
        want = [exact(row) for row in matrix]
        probabilities = np.array([row[0] for row in want], dtype=np.float64)
        log_probabilities = np.array([row[1] for row in want], dtype=np.float64)
        lse = np.array([row[2] for row in want], dtype=np.float64)
        if axis not in (1, -1):
            probabilities, log_probabilities = probabilities.T, log_probabilities.T
        assert_close(implementation.softmax(moved, axis=axis), probabilities)
        assert_close(implementation.log_softmax(moved, axis=axis), log_probabilities)
        assert_close(implementation.logsumexp(moved, axis=axis), lse)
        assert_close(
            implementation.logsumexp(moved, axis=axis, keepdims=True), np.expand_dims(lse, axis)
        )


def test_published_probabilities(implementation: ModuleType) -> None:
    """Numbers as printed, also along an axis of several dimensions joined to one."""
    expected = [0.03205860328008499, 0.08714431874203256, 0.23688281808991013, 0.6439142598879722]
    assert_close(implementation.softmax(np.arange(4.0)), expected)
    joined = np.arange(4.0).reshape(2, 2).reshape(-1)
    assert_close(implementation.softmax(joined), expected)
    assert_close(implementation.softmax(np.array([0.0, 1.0])), np.array([1, math.e]) / (1 + math.e))
    expected = [
        [2.678636961770877e-33, 1.9287498479371314e-22, 1.3887943864771144e-11, 0.999999999986112],
        [0.0, 1.9444526359919372e-185, 0.2689414213699951, 0.7310585786300048],
    ]
    logits = np.array([ROWS["-25 to 50"], ROWS["1 to 750"]], dtype=np.float64)
    got = implementation.softmax(logits, axis=1)
    np.testing.assert_allclose(got, expected, rtol=RELATIVE_TOLERANCE, atol=5e-324)
    documented = [
        [1.05877e-01, 6.42177e-02, 4.75736e-02, 7.82332e-01],
        [2.42746e-03, 3.28521e-04, 9.79307e-01, 1.79366e-02],
        [1.22094e-05, 2.68929e-01, 7.31025e-01, 3.31885e-05],
    ]
    rows = np.array([ROWS[f"documentation, row {row}"] for row in range(3)], dtype=np.float64)
    np.testing.assert_allclose(implementation.softmax(rows), documented, rtol=6e-6)
    documented = [
        [2.11942e-01, 1.01300e-05, 2.75394e-06, 3.33333e-01],
        [2.11942e-01, 2.26030e-06, 2.47262e-03, 3.33333e-01],
        [5.76117e-01, 9.99988e-01, 9.97525e-01, 3.33333e-01],
    ]
    np.testing.assert_allclose(implementation.softmax(rows, axis=0), documented, rtol=6e-6)
    documented = [
        [4.48309e-06, 2.71913e-06, 2.01438e-06, 3.31258e-05],
        [4.48309e-06, 6.06720e-07, 1.80861e-03, 3.31258e-05],
        [1.21863e-05, 2.68421e-01, 7.29644e-01, 3.31258e-05],
    ]
    joined = implementation.softmax(rows.reshape(-1)).reshape(rows.shape)
    np.testing.assert_allclose(joined, documented, rtol=6e-6)


def test_published_logarithms(implementation: ModuleType) -> None:
    expected = [
        -3.4401896985611953,
        -2.4401896985611953,
        -1.4401896985611953,
        -0.44018969856119533,
    ]
    for offset in (0, 4, 100):
        assert_close(implementation.log_softmax(np.arange(4.0) + offset), expected)
    np.testing.assert_array_equal(implementation.log_softmax(np.array([1000.0, 1.0])), [0, -999])
    columns = np.array([[1000.0, 1.0], [1000.0, 1.0]])
    assert_close(implementation.log_softmax(columns, axis=0), np.full((2, 2), math.log(0.5)))
    assert_close(implementation.logsumexp(np.arange(10.0)), 9.4586297444267107)
    assert_close(implementation.logsumexp(np.array([1000.0, 1000.0])), 1000 + math.log(2))
    assert_close(implementation.logsumexp(np.full(1000, 10000.0)), 10000 + math.log(1000))
    # Once 0 in SciPy: log(1 + exp(-40)).
    assert_close(implementation.logsumexp(np.array([0.0, -40.0])), 4.248354255291589e-18)


def test_weights_of_exponentials_are_logarithms_added(implementation: ModuleType) -> None:
    """SciPy's `b`: log sum b exp(a) is the logsumexp of a + log b, and b = 0 is a logit of -inf."""
    for a, b, expected in (
        (np.arange(10.0), np.arange(10.0, 0.0, -1.0), 9.9170178533034665),
        (np.array([1000.0, 1000.0]), np.array([1.2, 1.2]), 1000 + math.log(2.4)),
        (np.array([1.0, 10000.0]), np.array([1.0, 0.0]), 1.0),
        (np.array([math.log(2), 2.0, math.log(3)]), np.array([1.0, 0.0, 1.0]), math.log(5)),
    ):
        with np.errstate(divide="ignore"):
            logits = a + np.log(b)
        assert_close(implementation.logsumexp(logits), expected)


def test_a_million_small_terms(implementation: ModuleType) -> None:
    """The sum of a million times 1e-40 comes back as 1e-34."""
    logits = np.full((2, 10**6), math.log(1e-40))
    want = mpmath.mpf(10) ** 6 * mpmath.exp(mpmath.mpf(math.log(1e-40)))
    got = implementation.logsumexp(logits)
    np.testing.assert_allclose(np.exp(got), np.full(2, float(want)), rtol=1e-13)
    rows = implementation.logsumexp(logits[:, :1000], axis=0)
    np.testing.assert_allclose(np.exp(rows), np.full(1000, 2e-40), rtol=1e-13)


def test_infinities_and_nan(implementation: ModuleType) -> None:
    inf, nan = np.inf, np.nan
    for row, expected in (
        ([inf], inf),
        ([-inf], -inf),
        ([nan], nan),
        ([-inf, -inf], -inf),
        ([inf, inf], inf),
        ([inf, -inf], inf),
        ([-inf, inf], inf),
        ([inf, nan], nan),
    ):
        assert_close(implementation.logsumexp(np.array(row)), expected)
    magnitudes = np.array([[1e10, 1e-10], [-1e10, -inf]])
    assert_close(implementation.logsumexp(magnitudes, axis=-1), [1e10, -1e10])


@pytest.mark.parametrize(("axis", "shape"), [(2, (1, 2, 4)), (0, (2, 3, 4)), (-1, (1, 2, 3))])
def test_shapes(implementation: ModuleType, axis: int, shape: tuple[int, ...]) -> None:
    logits = np.ones((1, 2, 3, 4))
    assert implementation.logsumexp(logits, axis=axis).shape == shape
    kept = implementation.logsumexp(logits, axis=axis, keepdims=True).shape
    assert kept == tuple(1 if i == axis % 4 else n for i, n in enumerate(logits.shape))


def test_no_class_is_an_error_here(implementation: ModuleType) -> None:
    """SciPy's logsumexp of nothing is -inf; here a row must have a class."""
    with pytest.raises(ValueError, match="class"):
        implementation.logsumexp(np.empty(0))
