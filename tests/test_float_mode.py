"""The caller's floating-point mode: it reaches no result, and no call changes it.

Knows every compiled function; compares bit patterns with those of the default mode.
Must not know where a processor keeps the mode (float_mode.py), nor what the right result is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import float_mode
import numpy as np
import pytest
from helpers import assert_same_bits, make_logits, make_targets

import xent_fast

pytestmark = pytest.mark.skipif(not float_mode.IS_KNOWN, reason="fenv_t of this platform unknown")

# Rows side by side, classes side by side, several blocks, rows that threads share.
SHAPES = ((17, 10), (40, 1_000), (1, 35_000))
OPTIONS = (
    {},
    {"label_smoothing": 0.1, "z_loss": 1e-4, "temperature": 1.7, "reduction": "none"},
    {"sample_weight": 1 / 3, "weight": 0.7, "return_statistics": True},
)


def calls(shape: tuple[int, int], dtype: type, threads: int) -> dict[str, Callable]:
    """Every compiled function on rows with many subnormal probabilities, ready to be called."""
    rng = np.random.default_rng(shape)
    logits = make_logits(rng, *shape, dtype, spread=25 if dtype == np.float32 else 200)
    slopes = make_logits(rng, *shape, dtype)
    several = {"num_threads": threads}
    ready = {
        name: lambda function=function: function(logits, **several)
        for name, function in (
            ("softmax", xent_fast.softmax),
            ("log_softmax", xent_fast.log_softmax),
            ("logsumexp", xent_fast.logsumexp),
        )
    }
    for name, function in (
        ("softmax_vjp", xent_fast.softmax_vjp),
        ("log_softmax_vjp", xent_fast.log_softmax_vjp),
    ):
        ready[name] = lambda function=function: function(logits, slopes, **several)
    for kind in ("index", "dense"):
        targets = make_targets(kind, rng, *shape, dtype)
        for number, given in enumerate(OPTIONS):
            options = {
                name: np.full(shape[name == "weight"], value) if "weight" in name else value
                for name, value in given.items()
            }
            ready[f"loss and gradient, {kind}, {number}"] = (
                lambda targets=targets, options=options: xent_fast.softmax_cross_entropy_grad(
                    logits, targets, **options, **several
                )
            )
    labels = make_targets("index", rng, *shape, dtype)
    ready["hvp"] = lambda: xent_fast.softmax_cross_entropy_hvp(logits, labels, slopes, **several)
    ready["diagonal"] = lambda: xent_fast.softmax_cross_entropy_hessian_diagonal(
        logits, labels, **several
    )
    ready["distillation"] = lambda: xent_fast.distillation_loss_grad(
        logits, slopes, labels, temperature=2.0, alpha=0.3, **several
    )
    ready["entropy"] = lambda: xent_fast.softmax_entropy_grad(
        logits, reduction="none", temperature=1.7, **several
    )
    turned = np.ascontiguousarray(logits.T)
    ready["classes first"] = lambda: xent_fast.softmax(turned, axis=0, **several)
    ready["loss"] = lambda: xent_fast.softmax_cross_entropy(logits, targets, **several)
    return ready


def arrays_of(result: object) -> list[np.ndarray]:
    """Every array of a result, however nested."""
    if isinstance(result, tuple):
        return [array for part in result for array in arrays_of(part)]
    return [np.asarray(result)]


def assert_same_results(got: object, want: object) -> None:
    for one, other in zip(arrays_of(got), arrays_of(want), strict=True):
        if one.dtype.kind == "f":
            assert_same_bits(one, other)
        else:
            assert np.array_equal(one, other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_mode_reaches_a_result_or_is_changed(
    shape: tuple[int, int], dtype: type, isa: str
) -> None:
    threaded = calls(shape, dtype, 2)
    for name, alone in calls(shape, dtype, 1).items():
        want = alone()
        for number, mode in enumerate(float_mode.MODES.values()):
            call = threaded[name] if number % 2 else alone
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
    for shape in ((600, 33), (200, 1_000), (1, 35_000)):
        threaded = tests.calls(shape, dtype, 2)
        with float_mode.in_mode(int(sys.argv[2])):
            threaded["softmax"]()
        for name, call in tests.calls(shape, dtype, 1).items():
            tests.assert_same_results(threaded[name](), call())
"""


@pytest.mark.parametrize("mode", ["no subnormals", "round down"])
def test_threads_that_were_started_in_a_mode(mode: str) -> None:
    subprocess.run(
        [sys.executable, "-c", OLD_WORKERS, Path(__file__).parent, str(float_mode.MODES[mode])],
        check=True,
        timeout=100,
    )
