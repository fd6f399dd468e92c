"""The last layer and its loss together, against the reference and against logits that exist.

Knows the formula, what bad input must raise, how much memory a call may take.
Must not know how many products a call makes of its chunks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import LAYOUTS, OUTPUT_LAYOUTS, PEAK, GuardedArray
from hypothesis import given, settings
from hypothesis import strategies as st

from xent_fast import (
    linear_softmax_cross_entropy,
    linear_softmax_cross_entropy_grad,
    reference,
    softmax_cross_entropy_grad,
)

ROWS, FEATURES, CLASSES = 37, 6, 2500
IGNORED = -100
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum", "scale": -2.5},
    "none": {"reduction": "none", "scale": 0.5},
    "ignored": {"ignore_index": IGNORED},
    "all_but_dense": {
        "ignore_index": IGNORED,
        "class_weight": "w",
        "sample_weight": "a",
        "label_smoothing": 0.1,
        "temperature": 1.5,
        "z_loss": 1e-2,
    },
    "dense": {"dense": True},
    "dense_shaped": {"dense": True, "class_weight": "w", "label_smoothing": 0.2, "z_loss": 0.1},
}


class Layer:
    """An output layer, its input and the targets."""

    def __init__(self, dtype: Any, seed: int = 0, rows: int = ROWS) -> None:
        rng = np.random.default_rng(seed)
        self.hidden = rng.standard_normal((rows, FEATURES)).astype(dtype)
        self.weight = rng.standard_normal((CLASSES, FEATURES)).astype(dtype)
        self.bias = rng.standard_normal(CLASSES).astype(dtype)
        self.labels = rng.integers(0, CLASSES, rows)
        self.labels[::5] = IGNORED
        self.dense = rng.random((rows, CLASSES))
        self.class_weight = rng.random(CLASSES) + 0.5
        self.sample_weight = rng.random(rows) + 0.5

    def call(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = dict(OPTIONS[name])
        for argument, values in (
            ("class_weight", self.class_weight),
            ("sample_weight", self.sample_weight),
        ):
            if argument in options:
                options[argument] = values
        targets = self.dense if options.pop("dense", False) else self.labels
        if targets is self.labels and "ignore_index" not in options:
            targets = np.abs(self.labels)
        return (self.hidden, self.weight, self.bias, targets), options


def assert_close(got: Any, want: Any, dtype: Any, roundings: float = 20) -> None:
    """To rounding: every array relative to its largest value."""
    eps = float(ml_dtypes.finfo(dtype).eps)
    for name, mine, theirs in zip(want._fields, got, want, strict=True):
        if theirs is None:
            assert mine is None
            continue
        bound = roundings * eps * np.abs(theirs).max(initial=1e-3)
        np.testing.assert_allclose(
            np.asarray(mine, np.float64), theirs, rtol=0, atol=bound, err_msg=name
        )


@pytest.mark.parametrize("options", OPTIONS)
def test_reference(dtype: type, options: str) -> None:
    arguments, keywords = Layer(dtype).call(options)
    want = reference.linear_softmax_cross_entropy_grad(*arguments, **keywords)
    want_alone = reference.linear_softmax_cross_entropy(*arguments, **keywords)
    for chunk_rows in (None, 1, 10):
        got = linear_softmax_cross_entropy_grad(*arguments, chunk_rows=chunk_rows, **keywords)
        assert_close(got, want, dtype)
        assert [a.dtype for a in got[1:]] == [np.dtype(dtype)] * 3
        loss = linear_softmax_cross_entropy(*arguments, chunk_rows=chunk_rows, **keywords)
        np.testing.assert_array_equal(loss, got.loss)
        np.testing.assert_allclose(loss, want_alone, rtol=1e-5)


def test_logits_that_exist(dtype: type) -> None:
    """One chunk's loss is that of the logits, to the bit: it is the same call."""
    layer = Layer(dtype)
    labels = np.abs(layer.labels)
    logits = layer.hidden @ layer.weight.T
    want = softmax_cross_entropy_grad(logits, labels).loss
    got = linear_softmax_cross_entropy_grad(layer.hidden, layer.weight, None, labels)
    assert got.loss == want
    assert got.grad_bias is None


def test_weight_of_features_by_classes_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"\(classes, 4\), not \(4, 7\); weight.T has that shape"):
        linear_softmax_cross_entropy(np.zeros((2, 4)), np.zeros((4, 7)), None, [0, 6])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 4), (0,), (2, 0)])
