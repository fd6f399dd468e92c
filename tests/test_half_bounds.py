"""What docs/half_precision.md promises of results of 16 bits, over the register of functions.

Each is the float32 result rounded once; and the gradients and products of every option are within
0.51 ulp of the storage type, counted at the larger of the terms that they are a difference of.

Knows: those terms, by the definitions of `reference`; the register. Must not know: how the library
widens and rounds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import bits

import xent_fast
from xent_fast import reference
from xent_fast._bits import cases, functions
from xent_fast.reference._loss import Problem, problem_of_logits

HALVES = (np.float16, ml_dtypes.bfloat16)
by_half = pytest.mark.parametrize("half", HALVES, ids=lambda half: np.dtype(half).name)
CLASSES = (3, 33, 129, 2049)
REGISTER = functions.FUNCTIONS
COMPILED = [function for function in REGISTER.values() if function.is_compiled]
# Statistics leave exponentials in float32 alone.
NOT_ROUNDED = ("exponentials",)


def by_name(function: functions.Function) -> str:
    return function.name


def widened(batch: functions.Batch) -> functions.Batch:
    """The same numbers in float32."""
    arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(
        batch,
        **{
            name: array.astype(np.float32)
            for name, array in arrays.items()
            if isinstance(array, np.ndarray) and array.dtype == batch.logits.dtype
        },
    )


def assert_rounded_once(got: Any, want: Any, case: str) -> None:
    """Which NaN it is does not count."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
    is_nan = np.isnan(rounded.astype(float))
    assert (np.isnan(got.astype(float)) == is_nan).all(), case
    assert np.array_equal(bits(got[~is_nan]), bits(rounded[~is_nan])), case


@by_half
@pytest.mark.parametrize("function", COMPILED, ids=by_name)
def test_float32_rounded_once(function: functions.Function, half: type, isa: str) -> None:
    for classes in CLASSES:
        batch = cases.make_batch(classes, half)
        for kind in function.kinds:
            for variant in set(function.variants(kind)).difference(NOT_ROUNDED):
                call = function.call(batch, kind, variant)
                got = functions.arrays_of(call())
                want = functions.arrays_of(function.call(widened(batch), kind, variant)())
                for mine, theirs in zip(got, want, strict=True):
                    assert_rounded_once(np.atleast_1d(mine), np.atleast_1d(theirs), call.name)


# --- the larger of the terms ----------------------------------------------------------------------

# Each takes the arguments of a call and gives the magnitude of its result's terms.
Terms = Callable[..., Any]


def problem_of(logits: Any, targets: Any, options: dict[str, Any]) -> Problem:
    known = inspect.signature(problem_of_logits).parameters
    return problem_of_logits(logits, targets, **{k: v for k, v in options.items() if k in known})


def of_gradient(logits: Any, targets: Any, grad_output: Any = 1.0, **options: Any) -> Any:
    """Of Q p - q + 2 z lse p, weighted."""
    problem = problem_of(logits, targets, options)
    rows, masses = problem.softmax, problem.targets
    of_lse = 2 * problem.z_loss * rows.lse[:, np.newaxis] * rows.p
    terms = (masses.mass.sum(axis=1, keepdims=True) * rows.p, masses.mass, of_lse)
    weight = (masses.row_weight * grad_output)[:, np.newaxis] / problem.temperature
    return np.max(np.abs(terms), axis=0) * np.abs(weight)


def of_curvature(problem: Problem) -> tuple[Any, Any]:
    """Of Q + 2 z lse, and the factor of all of the second order."""
    masses = problem.targets
    of_lse = 2 * problem.z_loss * problem.softmax.lse
    curvature = np.maximum(np.abs(masses.mass.sum(axis=1)), np.abs(of_lse))
    weight = masses.row_weight / problem.temperature**2
    return curvature[:, np.newaxis], np.abs(weight)[:, np.newaxis]


def of_diagonal(logits: Any, targets: Any, factor: float = 1.0, **options: Any) -> Any:
    problem = problem_of(logits, targets, options)
    curvature, weight = of_curvature(problem)
    p = problem.softmax.p
    terms = (curvature * p * problem.softmax.one_minus_p, abs(2 * problem.z_loss) * p**2)
    return factor * weight * np.maximum(*terms)


def of_product(logits: Any, targets: Any, vector: Any, **options: Any) -> Any:
    problem = problem_of(logits, targets, options)
    curvature, weight = of_curvature(problem)
    p, v = problem.softmax.p, np.abs(vector.astype(float))
    mean = (p * v).sum(axis=1, keepdims=True)
    return weight * p * np.maximum(curvature, abs(2 * problem.z_loss)) * np.maximum(v, mean)


