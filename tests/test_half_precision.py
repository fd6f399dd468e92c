"""Logits of float16 and bfloat16: the same call in float32 gives their results, rounded once.

Knows the public functions, NumPy's float16 and ml_dtypes' bfloat16, and their rounding.
Must not know how the library widens and rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import LAYOUTS, OUTPUT_LAYOUTS, GuardedArray, bits, spacings_apart

import xent_fast
from xent_fast import reference
from xent_fast._bits import functions

ml_dtypes = pytest.importorskip("ml_dtypes")
DTYPES = (np.float16, ml_dtypes.bfloat16)
by_name = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)

# Few classes, many, several blocks, a row that float32 shares among threads.
SHAPES = ((37, 3), (300, 33), (300, 129), (21, 1000), (3, 5000), (2, 40_000))


def exact(a: Any) -> Any:
    """The same numbers in float64."""
    return np.asarray(a).astype(np.float64)


def assert_same_bits(got: Any, want: Any) -> None:
    """Which NaN it is does not count."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    same = np.array_equal(got, want) if got.dtype.itemsize > 2 else same_halves(got, want)
    assert same


def same_halves(got: Any, want: Any) -> bool:
    both_nan = np.isnan(exact(got)) & np.isnan(exact(want))
    return bool(np.all((bits(got) == bits(want)) | both_nan))


def rounded_to(dtype: Any, a: Any) -> Any:
    """Without a word about what becomes infinite."""
    with np.errstate(all="ignore"):
        return a.astype(dtype)


def inputs(shape: tuple[int, int], dtype: Any, seed: int = 3) -> tuple[Any, Any, Any]:
    """Logits, labels and other logits."""
    rng = np.random.default_rng(seed)
    logits, other = (4 * rng.standard_normal((2, *shape))).astype(dtype)
    return logits, rng.integers(0, shape[1], shape[0]), other


# Each takes logits, labels and a matrix of their shape and dtype, and `options` that all take.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "loss": lambda x, y, v, **o: (
        xent_fast.softmax_cross_entropy_grad(x, y, scale=2.0**12, **o).grad
    ),
    "sum": lambda x, y, v, **o: (
        xent_fast.softmax_cross_entropy_grad(x, y, reduction="sum", **o).grad
    ),
    "dense": lambda x, y, v, **o: (
        xent_fast.softmax_cross_entropy_grad(
            x, np.abs(v), reduction="sum", scale=1 / len(x), **o
        ).grad
    ),
    "smoothed": lambda x, y, v, **o: (
        xent_fast.softmax_cross_entropy_grad(
            x, y, label_smoothing=0.1, temperature=2.0, z_loss=1e-3, reduction="sum", **o
        ).grad
    ),
    "softmax": lambda x, y, v, **o: xent_fast.softmax(x, **o),
    "log_softmax": lambda x, y, v, **o: xent_fast.log_softmax(x, **o),
    "softmax_vjp": lambda x, y, v, **o: xent_fast.softmax_vjp(x, v, **o),
    "log_softmax_vjp": lambda x, y, v, **o: xent_fast.log_softmax_vjp(x, v, **o),
    "entropy": lambda x, y, v, **o: (
        xent_fast.softmax_entropy_grad(
            x, reduction="none", grad_output=np.arange(1.0, len(y) + 1), **o
        ).grad
    ),
    "vector": lambda x, y, v, **o: xent_fast.softmax_cross_entropy_hvp(
        x, y, v, reduction="sum", **o
    ),
    "diagonal": lambda x, y, v, **o: xent_fast.softmax_cross_entropy_hessian_diagonal(
        x, y, reduction="sum", **o
    ),
    "distillation": lambda x, y, v, **o: (
        xent_fast.distillation_loss_grad(x, v, y, reduction="sum", **o).grad
    ),
}


@by_name
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_rounded_once(name: str, dtype: Any, isa: str) -> None:
    """In a new array, in place and, not rounded, into float32; by every number of threads."""
    for shape in SHAPES:
        x, y, v = inputs(shape, dtype)
        want = FUNCTIONS[name](x.astype(np.float32), y, v.astype(np.float32), num_threads=1)
        rounded = rounded_to(dtype, want)
        assert_same_bits(FUNCTIONS[name](x, y, v), rounded)
        assert_same_bits(FUNCTIONS[name](x, y, v, num_threads=3), rounded)
        wide = np.full(shape, np.nan, np.float32)
        assert FUNCTIONS[name](x, y, v, out=wide) is wide
        assert_same_bits(wide, want)
        place = x.copy()
        assert FUNCTIONS[name](place, y, v, out=place) is place
        assert_same_bits(place, rounded)


