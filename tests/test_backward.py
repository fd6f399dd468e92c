"""The backward passes of softmax and log_softmax: values, bits, layouts, and what they refuse.

Knows the two formulas, exactly. Must not know how a kernel adds or takes exponentials.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import le

import mpmath
import numpy as np
import pytest
from helpers import LAYOUTS, OUTPUT_LAYOUTS, GuardedArray, aligned_bytes, assert_same_bits, poisoned
from instruction_sets import AVAILABLE, FMA_ISAS, forced

from xent_fast import log_softmax_vjp, reference, softmax_vjp

inf, nan = np.inf, np.nan

FUNCTIONS = {"softmax": softmax_vjp, "log_softmax": log_softmax_vjp}
NAMES = {
    "softmax": ("probabilities", "grad_probabilities"),
    "log_softmax": ("log_probabilities", "grad_log_probabilities"),
}
# Vectors of 8 and 16 numbers, parts of them, several at once.
CLASS_COUNTS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 64, 65, 130, 300)


@pytest.fixture(params=FUNCTIONS)
def of(request: pytest.FixtureRequest) -> str:
    """Whose backward pass."""
    return request.param


def make_inputs(
    of: str, shape: tuple[int, ...], dtype: type, axis: int = -1, spread: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """What softmax or log_softmax gives for random logits, and slopes of either sign."""
    rng = np.random.default_rng(shape)
    logits, slopes = spread * rng.standard_normal(shape), rng.standard_normal(shape)
    values = getattr(reference, of)(logits, axis=axis)
    return values.astype(dtype), slopes.astype(dtype)


# --- values ---


def exact_softmax_vjp(p: np.ndarray, dp: np.ndarray) -> tuple[list, list]:
    """The gradient of one row, and what its error may be relative to besides itself."""
    p, dp = [list(map(mpmath.mpf, row.tolist())) for row in (p, dp)]
    products = [a * b for a, b in zip(p, dp, strict=True)]
    total, magnitude = mpmath.fsum(products), mpmath.fsum(map(abs, products))
    return (
        [a * (b - total) for a, b in zip(p, dp, strict=True)],
        [a * magnitude for a in p],
    )


def exact_log_softmax_vjp(log_p: np.ndarray, dl: np.ndarray) -> tuple[list, list]:
    """The gradient of one row, and exp(l) sum dl."""
    dl = list(map(mpmath.mpf, dl.tolist()))
    total = mpmath.fsum(dl)
    products = [mpmath.exp(value) * total for value in log_p.tolist()]
    return [a - b for a, b in zip(dl, products, strict=True)], products


def by_isa(function: Callable[..., np.ndarray], *arguments: np.ndarray) -> dict[str, np.ndarray]:
    """What each instruction set makes of the arguments."""
    results = {}
    for isa in AVAILABLE:
        with forced(isa):
            results[isa] = function(*arguments)
    return results


def errors(got: np.ndarray, want: list) -> list[mpmath.mpf]:
    return [abs(mpmath.mpf(a) - b) for a, b in zip(got.tolist(), want, strict=True)]


@pytest.mark.parametrize("spread", [0.5, 4.0, 30.0])
def test_softmax_values(dtype: type, spread: float) -> None:
    """1.5 units in the last place, while the sum is exact to 2^-48 or 2^-98 of its terms."""
    eps, smallest = float(np.finfo(dtype).eps), mpmath.mpf(float(np.finfo(dtype).smallest_normal))
    of_sum = mpmath.mpf(2) ** (-47 if dtype == np.float32 else -97)
    with mpmath.workdps(60):
        for classes in CLASS_COUNTS:
            p, dp = make_inputs("softmax", (2, classes), dtype, spread=spread)
            results = by_isa(softmax_vjp, p, dp)
            for row in range(2):
                want, magnitude = exact_softmax_vjp(p[row], dp[row])
                bounds = [
                    eps * (1.5 * abs(value) + 2 * smallest) + of_sum * extent
                    for value, extent in zip(want, magnitude, strict=True)
                ]
                for isa, got in results.items():
                    assert all(map(le, errors(got[row], want), bounds)), isa


@pytest.mark.parametrize("spread", [0.5, 4.0, 30.0])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_log_softmax_values(dtype: type, spread: float, size: float) -> None:
    """1.1 units of exp(l) sum dl and one of the result, without FMA a third more."""
    eps, smallest = float(np.finfo(dtype).eps), mpmath.mpf(float(np.finfo(dtype).smallest_normal))
    with mpmath.workdps(60):
        for classes in CLASS_COUNTS:
            log_p, dl = make_inputs("log_softmax", (2, classes), dtype, spread=spread)
            dl *= dtype(size)
            results = by_isa(log_softmax_vjp, log_p, dl)
            for row in range(2):
                want, products = exact_log_softmax_vjp(log_p[row], dl[row])
                for isa, got in results.items():
                    allowed = 1.5 if isa == "portable" else 1.1
                    bounds = [
                        eps * (abs(value) + allowed * abs(product) + 2 * smallest)
                        for value, product in zip(want, products, strict=True)
                    ]
                    assert all(map(le, errors(got[row], want), bounds)), isa


@pytest.mark.parametrize("sum_of_slopes", [1e-38, 1e-20, 0.75, 1e20, 3e38])
def test_any_finite_log_probability(dtype: type, sum_of_slopes: float) -> None:
    """exp(l) s from the smallest subnormal number to beyond the largest, l positive or negative."""
    if dtype == np.float64:
        sum_of_slopes = sum_of_slopes**8
    info = np.finfo(dtype)
    span = float(np.log(info.max) - np.log(float(info.smallest_subnormal)))
    log_p = np.linspace(-2 * span, 2 * span, 999).astype(dtype)
    log_p[:4] = info.max, info.min, -0.0, -info.smallest_subnormal
    dl = np.zeros_like(log_p)
    dl[7] = sum_of_slopes
    results = by_isa(log_softmax_vjp, log_p, dl)
    with mpmath.workdps(60):
        _, products = exact_log_softmax_vjp(np.clip(log_p, -3 * span, 3 * span), dl)
        for place, (slope, product) in enumerate(zip(dl.tolist(), products, strict=True)):
            want, values = slope - product, [float(got[place]) for got in results.values()]
            if abs(want) > float(info.max) * (1 - 2 * float(info.eps)):
                assert all(v == -inf or v == pytest.approx(-float(info.max)) for v in values)
            else:
                units = 1.5 * product + abs(want)
                bound = float(info.eps) * units + float(info.smallest_subnormal)
                assert all(abs(value - want) <= bound for value in values)


def test_slopes_without_a_sum_pass_through(isa: str, dtype: type) -> None:
    dl = np.array([1.0, -1.0, 0.25, -0.25] * 5, dtype)
    log_p = np.linspace(-200, 2000, 20).astype(dtype)
    np.testing.assert_array_equal(log_softmax_vjp(log_p, dl), dl)


def test_a_sum_that_cancels(isa: str, dtype: type) -> None:
    """The terms cancel to a millionth of their size and less; what is left keeps its digits."""
    small = dtype(2.0**-20)
    p = np.full((1, 64), 0.25, dtype)
    dp = np.tile(np.array([1, -1], dtype), (1, 32))
    dp[0, 5] += small
    with np.errstate(under="ignore"):
        want = reference.softmax_vjp(p, dp).astype(dtype)
    np.testing.assert_array_equal(softmax_vjp(p, dp), want)
    log_p = np.log(p)
    np.testing.assert_allclose(
        log_softmax_vjp(log_p, dp)[0, 0], 1 - np.exp(float(log_p[0, 0])) * float(small), rtol=1e-6
    )
    even = log_softmax_vjp(log_p, np.where(dp == 1, dtype(0), dp * 0 + small / 64))[0, 0]
    assert even == pytest.approx(-np.exp(float(log_p[0, 0])) * float(small) / 2, rel=2e-7)


@pytest.mark.parametrize("classes", [3, 40, 1000])
def test_special_numbers_stay_in_their_row(of: str, isa: str, dtype: type, classes: int) -> None:
    """NaN and infinities give what the formula gives; other rows keep their bits."""
    values, slopes = make_inputs(of, (9, classes), dtype)
    clean = FUNCTIONS[of](values, slopes)
    for row, (place, number) in enumerate(
        ((values, nan), (slopes, nan), (slopes, inf), (slopes, -inf), (values, -inf))
    ):
        place[row, classes // 2] = number
    with np.errstate(all="ignore"):
        want = getattr(reference, f"{of}_vjp")(values, slopes)
    got = FUNCTIONS[of](values, slopes)
    assert_same_bits(got[5:], clean[5:])
    np.testing.assert_array_equal(np.isnan(got[:5]), np.isnan(want[:5]))
    infinite = np.isinf(want[:5])
    np.testing.assert_array_equal(got[:5][infinite], want[:5][infinite])


def test_infinite_log_probabilities(isa: str, dtype: type) -> None:
    log_p = np.array([[-inf, 0.0], [inf, 0.0], [inf, 0.0], [inf, 0.0]], dtype)
    dl = np.array([[3.0, 2.0], [3.0, 2.0], [3.0, -4.0], [2.0, -2.0]], dtype)
    np.testing.assert_array_equal(
        log_softmax_vjp(log_p, dl), [[3, -3], [-inf, -3], [inf, -3], [nan, -2]]
    )


# --- bits ---


@pytest.mark.parametrize("shape", [(20_000, 3), (4_000, 33), (150, 1_000), (3, 200_000)], ids=str)
def test_threads(of: str, isa: str, dtype: type, shape: tuple[int, int]) -> None:
    values, slopes = make_inputs(of, shape, dtype)
    alone = FUNCTIONS[of](values, slopes, num_threads=1)
    for num_threads in (2, 3, 8, None):
        assert_same_bits(FUNCTIONS[of](values, slopes, num_threads=num_threads), alone)


@pytest.mark.parametrize("classes", CLASS_COUNTS)
def test_position_alignment_and_place(of: str, isa: str, dtype: type, classes: int) -> None:
    """Rows anywhere in a batch, at any address, their result in either input's place."""
    rows = 5
    values, slopes = make_inputs(of, (rows, classes), dtype)
    want = FUNCTIONS[of](values, slopes)
    for row in range(rows):
        assert_same_bits(FUNCTIONS[of](values[row], slopes[row]), want[row])
    items = rows * classes
    buffers = [aligned_bytes((items + 17) * values.itemsize).view(dtype) for _ in range(2)]
    for offset in range(17):
        moved = [
            buffer[start : start + items].reshape(rows, classes)
            for buffer, start in zip(buffers, (offset, 16 - offset), strict=True)
        ]
        for place in range(2):
            moved[0][...], moved[1][...] = values, slopes
            assert FUNCTIONS[of](*moved, out=moved[place]) is moved[place]
            assert_same_bits(moved[place], want)


