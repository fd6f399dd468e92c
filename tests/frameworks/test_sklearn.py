"""`xent_fast.sklearn` by scikit-learn's own checks, and beside its LogisticRegression.

Knows scikit-learn's conventions. Must not know how a derivative is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

datasets = pytest.importorskip("sklearn.datasets")
sparse = pytest.importorskip("scipy.sparse")
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from xent_fast.sklearn import SoftmaxClassifier, _Problem  # noqa: E402

SOLVERS = ("lbfgs", "newton-cg")
EXACT: dict[str, Any] = {"tol": 1e-8, "max_iter": 2000}


def checks() -> list[Any]:
    """All but those of arrays of other libraries, which skip themselves."""
    return [
        pytest.param(estimator, check, id=f"{estimator.solver}-{check.func.__name__}-{number}")
        for solver in SOLVERS
        for number, (estimator, check) in enumerate(
            estimator_checks_generator(SoftmaxClassifier(solver=solver))
        )
        if "array_api" not in check.func.__name__
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), checks())
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_digits(return_X_y=True)
    return StandardScaler().fit_transform(x)[:600], y[:600]


def iris() -> tuple[np.ndarray, np.ndarray]:
    return datasets.load_iris(return_X_y=True)


def two_of_iris() -> tuple[np.ndarray, np.ndarray]:
    x, y = iris()
    return x[50:], np.array(["no", "yes"])[y[50:] - 1]


def text_like() -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    x = sparse.random_array((400, 1000), density=0.01, rng=rng, format="csr")
    return x, rng.integers(0, 5, 400)


DATA = {"digits": digits, "iris": iris, "two classes": two_of_iris, "sparse": text_like}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("options", [{}, {"C": 0.05, "fit_intercept": False}], ids=str)
@pytest.mark.parametrize("name", DATA)
def test_coefficients_of_logistic_regression(
    name: str, options: dict[str, Any], solver: str
) -> None:
    x, y = DATA[name]()
    ours = SoftmaxClassifier(solver=solver, **EXACT, **options).fit(x, y)
    theirs = LogisticRegression(**EXACT, **options).fit(x, y)
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=2e-4)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=0.005)
    np.testing.assert_allclose(
        ours.predict_log_proba(x), np.log(ours.predict_proba(x)), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 2: 0.5}], ids=str)
def test_weights(class_weight: Any, solver: str) -> None:
    x, y = iris()
    weights = np.random.default_rng(0).random(len(y))
    ours = SoftmaxClassifier(solver=solver, class_weight=class_weight, **EXACT)
    theirs = LogisticRegression(class_weight=class_weight, **EXACT)
    ours.fit(x, y, weights)
    theirs.fit(x, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)
    soft = SoftmaxClassifier(solver=solver, class_weight=class_weight, **EXACT)
    soft.fit(x, np.eye(3)[y], weights)
    np.testing.assert_allclose(soft.coef_, ours.coef_, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_soft_labels(solver: str) -> None:
    """One-hot rows are class labels; a row shared by two classes is two weighted rows."""
    x, y = iris()
    hard = SoftmaxClassifier(solver=solver, **EXACT).fit(x, y)
    soft = SoftmaxClassifier(solver=solver, **EXACT).fit(x, np.eye(3)[y])
    np.testing.assert_allclose(soft.coef_, hard.coef_, atol=1e-4)
    other = np.random.default_rng(0).integers(0, 3, len(y))
    shared = 0.7 * np.eye(3)[y] + 0.3 * np.eye(3)[other]
    got = SoftmaxClassifier(solver=solver, **EXACT).fit(x, shared)
    want = LogisticRegression(**EXACT).fit(
        np.concatenate([x, x]),
        np.concatenate([y, other]),
        np.repeat([0.7, 0.3], len(y)),
    )
    np.testing.assert_allclose(got.coef_, want.coef_, atol=2e-3)
    two = SoftmaxClassifier(solver=solver, **EXACT).fit(x[50:], np.eye(2)[y[50:] - 1])
    want = LogisticRegression(**EXACT).fit(x[50:], y[50:])
    np.testing.assert_allclose(two.coef_, want.coef_, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_derivatives_are_finite_differences(kind: str, classes: int) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((30, 3)), rng.random(30)
    targets: Any = rng.integers(0, classes, 30) if kind == "index" else rng.random((30, classes))
    problem = _Problem(x, targets, weights, weights.sum(), classes, SoftmaxClassifier())
    w, v = rng.standard_normal((2, int(np.prod(problem.shape))))
    h = 1e-6
    loss_up, grad_up = problem.loss_and_grad(w + h * v)
    loss_down, grad_down = problem.loss_and_grad(w - h * v)
    _, grad = problem.loss_and_grad(w)
    assert (loss_up - loss_down) / (2 * h) == pytest.approx(grad @ v, rel=1e-7)
    np.testing.assert_allclose(
        problem.hessian_times(w, v), (grad_up - grad_down) / (2 * h), atol=1e-7
    )


def test_warm_start_and_convergence() -> None:
    x, y = digits()
    with pytest.warns(ConvergenceWarning, match="max_iter=3"):
        model = SoftmaxClassifier(max_iter=3, warm_start=True).fit(x, y)
    model.set_params(max_iter=500).fit(x, y)
    first = model.n_iter_[0]
    assert model.fit(x, y).n_iter_[0] < first
    with pytest.raises(ValueError, match="warm_start: coef_ of shape"):
        model.fit(x, y % 3)


def test_float32_stays() -> None:
    x, y = digits()
    model = SoftmaxClassifier().fit(x.astype(np.float32), y)
    assert model.coef_.dtype == np.float32
    assert model.predict_proba(x.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("words", "options", "y"),
    [
        ("solver must be one of", {"solver": "sag"}, [0, 1]),
        ("C must be above 0, not 0", {"C": 0}, [0, 1]),
        ("soft labels must be 0 or more, not -0.5", {}, [[1.5, -0.5], [0, 1]]),
        ("only one class: 1", {}, [1, 1]),
    ],
)
def test_errors(words: str, options: dict[str, Any], y: Any) -> None:
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier(**options).fit(np.eye(2), np.array(y))
