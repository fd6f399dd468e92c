"""Objectives for gradient boosting: gradient and Hessian diagonal as XGBoost and LightGBM ask.

Labels come as these libraries hand them over (float32), weights and memory order too: XGBoost's
scores are float32 rows, LightGBM's float64 columns. docs/boosting.md has a recipe for CatBoost.

Knows: how the libraries call an objective, what their own objectives multiply the Hessian with.
Must not know: the libraries themselves, which it never imports; how a derivative is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xent_fast._second_order import softmax_cross_entropy_grad_hessian

__all__ = ["Objective", "lightgbm_objective", "xgboost_objective"]

FloatArray = NDArray[np.floating[Any]]


class Objective:
    """What `xgboost_objective` and `lightgbm_objective` return: call it, or hand it over.

    Parameters
    ----------
    factor : float or None
        What the Hessian diagonal is multiplied with; None for ``K / (K - 1)`` of ``K`` classes.
    min_hessian : float
        What smaller numbers of the diagonal become.
    soft_labels : array_like or None
        Targets that take the place of the labels.
    class_weight : array_like or None
        One number a class.
    label_smoothing : float
        Share of each row's target mass that is spread evenly over the classes.
    num_threads : int or None
        As for `softmax_cross_entropy_grad`.
    """

    def __init__(
        self,
        *,
        factor: float | None,
        min_hessian: float,
        soft_labels: ArrayLike | None = None,
        class_weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        self.factor = factor
        self.min_hessian = min_hessian
        self.soft_labels = soft_labels
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.num_threads = num_threads

    def __call__(
        self, first: Any, second: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian diagonal of every score.

        Parameters
        ----------
        first, second
            Scores of shape (rows, classes) and a training set with ``get_label()`` and
            ``get_weight()``, as the libraries' ``train`` has it; or labels and scores, as their
            scikit-learn classes do.
        sample_weight : array_like of shape (rows,), optional
            With labels and scores: one number a row.

        Returns
        -------
        grad, hessian : ndarray of shape (rows, classes)
            Of the scores' dtype and memory order.

        Raises
        ------
        ValueError
            If the scores have no class axis, a label is no class, or soft labels have another
            shape than the scores.
        """
        if hasattr(second, "get_label"):
            scores, labels, sample_weight = first, second.get_label(), second.get_weight()
            if sample_weight is not None and np.size(sample_weight) == 0:
                sample_weight = None
        else:
            labels, scores = first, second
        scores = np.asarray(scores)
        if scores.ndim != 2:
            raise ValueError(
                f"scores must have shape (rows, classes), not {scores.shape}: "
                "set num_class to the number of classes, 2 or more"
            )
        classes = scores.shape[1]
        factor = self.factor if self.factor is not None else classes / max(classes - 1, 1)
        result = softmax_cross_entropy_grad_hessian(
            scores,
            _as_class_indices(labels, classes) if self.soft_labels is None else self._soft(scores),
            weight=self.class_weight,
            sample_weight=sample_weight,
            label_smoothing=self.label_smoothing,
            factor=factor,
            min_hessian=self.min_hessian,
            reduction="sum",
            num_threads=self.num_threads,
        )
        return result.grad, result.hessian

    def _soft(self, scores: FloatArray) -> FloatArray:
        targets = np.asarray(self.soft_labels, dtype=scores.dtype)
        if targets.shape != scores.shape:
            raise ValueError(
                f"soft_labels must have the scores' shape {scores.shape}, not {targets.shape}; "
                "an objective with soft labels serves the training set alone"
            )
        return targets


