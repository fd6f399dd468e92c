"""The caller's floating-point mode: it reaches no result, and no call changes it.

Compares bit patterns with those of the default mode.
Must not know the functions (xent_fast._bits.functions), where a processor keeps the mode
(float_mode.py), nor what the right result is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import float_mode
import numpy as np
import pytest
from helpers import assert_same_bits, make_logits, make_targets
from instruction_sets import AVAILABLE

import xent_fast
from xent_fast._bits.functions import DTYPES, FUNCTIONS, Batch, arrays_of, is_half

pytestmark = pytest.mark.skipif(not float_mode.IS_KNOWN, reason="fenv_t of this platform unknown")

# Rows side by side, classes side by side, several blocks, rows that threads share.
SHAPES = ((17, 10), (2, 2_500), (1, 35_000))
HALF_FOR_THREADS = (40, 500)  # of 16 bits they take whole rows
# Their class weights or factors are rounded by NumPy, in the caller's mode.
ROUNDED_BY_NUMPY = (
    *("softmax_cross_entropy_grad_targets", "class_statistics", "grad_from_statistics"),
)
MATRICES = ("logits", "other", "probabilities", "dense")
VARIANTS = ("plain", "every", "hessian", "grad_output")


def calls(shape: tuple[int, int], dtype: type, threads: int) -> dict[str, Callable]:
    """Every compiled function on rows with many subnormal probabilities, ready to be called."""
    rng = np.random.default_rng(shape)
    spread = {np.float16: 12, np.float64: 200}.get(dtype, 25)
    logits = make_logits(rng, *shape, dtype, spread=spread)
    batch = Batch(
        logits=logits,
        other=make_logits(rng, *shape, dtype),
        probabilities=logits,
        labels=make_targets("index", rng, *shape, dtype),
        dense=make_targets("dense", rng, *shape, dtype),
        row_weights=np.full(shape[0], 1 / 3),
        class_weights=np.full(shape[1], 0.7),
        **dict.fromkeys(("hidden", "layer", "bias"), logits[:0]),
    )
    columns = {name: np.ascontiguousarray(getattr(batch, name).T) for name in MATRICES}
    turned = replace(batch, axis=0, **columns)
    ready: dict[str, Callable] = {}
    for function in FUNCTIONS.values():
        if not function.is_compiled or function.name in ROUNDED_BY_NUMPY:
            continue
        for kind in function.kinds:
            for variant in function.variants(kind):
                if variant in VARIANTS:
                    call = function.call(batch, kind, variant, num_threads=threads)
                    ready[call.name] = call
        if "axis" in function.keywords:
            call = function.call(turned, function.kinds[0], layout="turned", num_threads=threads)
            ready[call.name] = call
    return ready


def assert_same_results(got: object, want: object) -> None:
    for one, other in zip(arrays_of(got), arrays_of(want), strict=True):
        if one.dtype.kind in "fV":
            assert_same_bits(one, other)
        else:
            assert np.array_equal(one, other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_mode_reaches_a_result_or_is_changed(
    shape: tuple[int, int], dtype: type, isa: str
) -> None:
    """What threads share takes one: dtypes and instruction sets together every one."""
    is_shared = shape == SHAPES[-1]
    if is_shared and is_half(dtype):
        shape = HALF_FOR_THREADS
    threaded, modes = calls(shape, dtype, 2), list(float_mode.MODES.values())
    for place, (name, alone) in enumerate(calls(shape, dtype, 1).items()):
        want = alone()
        one = modes[(place + 2 * DTYPES.index(dtype) + AVAILABLE.index(isa)) % len(modes)]
        for number, mode in enumerate([one] if is_shared else modes):
            call = alone if number % 2 else threaded[name]
            with float_mode.in_mode(mode):
                got = call()
                after = float_mode.current()
            assert after == mode & float_mode.MODE_BITS, name
            assert_same_results(got, want)


@pytest.mark.parametrize("mode", float_mode.MODES)
def test_a_complaint_leaves_the_mode(mode: str) -> None:
    logits = np.zeros((2, 3), np.float32)
    with float_mode.in_mode(float_mode.MODES[mode]):
        caught = []
        for call in (
            lambda: xent_fast.softmax_cross_entropy(logits, [0, 3]),
            lambda: xent_fast.softmax_cross_entropy_grad(logits, [0, 1], reduction="no"),
            lambda: xent_fast.softmax(logits, axis=2),
            lambda: xent_fast.softmax_vjp(logits, logits[:1]),
        ):
            try:
                call()
            except (IndexError, ValueError) as complaint:
                caught.append(complaint)
        after = float_mode.current()
    assert len(caught) == 4
    assert after == float_mode.MODES[mode] & float_mode.MODE_BITS


# Threads are born with the mode of the thread that starts them, and keep it.
OLD_WORKERS = """
import sys
sys.path.insert(0, sys.argv[1])
import float_mode
import test_float_mode as tests
for dtype in (tests.np.float32, tests.np.float64):
    for shape in ((600, 33), (20, 1_000), (1, 35_000)):
        threaded = tests.calls(shape, dtype, 2)
        with float_mode.in_mode(int(sys.argv[2])):
            threaded["softmax, plain, new"]()
        for name, call in tests.calls(shape, dtype, 1).items():
            tests.assert_same_results(threaded[name](), call())
"""


def test_threads_that_were_started_in_a_mode() -> None:
    mode = float_mode.MODES["round down, no subnormals"]
    subprocess.run(
        [sys.executable, "-c", OLD_WORKERS, Path(__file__).parent, str(mode)],
        check=True,
        timeout=100,
    )
