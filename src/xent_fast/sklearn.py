"""A linear softmax classifier with scikit-learn's interface that takes soft labels too.

The objective, with logits z = X W' + b of row i, targets t_i, row weights a_i and A their sum:

    1/A sum_i a_i sum_k t_ik (lse(z_i) - z_ik) + 1/(2 C A) |W|^2

the intercept without penalty: that of scikit-learn's LogisticRegression, divided by A. Two classes
have one vector of coefficients, as there: the logits of the first class are 0.

Knows: scikit-learn's conventions, SciPy's minimisers. Must not know: how a derivative is computed.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._backward import softmax_vjp
from xent_fast._extras import needed_by
from xent_fast._loss import softmax_cross_entropy_grad
from xent_fast._softmax import log_softmax, softmax

with needed_by("xent_fast.sklearn", "sklearn"):
    from scipy.optimize import minimize
    from scipy.special import expit
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )

__all__ = ["SoftmaxClassifier"]

FloatArray = NDArray[np.floating[Any]]
SOLVERS = {"lbfgs": "L-BFGS-B", "newton-cg": "Newton-CG"}


class SoftmaxClassifier(ClassifierMixin, BaseEstimator):
    """Linear classifier trained by softmax cross-entropy, on class labels or on soft labels.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty on the squared coefficients; ``np.inf`` for none.
    fit_intercept : bool, default True
        Whether each class has a constant of its own.
    class_weight : dict of label to weight, "balanced" or None, default None
        Multiplies the weights of each class's rows; "balanced" makes the classes count alike.
    solver : {"lbfgs", "newton-cg"}, default "lbfgs"
        SciPy's minimiser: L-BFGS, or Newton's method with products of the Hessian and a vector.
    tol : float, default 1e-4
        The largest entry of the gradient at which L-BFGS stops, the mean change of a coefficient at
        which Newton's method does.
    max_iter : int, default 100
        Steps at most.
    warm_start : bool, default False
        Whether `fit` starts from the coefficients that are there.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels; of soft labels 0, 1, and so on.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Constants.
    n_iter_ : ndarray of shape (1,)
        Steps taken.
    n_features_in_ : int
        Features seen by `fit`.

    See Also
    --------
    xent_fast.softmax_cross_entropy_grad : The loss.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast.sklearn import SoftmaxClassifier
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> votes = np.array([[5, 0], [4, 1], [1, 4], [0, 5]]) / 5  # of five people a row
    >>> SoftmaxClassifier().fit(x, votes).predict([[0.5], [2.5]])
    array([0, 1])
    """

    classes_: NDArray[Any]
    coef_: FloatArray
    intercept_: FloatArray
    n_iter_: NDArray[np.int32]

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str = "lbfgs",
        tol: float = 1e-4,
        max_iter: int = 100,
        warm_start: bool = False,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def __sklearn_tags__(self) -> Any:
        """Sparse features are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Find the coefficients.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            float32 is kept; everything else becomes float64.
        y : array_like of shape (n_samples,) or (n_samples, n_classes)
            Class labels; or soft labels: how much of each row belongs to each class, 0 or more.
        sample_weight : array_like of shape (n_samples,), optional
            Row weights, 1 if not given.

        Returns
        -------
        SoftmaxClassifier
            Itself.

        Raises
        ------
        ValueError
            If `X` or `y` is no such array, there are fewer than two classes, or a parameter is
            outside its domain.
        """
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {sorted(SOLVERS)}, not {self.solver!r}")
        if not self.C > 0:
            raise ValueError(f"C must be above 0, not {self.C}")
        shape = np.asarray(y).shape
        is_soft = len(shape) == 2 and shape[1] > 1
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            multi_output=is_soft,
        )
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        targets: Any = self._soft_targets(y, X) if is_soft else self._class_targets(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must have at least two classes; there is only one class: {self.classes_[0]}"
            )
        if is_soft:
            class_weight, total = self._weights_of_soft(targets, weights), float(weights.sum())
            targets = targets * class_weight.astype(X.dtype)
        else:
            weights = weights * self._weights_of_classes(y, weights)[targets]
            total = float(weights.sum())
        problem = _Problem(X, targets, weights, total, len(self.classes_), self)
        self._minimise(problem)
        return self

    def _class_targets(self, y: Any) -> NDArray[np.intp]:
        check_classification_targets(y)
        self.classes_, indices = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        return indices.astype(np.intp, copy=False)

    def _soft_targets(self, y: Any, X: Any) -> FloatArray:
        targets: FloatArray = np.asarray(y, dtype=X.dtype)
        if (targets < 0).any():
            raise ValueError(f"soft labels must be 0 or more, not {targets.min()}")
        self.classes_ = np.arange(targets.shape[1])
        return targets

    def _weights_of_classes(self, y: Any, weights: FloatArray) -> FloatArray:
        found: FloatArray = compute_class_weight(
            self.class_weight, classes=self.classes_, y=y, sample_weight=weights
        )
        return found

    def _weights_of_soft(self, targets: FloatArray, weights: FloatArray) -> FloatArray:
        if self.class_weight == "balanced":
            mass = np.asarray(weights @ targets, dtype=np.float64)
            return mass.sum() / (len(mass) * mass)
        given = self.class_weight or {}
        return np.array([given.get(label, 1.0) for label in range(targets.shape[1])])

    def _minimise(self, problem: _Problem) -> None:
        start = np.zeros(problem.shape)
        if self.warm_start and hasattr(self, "coef_"):
            if self.coef_.shape != problem.coefficients_of(start).shape:
                raise ValueError(
                    f"warm_start: coef_ of shape {self.coef_.shape} does not fit this problem"
                )
            problem.coefficients_of(start)[...] = self.coef_
            if self.fit_intercept:
                start[:, -1] = self.intercept_
        options: dict[str, Any] = {"maxiter": self.max_iter}
        if self.solver == "lbfgs":
            options |= {"gtol": self.tol, "ftol": 64 * np.finfo(np.float64).eps, "maxls": 50}
            more = {}
        else:
            options["xtol"] = self.tol
            more = {"hessp": problem.hessian_times}
        result = minimize(
            problem.loss_and_grad,
            start.ravel(),
            jac=True,
            method=SOLVERS[self.solver],
            options=options,
            **more,
        )
        if result.nit >= self.max_iter and not result.success:
            warnings.warn(
                f"{self.solver} stopped after max_iter={self.max_iter} steps before it converged; "
                "scale the features or raise max_iter",
                ConvergenceWarning,
                stacklevel=3,
            )
        found = result.x.reshape(problem.shape).astype(problem.dtype)
        self.coef_ = problem.coefficients_of(found).copy()
        self.intercept_ = found[:, -1].copy() if self.fit_intercept else np.zeros(len(found))
        self.n_iter_ = np.array([max(result.nit, 1)], dtype=np.int32)

    def decision_function(self, X: Any) -> FloatArray:
        """The logits; of two classes the second's alone.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            In nats.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        logits: FloatArray = X @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        logits = self.decision_function(X)
        chosen = logits > 0 if logits.ndim == 1 else logits.argmax(axis=1)
        labels: NDArray[Any] = self.classes_[chosen.astype(np.intp)]
        return labels

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Each row sums to 1.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return np.stack([expit(-logits), expit(logits)], axis=1)
        return softmax(logits)

    def predict_log_proba(self, X: Any) -> FloatArray:
        """Logarithms of the probabilities.

        Parameters
        ----------
        X : array_like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In nats.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        return log_softmax(logits)


class _Problem:
    """The objective as SciPy's minimisers ask for it: of one vector, in float64."""

    def __init__(
        self,
        X: Any,
        targets: NDArray[Any],
        weights: FloatArray,
        total: float,
        classes: int,
        model: SoftmaxClassifier,
    ) -> None:
        self.X = X
        self.dtype = X.dtype
        self.targets = targets
        self.weights = weights
        self.total = total
        self.is_binary = classes == 2
        self.has_intercept = bool(model.fit_intercept)
        self.shape = (1 if self.is_binary else classes, X.shape[1] + self.has_intercept)
        self.penalty = 1.0 / (model.C * total)
        self.row_scale = (weights / total).astype(self.dtype)[:, np.newaxis]
        if targets.ndim == 2:  # probabilities' share of a row of soft labels that do not sum to 1
            self.row_scale = self.row_scale * targets.sum(axis=1, keepdims=True)
        self.at: FloatArray | None = None  # where `logits` were taken
        self.logits: Any = None
        self.probabilities: Any = None

    def coefficients_of(self, matrix: FloatArray) -> FloatArray:
        """A view without the intercepts."""
        return matrix[:, : self.shape[1] - self.has_intercept]

    def loss_and_grad(self, w: FloatArray) -> tuple[float, FloatArray]:
        logits = self._logits_of(w)
        self.at, self.logits, self.probabilities = w.copy(), logits, None
        loss, grad = softmax_cross_entropy_grad(
            logits, self.targets, sample_weight=self.weights, reduction="sum", scale=1 / self.total
        )
        matrix = self.coefficients_of(w.reshape(self.shape))
        loss += 0.5 * self.penalty * float(np.vdot(matrix, matrix))
        return loss, self._to_parameters(grad, w)

    def hessian_times(self, w: FloatArray, v: FloatArray) -> FloatArray:
        """A row's Hessian is that of softmax itself: with p kept it is `softmax_vjp`."""
        if self.at is None or not np.array_equal(w, self.at):
            self.at, self.logits, self.probabilities = w.copy(), self._logits_of(w), None
        if self.probabilities is None:
            self.probabilities = softmax(self.logits)
        along = softmax_vjp(self.probabilities, self._logits_of(v))
        along *= self.row_scale
        return self._to_parameters(along, v)

    def _logits_of(self, w: FloatArray) -> FloatArray:
        matrix = w.reshape(self.shape).astype(self.dtype, copy=False)
        logits: FloatArray = self.X @ self.coefficients_of(matrix).T
        if self.has_intercept:
            logits += matrix[:, -1]
        if self.is_binary:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        return logits

    def _to_parameters(self, of_logits: FloatArray, w: FloatArray) -> FloatArray:
        """What a derivative with respect to the logits is to the parameters; the penalty's too."""
        if self.is_binary:
            of_logits = of_logits[:, 1:]
        result = np.empty(self.shape)
        self.coefficients_of(result)[...] = (self.X.T @ of_logits).T
        if self.has_intercept:
            result[:, -1] = of_logits.sum(axis=0, dtype=np.float64)
        of_penalty = self.coefficients_of(w.reshape(self.shape))
        self.coefficients_of(result)[...] += self.penalty * of_penalty
        return result.ravel()
