"""Whether a call did what it may: its result, its exception, and the memory of its arguments.

Knows: the documented exceptions, the reference.
Must not know: how calls are made up.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from calls import Call, grad_of_ranges, take_call

import xent_fast
from xent_fast import reference
from xent_fast._bits.functions import is_half

DOCUMENTED = (TypeError, ValueError, IndexError, MemoryError)  # AxisError is the second and third
TOLERANCE = {4: 5e-6, 8: 1e-9}
# Bits behind the point, smallest normal and largest number.
HALVES = {"float16": (10, 2.0**-14, 65504.0), "bfloat16": (7, 2.0**-126, 3.39e38)}
# Results are compared where no argument is larger, and no weight or option smaller but 0: beyond,
# overflow and cancellation have the say.
MOST_COMPARED = 1e4
LEAST_COMPARED = 1e-6


class Fault(AssertionError):
    """A promise that a call broke."""


def check(data: bytes) -> str:
    """Make the call and raise Fault if a promise is broken; what came of it, in a word."""
    call = take_call(data)
    out = call.options.get("out")
    before = [buffer.copy() for buffer in call.buffers]
    expected = expectation(call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = function_of(xent_fast, call)(*call.arguments, **call.options)
        except DOCUMENTED as error:
            check_unchanged(call, before, "an argument was changed by a call that raised")
            return type(error).__name__
        except Exception as error:
            raise Fault(f"{call.name} raised {type(error).__name__}: {error}") from error
    check_inputs(call, before, out)
    check_result(call, result, expected)
    return "result"


def function_of(module: Any, call: Call) -> Callable[..., Any]:
    if call.name == "grad_of_ranges":
        return functools.partial(grad_of_ranges, module)
    function: Callable[..., Any] = getattr(module, call.name)
    return function


# --- memory ---------------------------------------------------------------------------------------


def check_unchanged(call: Call, before: list[np.ndarray], fault: str) -> None:
    for buffer, was in zip(call.buffers, before, strict=True):
        if not np.array_equal(buffer, was):
            raise Fault(f"{call.name}: {fault}")


def check_inputs(call: Call, before: list[np.ndarray], out: Any) -> None:
    """Nothing but the entries of `out` may differ."""
    if isinstance(out, np.ndarray):
        written = out.copy()
        for buffer, was in zip(call.buffers, before, strict=True):
            if np.shares_memory(buffer, out):
                now = buffer.copy()
                buffer[:] = was
                out[...] = written
                if not np.array_equal(buffer, now):
                    raise Fault(f"{call.name}: memory beside out was written")
                was[:] = now
    check_unchanged(call, before, "an argument that is not out was changed")


# --- results --------------------------------------------------------------------------------------


def expectation(call: Call) -> Any:
    """The reference's result, or its exception."""
    options = {name: value for name, value in call.options.items() if name != "out"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function_of(reference, call)(*call.arguments, **options)
        except Exception as error:  # for the caller to judge
            return error


def check_result(call: Call, result: Any, expected: Any) -> None:
    if isinstance(expected, Exception):
        raise Fault(f"{call.name} gave a result where the reference raises {expected!r}")
    got, want = leaves(result), leaves(expected)
    if len(got) != len(want):
        raise Fault(f"{call.name} gave {len(got)} values instead of {len(want)}")
    if not is_comparable(call):
        return
    size = largest_argument(call)
    for g, w in zip(got, want, strict=True):
        check_alike(call, np.asarray(g), np.asarray(w), size)


def leaves(value: Any) -> list[Any]:
    """The arrays and numbers of nested tuples; None stands for nothing."""
    if value is None:
        return []
    return (
        [leaf for part in value for leaf in leaves(part)] if isinstance(value, tuple) else [value]
    )


def largest_argument(call: Call) -> float:
    """What rounding errors are relative to, beside the result itself: the options' product."""
    numbers = [call.options.get(name, 1.0) for name in ("scale", "temperature", "z_loss", "factor")]
    numbers = [abs(float(number)) for number in numbers]
    shrunk = 1.0 / min(numbers[1], 1.0) ** 2
    grown = max(numbers[0], 1.0) * max(numbers[3], 1.0) * max(numbers[2], 1.0)
    return 100.0 * shrunk * grown * max(numbers[1], 1.0) ** 2


def is_comparable(call: Call) -> bool:
    """Whether numbers have a size at which results can be told right from wrong.

    Only logits may be infinite or NaN: what that gives is promised.
    """
    logits = 2 if call.name == "distillation_loss_grad" else 1
    others = (*call.arguments[logits:], *call.options.values())
    return all(
        is_moderate(argument, may_be_special=True) for argument in call.arguments[:logits]
    ) and all(is_moderate(argument) for argument in others)


def is_moderate(argument: Any, *, may_be_special: bool = False) -> bool:
    try:
        values = np.asarray(argument)
    except (ValueError, TypeError):
        return False
    if values.dtype.name == "bfloat16":
        values = values.astype("f4")
    if values.dtype.kind not in "fiu":
        return argument is None or isinstance(argument, (str, bool, np.bool_)) or values.size == 0
    special = ~np.isfinite(values)
    finite = values[~special].astype("f8")
    size = np.abs(finite)
    if may_be_special:
        return bool((size <= MOST_COMPARED).all())
    is_usual = (size <= MOST_COMPARED) & ((size >= LEAST_COMPARED) | (size == 0))
    return bool(is_usual.all() and not special.any())


def check_alike(call: Call, got: np.ndarray, want: np.ndarray, size: float) -> None:
    if got.shape != want.shape:
        raise Fault(f"{call.name} gave shape {got.shape} instead of {want.shape}")
    if got.dtype.kind in "iub":
        if not np.array_equal(got, want):
            raise Fault(f"{call.name} gave {got} instead of {want}")
        return
    precision = precision_of(call)
    with np.errstate(all="ignore"):
        bound = TOLERANCE[precision] * (size + np.abs(want[np.isfinite(want)]).max(initial=0.0))
        near = (np.abs(got - want) <= bound) | (np.isnan(got) & np.isnan(want)) | (got == want)
        if is_half(got.dtype):  # rounded once more, to the nearest
            digits, least, largest = HALVES[got.dtype.name]
            size = np.exp2(np.floor(np.log2(np.maximum(np.abs(want), least))))
            got = got.astype("f8")
            near |= np.abs(got - want) <= bound + size * 2.0**-digits / 2
            near |= np.isinf(got) & (np.abs(want) + bound > largest)
        if precision == 4:
            near |= np.isinf(got) & (np.abs(want) > 3e38)
    if not near.all():
        place = np.unravel_index(np.argmin(near), near.shape)
        raise Fault(f"{call.name} gave {got[place]!r} instead of {want[place]!r} at {place}")


def precision_of(call: Call) -> int:
    dtype = np.asarray(call.arguments[0]).dtype
    return 4 if dtype.itemsize <= 4 else 8