def of_distillation(
    logits: Any,
    teacher: Any,
    targets: Any = None,
    *,
    alpha: float = 0.5,
    temperature: float = 1.0,
    **options: Any,
) -> Any:
    """Of a alpha T (Q - P) + (1 - alpha) (p sum q - q)."""
    labels = np.zeros(len(logits), int) if targets is None else targets
    soft, hard = (1.0, 0.0) if targets is None else (alpha, 1 - alpha)
    weight = problem_of(logits, labels, options).targets.row_weight[:, np.newaxis]
    softened = [reference.softmax(x.astype(float) / temperature) for x in (logits, teacher)]
    softest = soft * temperature * weight * np.maximum(*softened)
    return np.maximum(softest, hard * of_gradient(logits, labels, **options))


def of_entropy(
    logits: Any, grad_output: Any = 1.0, temperature: float = 1.0, **options: Any
) -> Any:
    """Of -p (log p + H)."""
    problem = problem_of(logits, np.zeros(len(logits), int), options)
    x = logits.astype(float) / temperature
    p, log_p = reference.softmax(x), reference.log_softmax(x)
    entropy = -(p * log_p).sum(axis=1, keepdims=True)
    weight = (problem.targets.row_weight * grad_output)[:, np.newaxis] / temperature
    return np.abs(weight) * p * np.maximum(-log_p, entropy)


def of_softmax_vjp(p: Any, slopes: Any, **_: Any) -> Any:
    p, v = p.astype(float), np.abs(slopes.astype(float))
    return p * np.maximum(v, (p * v).sum(axis=1, keepdims=True))


def of_log_softmax_vjp(log_p: Any, slopes: Any, **_: Any) -> Any:
    v = np.abs(slopes.astype(float))
    return np.maximum(v, np.exp(log_p.astype(float)) * v.sum(axis=1, keepdims=True))


# The terms of each result of the logits' shape, in order; of the others it is the result itself.
TERMS: dict[str, tuple[Terms, ...]] = {
    "softmax_cross_entropy_grad": (of_gradient,),
    "softmax_cross_entropy_hvp": (of_product,),
    "softmax_cross_entropy_hessian_diagonal": (of_diagonal,),
    "softmax_cross_entropy_grad_hessian": (of_gradient, of_diagonal),
    "distillation_loss_grad": (of_distillation,),
    "softmax_entropy_grad": (of_entropy,),
    "softmax_vjp": (of_softmax_vjp,),
    "log_softmax_vjp": (of_log_softmax_vjp,),
    "softmax": (),
    "log_softmax": (),
    "softmax_cross_entropy_grad_targets": (),
}


def batch_of(classes: int, half: type) -> functions.Batch:
    """Rows that are finite, and probabilities and their logarithms."""
    rng = np.random.default_rng(classes)
    shape = (4 + 2000 // classes, classes)
    logits = (3 * rng.standard_normal(shape)).astype(half)
    probabilities = reference.softmax(logits.astype(float)).astype(half)
    nothing = logits[:0]
    return functions.Batch(
        logits,
        other=rng.standard_normal(shape).astype(half),
        probabilities=probabilities,
        labels=rng.integers(0, classes, len(logits)),
        dense=rng.random(shape).astype(half),
        row_weights=rng.uniform(0.1, 1, len(logits)),
        class_weights=rng.uniform(0.1, 1, classes),
        hidden=nothing,
        layer=nothing,
        bias=nothing,
    )


def unit(numbers: Any, half: type) -> Any:
    """The distance of neighbouring numbers of 16 bits."""
    form = ml_dtypes.finfo(half)
    size = np.maximum(np.abs(numbers), float(form.smallest_normal))
    return np.exp2(np.floor(np.log2(size)) - form.nmant)


@by_half
@pytest.mark.parametrize("name", TERMS)
def test_bounds_of_every_option(name: str, half: type, isa: str) -> None:
    function = REGISTER[name]
    for classes in CLASSES:
        batch = batch_of(classes, half)
        if name == "log_softmax_vjp":
            batch = replace(batch, logits=xent_fast.log_softmax(batch.logits))
        for kind in function.kinds:
            for variant in function.variants(kind):
                call = function.call(batch, kind, variant)
                options = {k: v for k, v in call.options.items() if k != "axis"}
                if "reduction" in function.keywords:
                    default = inspect.signature(function.function).parameters["reduction"].default
                    options.setdefault("reduction", default)
                got = [a for a in functions.arrays_of(call()) if a.dtype == half]
                exact = functions.arrays_of(getattr(reference, name)(*call.arguments, **options))
                want = [a for a in exact if a.shape == batch.logits.shape]
                terms = [of(*call.arguments, **options) for of in TERMS[name]] or want
                for mine, theirs, larger in zip(got, want, terms, strict=True):
                    scale = unit(np.maximum(np.abs(larger), np.abs(theirs)), half)
                    errors = np.abs(mine.astype(float) - theirs) / scale
                    assert errors.max() <= 0.51, (call.name, classes, errors.max())
