"""Some calls of every public function, on inputs that many threads can share.

Knows which inputs make a result depend on nothing but them.
Must not know the functions (xent_fast._bits.functions), the right results, nor who calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import xent_fast as xf
from xent_fast._bits.functions import FUNCTIONS, Batch, Function, arrays_of

VARIANTS = ("plain", "every", "chosen statistics", "grad_output")
Call = Callable[["Inputs", int | None], Any]


class Inputs(Batch):
    """What every thread reads: arrays of one shape, read-only."""

    @classmethod
    def of(cls, rows: int, classes: int, dtype: type = np.float32, seed: int = 5) -> Inputs:
        rng = np.random.default_rng(seed)
        logits, other = (3 * rng.standard_normal((2, rows, classes))).astype(dtype)
        inputs = cls(
            logits=logits,
            other=other,
            probabilities=xf.softmax(logits, num_threads=1),
            labels=rng.integers(0, classes, rows),
            dense=rng.random((rows, classes)).astype(dtype),
            row_weights=rng.random(rows),
            class_weights=(0.5 + rng.random(classes)).astype(dtype),
            # One feature: a logit is one product, which NumPy has one way only to sum.
            hidden=other[:, :1],
            layer=np.ascontiguousarray(logits[:1].T),
            bias=np.zeros(classes, dtype),
        )
        for array in vars(inputs).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        return inputs


def results(function: Function, inputs: Inputs, threads: int | None) -> list[Any]:
    """New ones and, where the function can, in place; along the other axis, if it has one."""
    given = []
    for kind in function.kinds:
        variants = [name for name in function.variants(kind) if name in VARIANTS]
        for number, variant in enumerate(variants):
            ways = function.ways_out(variant)
            output = ways[-1 if number == 1 else 0]
            given.append(function.call(inputs, kind, variant, output, num_threads=threads)())
    if "axis" in function.keywords:
        columns = {name: getattr(inputs, name).T for name in ("logits", "other", "probabilities")}
        turned = replace(inputs, **columns, dense=inputs.dense.T, axis=0)
        given.append(function.call(turned, function.kinds[0], num_threads=threads)())
    if function.given[:1] == ("hidden",):  # a gradient is summed as NumPy's products like
        return [arrays_of(result)[0] for result in given]
    return given


CALLS: dict[str, Call] = {
    name: functools.partial(results, function) for name, function in FUNCTIONS.items()
}


def bits(result: Any) -> bytes:
    """Every bit of a result."""
    return b"".join(array.tobytes() for array in arrays_of(result))