@by_name
def test_every_number_of_few_classes(dtype: Any, isa: str) -> None:
    """Rows with gaps between them, too: nothing there is written."""
    for classes in range(1, 130):
        all_of_it, y, _ = inputs((37, classes + 3), dtype)
        all_of_it[5, 1], all_of_it[30, 0] = np.nan, np.inf
        y %= classes
        for columns in (slice(classes), slice(None)):
            place = all_of_it.copy()
            x = place[:, columns]
            want = FUNCTIONS["sum"](x.astype(np.float32), y, None)
            xent_fast.softmax_cross_entropy_grad(x, y, reduction="sum", out=x)
            assert_same_bits(x, rounded_to(dtype, want))
            assert_same_bits(place[:, x.shape[1] :], all_of_it[:, x.shape[1] :])


@by_name
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_and_hessian(shape: tuple[int, int], dtype: Any) -> None:
    x, y, _ = inputs(shape, dtype)
    function = xent_fast.softmax_cross_entropy_grad_hessian
    want = function(x.astype(np.float32), y, reduction="none")
    got = function(x, y, reduction="none")
    assert_same_bits(got.loss, want.loss)
    assert_same_bits(got.grad, rounded_to(dtype, want.grad))
    assert_same_bits(got.hessian, rounded_to(dtype, want.hessian))
    wide = np.empty((2, *shape), np.float32)
    mixed = function(x, y, grad_out=wide[0], hessian_out=wide[1])
    assert_same_bits(mixed.grad, want.grad)
    assert_same_bits(mixed.hessian, want.hessian)


@by_name
@pytest.mark.parametrize("shape", [(3, 33), (20, 150), (1, 300_000)], ids=str)
@pytest.mark.parametrize("is_rounded", [True, False])
def test_rows_that_a_large_weight_takes_out_of_float32(
    shape: tuple[int, int], is_rounded: bool, dtype: Any, isa: str
) -> None:
    """A weight of 2^100 shows what float32's exponentials flush to 0; such rows go to double."""
    x = np.full(shape, -60, dtype)
    x[:, 0], x[:, 7] = 0, -95
    y = np.zeros(len(x), int)
    options: dict[str, Any] = {"reduction": "sum", "scale": 2.0**100, "num_threads": 2}
    want = xent_fast.softmax_cross_entropy_grad(x.astype(np.float32), y, **options)
    assert (want.grad[:, 7] > 0).all()
    out = np.empty_like(x) if is_rounded else np.empty(x.shape, np.float32)
    got = xent_fast.softmax_cross_entropy_grad(x, y, out=out, **options)
    assert got.loss == want.loss
    with np.errstate(over="ignore"):
        assert_same_bits(got.grad, want.grad.astype(out.dtype))


@by_name
def test_every_number_is_read_as_it_is(dtype: Any, isa: str) -> None:
    """log_softmax of one class more, whose logit is -inf, is 0; lse is the logit itself."""
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    x = np.stack([every, np.full_like(every, -np.inf)], axis=1)
    np.testing.assert_array_equal(xent_fast.logsumexp(x), every.astype(np.float32))
    columns = np.asfortranarray(x)
    np.testing.assert_array_equal(xent_fast.logsumexp(columns), every.astype(np.float32))


@by_name
def test_every_number_is_rounded_to_even(dtype: Any, isa: str) -> None:
    """The gradient of two equal logits, half the row's weight: every number, and those around."""
    every = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    every = every[np.isfinite(every) & (every > 0)]
    halfway = (every[:-1].astype(float) + every[1:]) / 2
    below, above = np.nextafter(halfway, 0), np.nextafter(halfway, np.inf)
    weight = np.float32(np.concatenate([every, halfway, np.float32(below), np.float32(above)]))
    weight = weight[(weight > 2.0**-120) & (weight < 2.0**120)]
    x = np.zeros((len(weight), 2), dtype)
    labels, options = np.zeros(len(weight), int), {"sample_weight": 2 * exact(weight)}
    grad = xent_fast.softmax_cross_entropy_grad(x, labels, reduction="sum", **options).grad
    wide = xent_fast.softmax_cross_entropy_grad(
        x.astype(np.float32), labels, reduction="sum", **options
    ).grad
    np.testing.assert_allclose(wide[:, 1], weight, rtol=5e-7)
    assert_same_bits(grad, rounded_to(dtype, wide))