def xgboost_objective(
    *,
    soft_labels: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    min_hessian: float = 1e-16,
    num_threads: int | None = None,
) -> Objective:
    """Softmax cross-entropy as an objective of XGBoost, with the numbers of ``multi:softprob``.

    Parameters
    ----------
    soft_labels : array_like of shape (rows, classes), optional
        Targets in place of the training set's labels: how much of a row belongs to each class, in
        the order of the training set's rows. XGBoost's own objectives take none.
    class_weight : array_like of shape (classes,), optional
        Multiplies what belongs to each class.
    label_smoothing : float in [0, 1], default 0.0
        Share of each row's target mass that is spread evenly over the classes.
    min_hessian : float, default 1e-16
        What smaller numbers of the Hessian diagonal become, after all weights.
    num_threads : int, optional
        As for `softmax_cross_entropy_grad`.

    Returns
    -------
    Objective
        For ``xgboost.train(..., obj=...)`` with ``num_class`` among the parameters, or
        ``XGBClassifier(objective=...)``. Weights of rows are applied. The model predicts margins:
        `xent_fast.softmax` makes probabilities of them.

    See Also
    --------
    lightgbm_objective : The same for LightGBM.

    Notes
    -----
    The Hessian diagonal is ``2 p (1 - p)``, as XGBoost's own.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast.boosting import xgboost_objective
    >>> grad, hessian = xgboost_objective()(np.array([1.0]), np.zeros((1, 4), np.float32))
    >>> grad
    array([[ 0.25, -0.75,  0.25,  0.25]], dtype=float32)
    >>> hessian
    array([[0.375, 0.375, 0.375, 0.375]], dtype=float32)
    """
    return Objective(
        factor=2.0,
        min_hessian=min_hessian,
        soft_labels=soft_labels,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        num_threads=num_threads,
    )


def lightgbm_objective(
    *,
    soft_labels: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    min_hessian: float = 0.0,
    num_threads: int | None = None,
) -> Objective:
    """Softmax cross-entropy as an objective of LightGBM, with the numbers of ``multiclass``.

    Parameters
    ----------
    soft_labels : array_like of shape (rows, classes), optional
        Targets in place of the training set's labels: how much of a row belongs to each class, in
        the order of the training set's rows. LightGBM's own objectives take none.
    class_weight : array_like of shape (classes,), optional
        Multiplies what belongs to each class.
    label_smoothing : float in [0, 1], default 0.0
        Share of each row's target mass that is spread evenly over the classes.
    min_hessian : float, default 0.0
        What smaller numbers of the Hessian diagonal become, after all weights.
    num_threads : int, optional
        As for `softmax_cross_entropy_grad`.

    Returns
    -------
    Objective
        For ``lightgbm.train({"objective": ..., "num_class": ...}, ...)`` or
        ``LGBMClassifier(objective=...)``. Weights of rows are applied. The model predicts raw
        scores: `xent_fast.softmax` makes probabilities of them.

    See Also
    --------
    xgboost_objective : The same for XGBoost.

    Notes
    -----
    The Hessian diagonal is ``K / (K - 1) p (1 - p)`` of ``K`` classes, as LightGBM's own. With an
    objective from outside LightGBM starts from scores of 0; its own starts from the logarithms of
    the classes' shares, unless ``boost_from_average=False``.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast.boosting import lightgbm_objective
    >>> grad, hessian = lightgbm_objective()(np.array([1.0]), np.zeros((1, 4)))
    >>> hessian
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    return Objective(
        factor=None,
        min_hessian=min_hessian,
        soft_labels=soft_labels,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        num_threads=num_threads,
    )


def _as_class_indices(labels: Any, classes: int) -> NDArray[np.integer[Any]]:
    """Labels as integers; the libraries hand them over as float32."""
    given = np.asarray(labels)
    if given.dtype.kind in "iu":
        return given
    with np.errstate(invalid="ignore"):
        indices = given.astype(np.int32)
    wrong = np.flatnonzero(indices != given)
    if wrong.size:
        raise ValueError(
            f"labels must be whole numbers from 0 to {classes - 1}, not {given[wrong[0]]} "
            f"(row {wrong[0]})"
        )
    return indices