@pytest.mark.parametrize("first", FMA_ISAS or ("portable",))
def test_instruction_sets(of: str, dtype: type, first: str) -> None:
    """All with a fused multiply-add agree; softmax's takes none for float32."""
    others = (*FMA_ISAS, "portable") if (of, dtype) == ("softmax", np.float32) else FMA_ISAS
    for classes in CLASS_COUNTS:
        values, slopes = make_inputs(of, (20, classes), dtype)
        with forced(first):
            want = FUNCTIONS[of](values, slopes)
        for other in others:
            with forced(other):
                assert_same_bits(FUNCTIONS[of](values, slopes), want)


# --- layouts ---


def test_layouts_of_inputs(of: str, isa: str, dtype: type) -> None:
    for layout in LAYOUTS:
        values, slopes = make_inputs(of, (7, 37), dtype)
        want = FUNCTIONS[of](values, slopes)
        inputs = [GuardedArray(array, layout) for array in (values, slopes)]
        got = FUNCTIONS[of](inputs[0].array, inputs[1].array)
        assert_same_bits(got, want)
        assert got.dtype.isnative
        for guarded in inputs:
            guarded.assert_untouched()


def test_layouts_of_outputs(of: str, isa: str, dtype: type) -> None:
    for layout in OUTPUT_LAYOUTS:
        for classes in [1, 5, 16, 37]:
            values, slopes = make_inputs(of, (7, classes), dtype)
            want = FUNCTIONS[of](values, slopes)
            out = poisoned(7, classes, dtype, layout)
            assert FUNCTIONS[of](values, slopes, out=out.array) is out.array
            assert_same_bits(out.array.astype(dtype), want)
            out.assert_guards_intact()
            for place in range(2):
                inputs = [GuardedArray(array, layout) for array in (values, slopes)]
                FUNCTIONS[of](inputs[0].array, inputs[1].array, out=inputs[place].array)
                assert_same_bits(inputs[place].array.astype(dtype), want)
                inputs[place].assert_guards_intact()
                inputs[1 - place].assert_untouched()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5,), 0), ((3, 4), 0), ((2, 4, 3), 1), ((2, 3, 4), -1), ((2, 3, 1, 4), 2), ((2, 2, 3, 4), 0)],
)
def test_axes(of: str, dtype: type, shape: tuple[int, ...], axis: int) -> None:
    values, slopes = make_inputs(of, shape, dtype, axis)

    def rows(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, axis, -1).reshape(-1, shape[axis])

    want = FUNCTIONS[of](rows(values), rows(slopes))
    assert_same_bits(rows(FUNCTIONS[of](values, slopes, axis=axis)), want)
    for order in "CF":
        copies = [np.array(array, order=order) for array in (values, slopes)]
        out = np.full(shape, nan, dtype, order)
        assert_same_bits(rows(FUNCTIONS[of](*copies, axis=axis, out=out)), want)
        FUNCTIONS[of](*copies, axis=axis, out=copies[1])
        assert_same_bits(rows(copies[1]), want)