@by_name
def test_beyond_the_range(dtype: Any) -> None:
    """What is too large becomes infinite, what is too small 0 or subnormal, a NaN row stays one."""
    x = np.zeros((4, 2), dtype)
    x[3, 0] = np.nan
    largest = float(ml_dtypes.finfo(dtype).max)
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    weight = np.array([3 * largest, 3 * tiny, tiny / 4, 1.0])
    with np.errstate(all="ignore"):
        grad = xent_fast.softmax_cross_entropy_grad(
            x, [0] * 4, sample_weight=weight, reduction="sum"
        ).grad
    assert exact(grad[0]).tolist() == [-np.inf, np.inf]
    assert exact(grad[1]).tolist() == [-2 * tiny, 2 * tiny]
    assert exact(grad[2]).tolist() == [0.0, 0.0]
    assert np.isnan(exact(grad[3])).all()


def by_ranges(x: Any, targets: Any, out: Any = None, **options: Any) -> tuple[Any, Any]:
    """Losses and gradient of three ranges of classes, and of what measuring leaves of them."""
    classes = x.shape[1]
    cuts = [0, classes // 3, classes // 2, classes]
    ranges = [slice(*ends) for ends in itertools.pairwise(cuts)]

    def of(some: slice) -> tuple[Any, Any]:
        return x[:, some], targets if targets.ndim == 1 else targets[:, some]

    statistics = xent_fast.merge_class_statistics(
        [
            xent_fast.class_statistics(
                *of(some),
                first_class=some.start,
                num_classes=classes,
                out=None if out is None else out[:, some],
                **options,
            )
            for some in ranges
        ]
    )
    grads = []
    for some in ranges:
        logits, own = of(some)
        place = None if out is None else out[:, some]
        grads.append(
            xent_fast.grad_from_statistics(
                logits if place is None else place,
                own,
                statistics,
                first_class=some.start,
                has_exponentials=place is not None,
                out=place,
            ).grad
        )
    return xent_fast.loss_from_statistics(statistics), np.concatenate(grads, axis=1)


@by_name
@pytest.mark.parametrize("kind", ["index", "smoothed", "dense", "dense float32"])
def test_ranges_of_classes(kind: str, dtype: Any, isa: str) -> None:
    """In new arrays, in place (16 bits hold the logits meanwhile), and into float32."""
    for shape in SHAPES:
        x, y, v = inputs(shape, dtype)
        options = {"label_smoothing": 0.1, "temperature": 2.0} if kind == "smoothed" else {}
        targets = np.abs(v) if kind.startswith("dense") else y
        wide_targets = np.abs(v).astype(np.float32) if kind.startswith("dense") else y
        given = wide_targets if kind == "dense float32" else targets
        want = by_ranges(x.astype(np.float32), wide_targets, **options)
        rounded = rounded_to(dtype, want[1])
        wide, place = np.empty(shape, np.float32), x.copy()
        for logits, out, grad in (
            (x, None, rounded),
            (x, np.empty_like(x), rounded),
            (x, wide, want[1]),
            (place, place, rounded),
        ):
            # exponentials in float32 are a gradient's of float32
            other = wide_targets if out is wide else given
            got = by_ranges(logits, other, out, **options)
            assert_same_bits(got[0], want[0])
            assert_same_bits(got[1], grad)
        exact_loss = reference.softmax_cross_entropy(x, targets, reduction="none", **options)
        assert spacings_apart(want[0], exact_loss, np.float32).max() <= 4


@by_name
def test_range_layouts(dtype: Any) -> None:
    x, y, _ = inputs((9, 40), dtype)
    want = by_ranges(x, y)
    for layout in ("padded_rows", "reversed_columns", "sliced_columns", "fortran", "misaligned"):
        given = GuardedArray(x, layout).array
        got = by_ranges(given, y, given)
        assert_same_bits(got[0], want[0])
        assert_same_bits(got[1], want[1])
        assert_same_bits(np.array(given), want[1])


@by_name
@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_probabilities(clip: float, dtype: Any) -> None:
    x, y, v = inputs((20, 40), dtype)
    p = xent_fast.softmax(x)
    options: dict[str, Any] = {"reduction": "none", "clip": clip}
    for targets in (y, np.abs(v)):
        got = xent_fast.cross_entropy_grad(p, targets, **options)
        want = xent_fast.cross_entropy_grad(p.astype(np.float32), targets, **options)
        assert_same_bits(got.loss, want.loss)
        assert_same_bits(got.grad, rounded_to(dtype, want.grad))
        assert_same_bits(xent_fast.cross_entropy(p, targets, **options), want.loss)
        wide = np.empty(p.shape, np.float32)
        assert xent_fast.cross_entropy_grad(p, targets, out=wide, **options).grad is wide
        assert_same_bits(wide, want.grad)
    place = p.copy()
    xent_fast.cross_entropy_grad(place, targets, out=place, **options)
    assert_same_bits(place, rounded_to(dtype, want.grad))


@by_name
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradient_of_targets(axis: int, dtype: Any) -> None:
    rng = np.random.default_rng(axis)
    x = (4 * rng.standard_normal((7, 8, 9))).astype(dtype)
    x[x < -9] = -np.inf
    options: dict[str, Any] = {
        "axis": axis,
        "weight": np.arange(x.shape[axis]) / 4,
        "sample_weight": np.delete(x.shape, axis).prod() - np.arange(504 // x.shape[axis]) / 4,
        "reduction": "none",
        "label_smoothing": 0.1,
    }
    options["sample_weight"] = options["sample_weight"].reshape(np.delete(x.shape, axis))
    function = xent_fast.softmax_cross_entropy_grad_targets
    assert_same_bits(function(x, **options), rounded_to(dtype, function(np.float32(x), **options)))
    assert_same_bits(function(x, axis=axis), rounded_to(dtype, function(np.float32(x), axis=axis)))
    nothing = function(x, axis=axis, sample_weight=np.zeros(options["sample_weight"].shape))
    assert nothing.dtype == dtype
    assert (exact(nothing) == 0).all()


@by_name
def test_sampled(dtype: Any) -> None:
    """Arrays of several dtypes: each gradient has its own argument's."""
    rng = np.random.default_rng(0)
    layer = [rng.standard_normal(shape).astype(dtype) for shape in ((20, 8), (50, 8), 50)]
    options: dict[str, Any] = {"num_sampled": 10, "rng": 0, "scale": 2.0**8, "reduction": "none"}
    function = xent_fast.sampled_softmax_loss_grad
    want = function(*(a.astype(np.float32) for a in layer), np.arange(20), **options)
    for dtypes in ((dtype,) * 3, (np.float32, dtype, np.float32)):
        given = [a.astype(own) for a, own in zip(layer, dtypes, strict=True)]
        got = function(*given, np.arange(20), **options)
        assert_same_bits(got.loss, want.loss)
        assert np.array_equal(got.rows, want.rows)
        grads = ("grad_hidden", "grad_weight", "grad_bias")
        for name, own in zip(grads, dtypes, strict=True):
            assert_same_bits(getattr(got, name), rounded_to(own, getattr(want, name)))
    assert function(*given[:2], None, np.arange(20), **options).grad_bias.dtype == np.float32


# ml_dtypes has no bfloat16 of the other byte order.
LAYOUT_CASES = [
    (layout, dtype)
    for layout in LAYOUTS
    for dtype in DTYPES
    if layout != "byte_swapped" or dtype is np.float16
]


@pytest.mark.parametrize(("layout", "dtype"), LAYOUT_CASES, ids=str)
def test_layouts(layout: str, dtype: Any) -> None:
    for name in FUNCTIONS:
        for shape in ((40, 3), (40, 70)):
            x, y, v = inputs(shape, dtype)
            want = FUNCTIONS[name](x.astype(np.float32), y, v.astype(np.float32))
            given, other = GuardedArray(x, layout), GuardedArray(v, layout)
            rounded = rounded_to(dtype, want)
            assert_same_bits(FUNCTIONS[name](given.array, y, other.array), rounded)
            out = np.empty(shape, np.float32)
            np.testing.assert_array_equal(
                FUNCTIONS[name](given.array, y, other.array, out=out), want
            )
            given.assert_untouched()
            if layout in OUTPUT_LAYOUTS:
                FUNCTIONS[name](given.array, y, other.array, out=given.array)
                assert_same_bits(np.array(given.array, dtype), rounded)
                given.assert_guards_intact()
                # the result alone, then the other matrix alone, in that layout
                result = GuardedArray(np.zeros_like(x), layout)
                FUNCTIONS[name](x, y, v, out=result.array)
                assert_same_bits(np.array(result.array, dtype), rounded)
                result.assert_guards_intact()
            assert_same_bits(FUNCTIONS[name](x, y, other.array), rounded)
            other.assert_untouched()


@by_name
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, int])
def test_targets_and_weights_of_any_type(dtype: Any, kind: Any) -> None:
    x, _, v = inputs((20, 40), dtype)
    t = np.abs(v).astype(kind)
    options = {"weight": t[0], "sample_weight": t[:, 0], "reduction": "sum"}
    for logits in (x, x.astype(np.float32)):
        got = xent_fast.softmax_cross_entropy_grad(logits, t, **options)
        want = xent_fast.softmax_cross_entropy_grad(
            x.astype(np.float32), t.astype(np.float32), **options
        )
        assert got.loss == want.loss
        assert_same_bits(got.grad, rounded_to(logits.dtype, want.grad))


