"""Keyword arguments that several functions share, for type checkers; the pages say what they mean.

Knows: names and types. Must not know: what they do.
"""

from collections.abc import Callable
from typing import Literal, Required, SupportsIndex, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from xent_fast._result import FloatArray
from xent_fast._sampler import Sampler

class RowOptions(TypedDict, total=False):
    """Of whatever makes one number of each row."""

    sample_weight: ArrayLike | None
    scale: float
    num_threads: SupportsIndex | None

class CommonOptions(RowOptions, total=False):
    """Of every loss of logits."""

    ignore_index: SupportsIndex | None
    label_smoothing: float
    temperature: float
    z_loss: float

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

class EntropyOptions(RowOptions, total=False):
    """Of entropies."""

    axis: SupportsIndex
    temperature: float

class EntropyGradOptions(EntropyOptions, total=False):
    """Of entropies with their gradient."""

    grad_output: ArrayLike | None
    out: FloatArray | None

class ProbabilityOptions(RowOptions, total=False):
    """Of the loss of probabilities."""

    axis: SupportsIndex
    weight: ArrayLike | None
    ignore_index: SupportsIndex | None
    label_smoothing: float
    clip: float

class ProbabilityGradOptions(ProbabilityOptions, total=False):
    """Of that loss with its gradient."""

    out: FloatArray | None

class DistillationOptions(RowOptions, total=False):
    """Of distillation."""

    axis: SupportsIndex
    weight: ArrayLike | None
    ignore_index: SupportsIndex | None
    label_smoothing: float
    temperature: float
    alpha: float
    out: FloatArray | None

class SampledOptions(RowOptions, total=False):
    """Of the loss among sampled classes."""

    num_sampled: Required[SupportsIndex]
    sampler: Sampler
    remove_accidental_hits: bool
    rng: np.random.Generator | int | None

class TargetGradOptions(RowOptions, total=False):
    """Of the gradient with respect to dense targets."""

    axis: SupportsIndex
    weight: ArrayLike | None
    label_smoothing: float
    temperature: float
    reduction: Literal["mean", "sum", "none"]
    grad_output: ArrayLike | None

class SoftmaxOptions(TypedDict, total=False):
    """Of probabilities and their logarithms."""

    axis: SupportsIndex
    out: FloatArray | None
    num_threads: SupportsIndex | None

class ProductOptions(SoftmaxOptions, total=False):
    """Of their backward passes."""

    grad_output: ArrayLike | None

class RangeGradOptions(TypedDict, total=False):
    """Of the gradient for a range of classes."""

    first_class: Required[SupportsIndex]
    axis: SupportsIndex
    weight: ArrayLike | None
    sample_weight: ArrayLike | None
    z_loss: float
    scale: float
    has_exponentials: bool
    out: FloatArray | None