def test_shapes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    hidden, weight = rng.standard_normal((*shape, 4)), rng.standard_normal((7, 4))
    labels = rng.integers(0, 7, shape)
    got = linear_softmax_cross_entropy_grad(hidden, weight, None, labels, reduction="none")
    want = reference.linear_softmax_cross_entropy_grad(
        hidden, weight, None, labels, reduction="none"
    )
    assert np.shape(got.loss) == shape
    np.testing.assert_allclose(got.loss, want.loss, rtol=1e-13)
    np.testing.assert_allclose(got.grad_hidden, want.grad_hidden, rtol=0, atol=1e-14)
    np.testing.assert_allclose(got.grad_weight, want.grad_weight, rtol=0, atol=1e-14)


@pytest.mark.parametrize("features", [0, 1])
def test_few_features(features: int) -> None:
    hidden, bias = np.ones((3, features)), np.arange(5.0)
    weight = np.arange(5.0 * features).reshape(5, features)
    got = linear_softmax_cross_entropy_grad(hidden, weight, bias, np.arange(3))
    want = reference.linear_softmax_cross_entropy_grad(hidden, weight, bias, np.arange(3))
    assert_close(got, want, np.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(dtype: type, layout: str) -> None:
    """Inputs as they lie, and outputs but read-only ones."""
    arguments, keywords = Layer(dtype).call("all_but_dense")
    want = linear_softmax_cross_entropy_grad(*arguments, **keywords)
    given = [GuardedArray(array, layout) for array in arguments]
    outputs: dict[str, GuardedArray] = {}
    if layout in OUTPUT_LAYOUTS:
        outputs = {
            name: GuardedArray(np.full(getattr(want, name).shape, np.nan, dtype), layout)
            for name in want._fields[1:]
        }
    got = linear_softmax_cross_entropy_grad(
        *(guarded.array for guarded in given),
        chunk_rows=9,
        **keywords,
        **{f"{name}_out": out.array for name, out in outputs.items()},
    )
    assert_close(got, want, dtype)
    for guarded in given:
        guarded.assert_untouched()
    for name, out in outputs.items():
        assert getattr(got, name) is out.array
        out.assert_guards_intact()


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("options", ["plain", "all_but_dense"])
def test_half_precision(half: type, options: str) -> None:
    """Computed in float32 and rounded once."""
    (hidden, weight, bias, targets), keywords = Layer(half).call(options)
    arguments = [a.astype(np.float32) for a in (hidden, weight, bias)]
    want = linear_softmax_cross_entropy_grad(*arguments, targets, **keywords)
    got = linear_softmax_cross_entropy_grad(
        hidden, weight, bias, targets, chunk_rows=10, **keywords
    )
    assert [a.dtype for a in got[1:]] == [np.dtype(half)] * 3
    assert got.loss == pytest.approx(want.loss, rel=1e-6)
    assert_close(got, want, half)
    wide = np.ones(weight.shape, np.float32)
    mixed = linear_softmax_cross_entropy_grad(
        hidden,
        weight,
        arguments[2],
        targets,
        grad_weight_out=wide,
        accumulate=True,
        **keywords,
    )
    assert_close(mixed._replace(grad_weight=wide - 1), want, np.float16)
    assert mixed.grad_bias.dtype == np.float32


def test_half_precision_adds_before_it_rounds() -> None:
    arguments, _ = Layer(np.float16).call("plain")
    first = linear_softmax_cross_entropy_grad(*arguments, scale=100.0)
    both = linear_softmax_cross_entropy_grad(
        *arguments, scale=100.0, grad_weight_out=first.grad_weight.copy(), accumulate=True
    )
    np.testing.assert_allclose(
        both.grad_weight.astype(float), 2 * first.grad_weight.astype(float), rtol=1e-3, atol=1e-6
    )


def test_accumulate(dtype: type) -> None:
    """Two halves of a batch add up to the whole."""
    (hidden, weight, bias, labels), _ = Layer(dtype).call("plain")
    want = linear_softmax_cross_entropy_grad(hidden, weight, bias, labels, reduction="sum")
    out = {
        "grad_weight_out": np.ones_like(weight),
        "grad_bias_out": np.ones_like(bias),
    }
    total = 0.0
    for rows in (slice(0, 20), slice(20, None)):
        grad_hidden = np.ones_like(hidden[rows])
        part = linear_softmax_cross_entropy_grad(
            hidden[rows],
            weight,
            bias,
            labels[rows],
            reduction="sum",
            chunk_rows=7,
            accumulate=True,
            grad_hidden_out=grad_hidden,
            **out,
        )
        total += part.loss
        scale = np.abs(want.grad_hidden).max()
        np.testing.assert_allclose(
            part.grad_hidden - 1, want.grad_hidden[rows], atol=20 * np.finfo(dtype).eps * scale
        )
    got = want._replace(
        loss=total, grad_weight=out["grad_weight_out"] - 1, grad_bias=out["grad_bias_out"] - 1
    )
    assert_close(got, want, dtype)


def test_ignored_rows_are_not_read() -> None:
    (hidden, weight, bias, labels), _ = Layer(np.float64).call("ignored")
    want = linear_softmax_cross_entropy_grad(hidden, weight, bias, labels, ignore_index=IGNORED)
    hidden[labels == IGNORED] = np.nan
    got = linear_softmax_cross_entropy_grad(hidden, weight, bias, labels, ignore_index=IGNORED)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (got.grad_hidden[labels == IGNORED] == 0).all()


@pytest.mark.parametrize("accumulate", [True, False])
def test_mean_over_nothing(accumulate: bool) -> None:
    (hidden, weight, bias, labels), _ = Layer(np.float32).call("plain")
    out = np.ones_like(weight)
    got = linear_softmax_cross_entropy_grad(
        hidden,
        weight,
        bias,
        np.full_like(labels, IGNORED),
        ignore_index=IGNORED,
        grad_weight_out=out,
        accumulate=accumulate,
    )
    assert np.isnan(got.loss)
    assert (got.grad_hidden == 0).all()
    assert (got.grad_bias == 0).all()
    assert (out == accumulate).all()


def test_progress() -> None:
    arguments, keywords = Layer(np.float32).call("ignored")
    told: list[tuple[int, int]] = []
    linear_softmax_cross_entropy(
        *arguments, chunk_rows=8, progress=lambda *rows: told.append(rows), **keywords
    )
    done = [rows for rows, _ in told]
    assert done == sorted(set(done))
    assert told[-1] == (ROWS, ROWS)
    assert len(told) == 4  # 29 rows count; the last of all is one of them


def test_what_progress_raises_is_raised_at_the_end() -> None:
    arguments, _ = Layer(np.float32).call("plain")
    want = linear_softmax_cross_entropy_grad(*arguments, chunk_rows=8)
    out = np.full_like(arguments[1], np.nan)
    calls = 0

    def fail(done: int, rows: int) -> None:
        nonlocal calls
        calls += 1
        raise LookupError("no bar")

    with pytest.raises(LookupError, match="no bar"):
        linear_softmax_cross_entropy_grad(
            *arguments, chunk_rows=8, progress=fail, grad_weight_out=out
        )
    assert calls == 1
    np.testing.assert_array_equal(out, want.grad_weight)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 30),
    chunk_rows=st.integers(1, 40),
    seed=st.integers(0, 99),
    skip=st.booleans(),
)
def test_chunks_do_not_matter(rows: int, chunk_rows: int, seed: int, skip: bool) -> None:
    layer = Layer(np.float64, seed, rows)
    labels = layer.labels if skip else np.abs(layer.labels)
    options = {"ignore_index": IGNORED, "sample_weight": layer.sample_weight, "reduction": "sum"}
    call = (layer.hidden, layer.weight, layer.bias, labels)
    whole = linear_softmax_cross_entropy_grad(*call, chunk_rows=rows + 1, **options)
    parts = linear_softmax_cross_entropy_grad(*call, chunk_rows=chunk_rows, **options)
    # Products round logits by eps of the largest, which probabilities are off by relatively.
    logits = layer.hidden @ layer.weight.T + layer.bias
    assert_close(parts, whole, np.float64, 20 + 4 * np.abs(logits).max(initial=0))


