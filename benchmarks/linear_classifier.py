"""`xent_fast.sklearn.SoftmaxClassifier` beside scikit-learn's LogisticRegression.

    python -m benchmarks.linear_classifier

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
        "digits, 1,797 x 64 -> 10": (digits / 16, labels),
        "sparse, 2,000 x 5,000 -> 5": (text, rng.integers(0, 5, 2000)),
        "made, 5,000 x 50 -> 50": (many, scores.argmax(axis=1)),
    }


def objective(model, x, y) -> float:
    """Sum of the losses and half the squared coefficients."""
    loss = softmax_cross_entropy(x @ model.coef_.T + model.intercept_, y, reduction="sum")
    return loss + 0.5 * float((model.coef_**2).sum())


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    models = {
        f"{kind.__name__}, {solver}": kind(solver=solver)
        for solver in ("lbfgs", "newton-cg")
        for kind in (LogisticRegression, SoftmaxClassifier)
    }
    for problem, (x, y) in problems().items():
        print(problem)
        shortest = dict.fromkeys(models, np.inf)
        for _ in range(REPEATS):
            for name, model in models.items():
                started = time.process_time()
                model.fit(x, y)
                shortest[name] = min(shortest[name], time.process_time() - started)
        for name, model in models.items():
            found = f"objective {objective(model, x, y):.4f}"
            print(f"  {name:29} {1e3 * shortest[name]:7.1f} ms  {found}")


if __name__ == "__main__":
    main()