DENSE_FUNCTIONS = [
    function for function in functions.FUNCTIONS.values() if "dense" in function.kinds
]


@by_name
@pytest.mark.parametrize("logits_dtype", [*DTYPES, np.float32, np.float64])
@pytest.mark.parametrize("function", DENSE_FUNCTIONS, ids=lambda function: function.name)
def test_dense_targets_of_one_row(
    function: functions.Function, logits_dtype: type, dtype: type
) -> None:
    """Of logits of one axis dense targets are floats, bfloat16 too."""
    batch = one_row(logits_dtype, dtype)
    got = functions.arrays_of(function.call(batch, "dense")())
    wide = replace(batch, dense=batch.dense.astype(np.float64))
    for mine, theirs in zip(got, functions.arrays_of(function.call(wide, "dense")()), strict=True):
        assert_same_bits(mine, theirs)


def one_row(dtype: type, targets_dtype: type) -> functions.Batch:
    numbers = np.arange(1, 6) / 16
    return functions.Batch(
        *(numbers.astype(dtype),) * 3,
        labels=np.array(2),
        dense=(numbers / 2).astype(targets_dtype),
        row_weights=np.array(1.0),
        class_weights=np.ones(5),
        hidden=np.ones(3, dtype),
        layer=np.ones((5, 3), dtype),
        bias=np.zeros(5, dtype),
    )


