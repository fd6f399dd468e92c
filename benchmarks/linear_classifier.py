"""`xent_fast.sklearn.SoftmaxClassifier` beside scikit-learn's LogisticRegression.

    python -m benchmarks.linear_classifier    the table of docs/frameworks.md, and the objectives

A time is the processors', the least of twenty fits, in turns. It needs the extra `sklearn`.

Knows: three problems, and both estimators. Must not know: how either minimises.
"""

import time
import warnings

import numpy as np
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks.where import where
from scripts.pages import table
from xent_fast import softmax_cross_entropy
from xent_fast.sklearn import SoftmaxClassifier

REPEATS = 20


def problems() -> dict[str, tuple]:
    rng = np.random.default_rng(0)
    digits, labels = load_digits(return_X_y=True)
    text = sparse.random_array((2000, 5000), density=0.01, rng=rng, format="csr")
    many = rng.standard_normal((5000, 50))
    scores = many @ rng.standard_normal((50, 50)) + 3 * rng.gumbel(size=(5000, 50))
    return {
        "digits, 1,797 x 64 → 10": (digits / 16, labels),
        "sparse, like text, 2,000 x 5,000 → 5": (text, rng.integers(0, 5, 2000)),
        "made, 5,000 x 50 → 50": (many, scores.argmax(axis=1)),
    }


def objective(model, x, y) -> float:
    """Sum of the losses and half the squared coefficients."""
    loss = softmax_cross_entropy(x @ model.coef_.T + model.intercept_, y, reduction="sum")
    return loss + 0.5 * float((model.coef_**2).sum())


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    models = {
        f"{kind.__name__}{name}": kind(solver=solver)
        for solver, name in (("lbfgs", ""), ("newton-cg", ", newton-cg"))
        for kind in (LogisticRegression, SoftmaxClassifier)
    }
    times, objectives = [], []
    for problem, (x, y) in problems().items():
        shortest = dict.fromkeys(models, np.inf)
        for _ in range(REPEATS):
            for name, model in models.items():
                started = time.process_time()
                model.fit(x, y)
                shortest[name] = min(shortest[name], time.process_time() - started)
        times.append([problem, *(f"{1e3 * shortest[name]:.1f}" for name in models)])
        objectives.append([problem, *(f"{objective(one, x, y):.4f}" for one in models.values())])
    print(table(["milliseconds", *models], times), end="\n\n")
    print(table(["objective", *models], objectives), end="\n\n")
    print(where("scikit-learn", "scipy"))


if __name__ == "__main__":
    main()
