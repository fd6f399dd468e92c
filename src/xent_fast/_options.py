"""Keyword arguments that several functions share, for type checkers; the pages say what they mean.

Knows: names and types. Must not know: what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, SupportsIndex, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating[Any]]


class CommonOptions(TypedDict, total=False):
    """Of every loss of logits."""

    sample_weight: ArrayLike | None
    ignore_index: SupportsIndex | None
    label_smoothing: float
    temperature: float
    z_loss: float
    scale: float
    num_threads: SupportsIndex | None


class LossOptions(CommonOptions, total=False):
    """Of losses of logits that are given."""

    axis: SupportsIndex
    weight: ArrayLike | None


class GradOptions(LossOptions, total=False):
    """Of the loss with its gradient."""

    grad_output: ArrayLike | None
    out: FloatArray | None


class SecondOrderOptions(LossOptions, total=False):
    """Of the Hessian's products and diagonal."""

    reduction: Literal["mean", "sum", "none"]
    out: FloatArray | None


class GradHessianOptions(LossOptions, total=False):
    """Of the loss with its gradient and the Hessian's diagonal."""

    factor: float
    min_hessian: float
    grad_out: FloatArray | None
    hessian_out: FloatArray | None


class LayerOptions(CommonOptions, total=False):
    """Of the loss of logits that a layer makes."""

    class_weight: ArrayLike | None
    chunk_rows: SupportsIndex | None
    progress: Callable[[int, int], object] | None


class LayerGradOptions(LayerOptions, total=False):
    """Of that loss with its gradients."""

    grad_hidden_out: FloatArray | None
    grad_weight_out: FloatArray | None
    grad_bias_out: FloatArray | None
    accumulate: bool