@by_name
@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        ([1, 0], r"targets.astype\(int\) makes integers"),
        ([1, 0.5], r"targets\[1\] is no whole number"),
        ([np.nan, 0], r"targets\[0\] is missing"),
    ],
    ids=["whole", "fraction", "missing"],
)
def test_labels_that_are_no_integers(dtype: Any, labels: list[float], remedy: str) -> None:
    given = np.array(labels).astype(dtype)
    with pytest.raises(TypeError, match=f"not {given.dtype.name} .*{remedy}"):
        xent_fast.softmax_cross_entropy(np.zeros((2, 3)), given)


@by_name
def test_what_is_refused(dtype: Any) -> None:
    x, y = np.ones((4, 5), dtype), np.zeros(4, int)
    name = np.dtype(dtype).name
    message = f"out must have the logits' dtype {name} or float32, not float64"
    with pytest.raises(TypeError, match=message):
        xent_fast.softmax_cross_entropy_grad(x, y, out=np.zeros(x.shape))
    with pytest.raises(TypeError, match=f"dtype float32 where the logits are {name}"):
        xent_fast.logsumexp(x, out=np.zeros(4, dtype))
    memory = np.zeros(20, np.float32)
    part = memory.view(np.uint16).view(dtype)[:20].reshape(4, 5)
    with pytest.raises(ValueError, match="out overlaps logits"):
        xent_fast.softmax_cross_entropy_grad(part, y, out=memory.reshape(4, 5))
    statistics = xent_fast.class_statistics(x.astype(float), y, first_class=0)
    with pytest.raises(TypeError, match="were computed in float64"):
        xent_fast.grad_from_statistics(x, y, statistics, first_class=0)
    before = x.copy()
    with pytest.raises(IndexError):
        xent_fast.softmax_cross_entropy_grad(x, [0, 1, 2, 5], out=x)
    assert_same_bits(x, before)