# --- bad input ------------------------------------------------------------------------------------

SMALL = (np.ones((3, 2)), np.ones((4, 2)), np.ones(4), np.arange(3))
BAD_ARGUMENTS: list[tuple[int, Any, type[Exception], str]] = [
    (0, np.float64(1.0), ValueError, "hidden must have a feature axis"),
    (0, np.ones((3, 2), np.float32), TypeError, "weight is float64, but hidden float32"),
    (1, np.ones((0, 2)), ValueError, "has no class"),
    (2, np.ones(4, np.float16), TypeError, "bias is float16, but hidden float64"),
    (3, np.array([0, 1, 4]), IndexError, r"index 4 is out of bounds .* size 4 \(targets\[2\]\)"),
]
BAD_TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"class_weight": -np.ones(4)}, "class_weight must not be negative"),
    ({"sample_weight": -np.ones(3)}, "sample_weight must not be negative"),
    ({"accumulate": True}, "accumulate=True adds to"),
    ({"grad_hidden_out": SMALL[0]}, "grad_hidden_out shares memory with hidden"),
    ({"grad_weight_out": SMALL[1].view()}, "shares memory with weight"),
]


@pytest.mark.parametrize(("position", "value", "error", "message"), BAD_ARGUMENTS)
@pytest.mark.parametrize(
    "function", [linear_softmax_cross_entropy, linear_softmax_cross_entropy_grad]
)
def test_bad_argument(
    function: Any, position: int, value: Any, error: type[Exception], message: str
) -> None:
    arguments = list(SMALL)
    arguments[position] = value
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize(("options", "message"), BAD_TOGETHER)
def test_nothing_is_written_before_everything_is_checked(
    options: dict[str, Any], message: str
) -> None:
    outputs = {
        "grad_hidden_out": np.full((3, 2), 7.0),
        "grad_weight_out": np.full((4, 2), 7.0),
        "grad_bias_out": np.full(4, 7.0),
    }
    given = {} if options == {"accumulate": True} else outputs
    with pytest.raises(ValueError, match=message):
        linear_softmax_cross_entropy_grad(*SMALL, **{**given, **options})
    assert all((out == 7).all() for out in outputs.values())
    assert all((array == 1).all() for array in SMALL[:3])