def test_one_array_as_everything(dtype: type) -> None:
    p, _ = make_inputs("softmax", (4, 20), dtype)
    want = softmax_vjp(p, p.copy())
    assert_same_bits(softmax_vjp(p, p, out=p), want)


def test_inputs_that_are_not_arrays(of: str) -> None:
    values, slopes = [[0.25, 0.75]], [[1.0, 0.5]]
    want = FUNCTIONS[of](np.array(values), np.array(slopes))
    assert_same_bits(FUNCTIONS[of](values, slopes), want)
    broadcast = np.broadcast_to(np.array(values[0]), (3, 2))
    got = FUNCTIONS[of](broadcast, np.broadcast_to(np.array(slopes[0]), (3, 2)))
    assert_same_bits(got, np.repeat(want, 3, axis=0))


@pytest.mark.parametrize("shape", [(0, 4), (0, 0), (2, 0, 3), (0,)])
def test_nothing(of: str, shape: tuple[int, ...]) -> None:
    nothing = np.empty(shape)
    axis = -1 if shape != (0,) else None
    if axis is None:
        with pytest.raises(ValueError, match="no class"):
            FUNCTIONS[of](nothing, nothing)
    else:
        assert FUNCTIONS[of](nothing, nothing).shape == shape
        assert FUNCTIONS[of](nothing, nothing, out=nothing) is nothing


