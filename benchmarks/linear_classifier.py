"""`xent_fast.sklearn.SoftmaxClassifier` beside scikit-learn's LogisticRegression.

Knows: three problems, and both estimators. Must not know: how either minimises.

    python benchmarks/linear_classifier.py
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

REPEATS = 5


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
        "LogisticRegression": LogisticRegression(),
        "SoftmaxClassifier": SoftmaxClassifier(),
        "the same, newton-cg": SoftmaxClassifier(solver="newton-cg"),
    }
    for problem, (x, y) in problems().items():
        print(problem)
        for name, model in models.items():
            shortest = np.inf
            for _ in range(REPEATS):
                started = time.process_time()
                model.fit(x, y)
                shortest = min(shortest, time.process_time() - started)
            print(f"  {name:20} {1e3 * shortest:7.1f} ms  objective {objective(model, x, y):.4f}")


if __name__ == "__main__":
    main()