def test_outputs_may_not_share_memory() -> None:
    memory = np.empty(8)
    with pytest.raises(ValueError, match="grad_bias_out shares memory with grad_weight_out"):
        linear_softmax_cross_entropy_grad(
            *SMALL, grad_weight_out=memory.reshape(4, 2), grad_bias_out=memory[:4]
        )


def test_rows_of_several_axes_one_stride_apart() -> None:
    out = np.empty((3, 2, 4)).transpose(1, 0, 2)
    with pytest.raises(ValueError, match="one stride apart"):
        linear_softmax_cross_entropy_grad(
            np.ones((2, 3, 4)), np.ones((5, 4)), None, np.ones((2, 3), int), grad_hidden_out=out
        )


def test_bias_out_without_bias() -> None:
    with pytest.raises(ValueError, match="grad_bias_out is given, but bias is None"):
        linear_softmax_cross_entropy_grad(
            SMALL[0], SMALL[1], None, SMALL[3], grad_bias_out=np.ones(4)
        )


# --- memory ---------------------------------------------------------------------------------------

MEASURED = """
import numpy as np
from xent_fast import linear_softmax_cross_entropy_grad
rng = np.random.default_rng(0)
rows, features, classes = 1024, 64, 20_000
hidden = rng.standard_normal((rows, features), np.float32).astype({dtype!r})
weight = rng.standard_normal((classes, features), np.float32).astype({dtype!r})
bias = np.zeros(classes, {dtype!r})
labels = rng.integers(0, classes, rows)
out = [np.ones(a.shape, a.dtype) for a in (hidden, weight, bias)]

def call(rows, classes, chunk_rows):
    linear_softmax_cross_entropy_grad(
        hidden[:rows], weight[:classes], bias[:classes], labels[:rows] % classes,
        chunk_rows=chunk_rows, grad_hidden_out=out[0][:rows], grad_weight_out=out[1][:classes],
        grad_bias_out=out[2][:classes],
    )

call(256, 512, 64)  # the libraries' own memory
before = peak()
call(rows, classes, {chunk_rows})
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("dtype", "chunk_rows", "logits", "besides"),
    [
        # A quarter of the rows, or 32: their logits, and little besides.
        ("float32", None, 256 * 20_000 * 4, 9e6),
        ("float32", 32, 32 * 20_000 * 4, 9e6),
        ("float64", None, 256 * 20_000 * 8, 9e6),
        # The sums in float32 too, 5 MB.
        ("float16", 32, 32 * 20_000 * 4, 14e6),
    ],
)
def test_memory(dtype: str, chunk_rows: int | None, logits: int, besides: float) -> None:
    """The most that is resident, in a process of its own."""
    program = PEAK + MEASURED.format(dtype=dtype, chunk_rows=chunk_rows)
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **one_thread},
    )
    assert 0.9 * logits < int(finished.stdout) < logits + besides