# --- bad input ---


def good(shape: tuple[int, ...] = (6, 4), dtype: type = np.float32) -> np.ndarray:
    return np.full(shape, 0.25, dtype)


@pytest.mark.parametrize(
    ("slopes", "error", "message"),
    [
        (good((6, 5)), ValueError, "must have the shape (6, 4) of {}, not (6, 5)"),
        (good((4,)), ValueError, "must have the shape (6, 4) of {}, not (4,)"),
        (good(dtype=np.float64), TypeError, "must have the dtype float32 of {}, not float64"),
    ],
    ids=["shape", "dimensions", "dtype"],
)
def test_inputs_that_do_not_match(
    of: str, slopes: np.ndarray, error: type[Exception], message: str
) -> None:
    values_name, slopes_name = NAMES[of]
    with pytest.raises(error, match=re.escape(f"{slopes_name} {message.format(values_name)}")):
        FUNCTIONS[of](good(), slopes)


def test_no_class(of: str) -> None:
    for shape, axis in (((3, 0), -1), ((0, 3), 0), ((2, 0, 2), 1)):
        with pytest.raises(ValueError, match="no class along axis"):
            FUNCTIONS[of](np.empty(shape), np.empty(shape), axis=axis)


def test_no_axis(of: str) -> None:
    with pytest.raises(np.exceptions.AxisError):
        FUNCTIONS[of](np.float32(1), np.float32(1))


def test_more_threads_than_rows(of: str) -> None:
    values, slopes = make_inputs(of, (3, 5), np.float32)
    got = FUNCTIONS[of](values, slopes, num_threads=10**9)
    assert_same_bits(got, FUNCTIONS[of](values, slopes))


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.ma.array(good()), TypeError, "out must not be a masked array"),
        (good(dtype=np.float64), TypeError, "probabilities' dtype float32, not float64"),
        (good((4, 6)), ValueError, "probabilities' shape (6, 4), not (4, 6)"),
    ],
    ids=["masked", "dtype", "shape"],
)
def test_bad_out(of: str, out: object, error: type[Exception], message: str) -> None:
    before = np.array(out)
    with pytest.raises(error, match=re.escape(message)):
        FUNCTIONS[of](good(), good(), out=out)
    np.testing.assert_array_equal(np.array(out), before)


@pytest.mark.parametrize("position", [0, 1])
def test_out_overlaps_an_input(of: str, position: int) -> None:
    buffer = np.full(30, 0.25, np.float32)
    shifted, out = buffer[1:25].reshape(6, 4), buffer[:24].reshape(6, 4)
    arguments = [good(), good()]
    arguments[position] = shifted
    with pytest.raises(ValueError, match=f"out overlaps {NAMES[of][position]}; it must be"):
        FUNCTIONS[of](*arguments, out=out)
    backwards = buffer[3::-1].reshape(1, 4)
    arguments = [good((1, 4)), good((1, 4))]
    arguments[position] = backwards
    with pytest.raises(ValueError, match=f"out overlaps {NAMES[of][position]}; it must be"):
        FUNCTIONS[of](*arguments, out=buffer[:4].reshape(1, 4))
    assert (buffer == 0.25).all()


@pytest.mark.parametrize("position", [0, 1])
def test_out_needs_arrays(of: str, position: int) -> None:
    arguments = [good(), good()]
    arguments[position] = arguments[position].tolist()
    message = f"{NAMES[of][position]} must be an ndarray where out is given, not list"
    with pytest.raises(TypeError, match=message):
        FUNCTIONS[of](*arguments, out=good())
