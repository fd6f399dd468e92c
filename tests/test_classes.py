"""Classes shared out: ranges of any cut give the loss and gradient of the whole rows.

Knows: the public functions, what bad input must raise. Must not know: what statistics hold.
"""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xent_fast import (
    ClassStatistics,
    class_statistics,
    grad_from_statistics,
    loss_from_statistics,
    merge_class_statistics,
    reference,
    softmax_cross_entropy_grad,
)

ROWS = 9
BLOCK = {np.float32: 2048, np.float64: 1024}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weight": True},
    "ignored": {"ignore_index": -100},
    "every": {
        "label_smoothing": 0.2,
        "weight": True,
        "temperature": 1.7,
        "ignore_index": -100,
        "z_loss": 1e-2,
        "sample_weight": True,
    },
    "dense": {"dense": True},
    "shaped": {"dense": True, "label_smoothing": 0.1, "weight": True, "z_loss": 0.1},
}


def make_problem(name: str, classes: int, dtype: Any, seed: int = 0) -> tuple[Any, ...]:
    """Logits, targets, and the options of measuring and of settling."""
    rng = np.random.default_rng(seed)
    options = dict(OPTIONS[name])
    logits = (3 * rng.standard_normal((ROWS, classes))).astype(dtype)
    targets = rng.integers(0, classes, ROWS)
    if options.pop("dense", False):
        targets = rng.random((ROWS, classes)).astype(dtype)
    elif "ignore_index" in options:
        targets[::4] = -100
    if "weight" in options:
        options["weight"] = (rng.random(classes) + 0.5).astype(dtype)
    later = {key: options.pop(key) for key in ("z_loss", "sample_weight") if key in options}
    if "sample_weight" in later:
        later["sample_weight"] = rng.random(ROWS) + 0.5
    return logits, targets, options, later


def sharded(
    logits: np.ndarray, targets: np.ndarray, cuts: list[int], options: Any, later: Any, **more: Any
) -> tuple[Any, np.ndarray]:
    """Loss and the whole gradient, from ranges that end at the cuts."""
    bounds = [0, *cuts, logits.shape[1]]
    ranges = [slice(a, b) for a, b in itertools.pairwise(bounds)]

    def part(values: Any, some: slice) -> Any:
        return values[..., some] if values is not None and np.ndim(values) else values

    def targets_of(some: slice) -> np.ndarray:
        return targets if targets.ndim == 1 else targets[:, some]

    weight = options.get("weight")
    statistics = merge_class_statistics(
        class_statistics(
            logits[:, some],
            targets_of(some),
            first_class=some.start,
            num_classes=logits.shape[1],
            **{**options, "weight": part(weight, some)},
        )
        for some in reversed(ranges)
    )
    results = [
        grad_from_statistics(
            logits[:, some],
            targets_of(some),
            statistics,
            first_class=some.start,
            weight=part(weight, some),
            **later,
            **more,
        )
        for some in ranges
    ]
    assert all(np.array_equal(r.loss, results[0].loss, equal_nan=True) for r in results)
    return results[0].loss, np.concatenate([r.grad for r in results], axis=1)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", OPTIONS)
def test_any_cut(dtype: type, name: str) -> None:
    for reduction in ["none", "sum", "mean"]:
        logits, targets, options, later = make_problem(name, 5000, dtype)
        want = softmax_cross_entropy_grad(logits, targets, reduction=reduction, **options, **later)
        exact = reference.softmax_cross_entropy_grad(
            logits, targets, reduction=reduction, **options, **later
        )
        loss, grad = sharded(
            logits, targets, [1, 1, 700, 3000], options, later, reduction=reduction
        )
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(loss, want.loss, rtol=4 * eps)
        scale = np.abs(exact.grad).max(axis=1, keepdims=True)
        assert (np.abs(grad - exact.grad) <= 8 * eps * scale).all()


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    blocks=st.lists(st.integers(1, 2), min_size=2, max_size=4),
    rest=st.integers(0, 1023),
    name=st.sampled_from(list(OPTIONS)),
    seed=st.integers(0, 99),
)
def test_same_bits_where_ranges_end_at_blocks(
    dtype: Any, blocks: list[int], rest: int, name: str, seed: int
) -> None:
    """But where class weights multiply class indices alone, which they do at another place."""
    cuts = [BLOCK[dtype] * count for count in itertools.accumulate(blocks)]
    logits, targets, options, later = make_problem(name, cuts[-1] + rest, dtype, seed)
    want = softmax_cross_entropy_grad(logits, targets, reduction="none", **options, **later)
    loss, grad = sharded(logits, targets, cuts, options, later, reduction="none")
    if name == "weighted":  # more than the 2 and 3 of 7,000 random batches
        np.testing.assert_array_max_ulp(loss, want.loss, 3)
        np.testing.assert_array_max_ulp(grad, want.grad, 4)
    else:
        np.testing.assert_array_equal(loss, want.loss)
        np.testing.assert_array_equal(grad, want.grad)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", OPTIONS)
def test_same_bits_by_every_instruction_set(dtype: type, name: str) -> None:
    block = BLOCK[dtype]
    logits, targets, options, later = make_problem(name, 4 * block + 100, dtype)
    want = softmax_cross_entropy_grad(logits, targets, reduction="none", **options, **later)
    loss, grad = sharded(logits, targets, [block, 3 * block], options, later, reduction="none")
    np.testing.assert_array_max_ulp(loss, want.loss, name == "weighted")
    np.testing.assert_array_max_ulp(grad, want.grad, 2 * (name == "weighted"))


# Between losses: more than the 3 and 4 of many random rows, as each is ulps from the exact one.
MOST_ULPS = {np.float32: 4, np.float64: 6}


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    classes=st.one_of(st.integers(2, 20), st.integers(2, 5000)),
    shares=st.lists(st.floats(0, 1), max_size=6),
    name=st.sampled_from(list(OPTIONS)),
    seed=st.integers(0, 99),
)
def test_any_partition_is_within_some_ulps(
    dtype: Any, classes: int, shares: list[float], name: str, seed: int
) -> None:
    logits, targets, options, later = make_problem(name, classes, dtype, seed)
    want = softmax_cross_entropy_grad(logits, targets, reduction="none", **options, **later)
    cuts = sorted(round(share * classes) for share in shares)
    loss, grad = sharded(logits, targets, cuts, options, later, reduction="none")
    np.testing.assert_array_max_ulp(loss, want.loss, MOST_ULPS[dtype])
    exact = reference.softmax_cross_entropy_grad(
        logits, targets, reduction="none", **options, **later
    ).grad
    # A number of the gradient is the difference of two, each of them rounded.
    masses = np.abs(exact).max(axis=1, keepdims=True)
    if targets.ndim == 2:
        masses += targets.sum(axis=1, keepdims=True)
    elif "label_smoothing" in options:
        masses += 1
    assert (np.abs(grad - exact) <= 6 * np.finfo(dtype).eps * masses).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("cut", [1, 5, 50])
def test_tiny_losses(dtype: type, cut: int) -> None:
    """A loss of 1.4e-13 and the target's gradient keep their digits, wherever the target lies."""
    logits = np.zeros((2, 100), dtype)
    labels = np.array([3, 97])
    logits[[0, 1], labels] = 34.2
    want = reference.softmax_cross_entropy_grad(logits, labels, reduction="none")
    loss, grad = sharded(logits, labels, [cut], {}, {}, reduction="none")
    assert (want.loss < 2e-13).all()
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, want.loss, rtol=2 * eps)
    np.testing.assert_allclose(grad[[0, 1], labels], want.grad[[0, 1], labels], rtol=4 * eps)


def test_special_rows(dtype: type) -> None:
    logits = np.zeros((6, 300), dtype)
    logits[0, 7], logits[1, 299] = np.nan, np.inf
    logits[2] = -np.inf
    logits[3, :100] = -np.inf  # a range without a class that counts
    logits[4] = 1e8 if dtype is np.float32 else 1e300
    logits[5, 0] = -np.inf  # the target
    labels = np.array([0, 1, 2, 200, 150, 0])
    want = softmax_cross_entropy_grad(logits, labels, reduction="none")
    loss, grad = sharded(logits, labels, [100, 200], {}, {}, reduction="none")
    np.testing.assert_allclose(loss, want.loss, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grad, want.grad, rtol=0, atol=8 * np.finfo(dtype).eps)


def test_in_place_and_any_axis(dtype: type) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 60, 4)).astype(dtype), rng.integers(0, 60, (2, 4))
    want = softmax_cross_entropy_grad(logits, labels, axis=1, reduction="mean")
    statistics = class_statistics(logits, labels, first_class=0, axis=1)
    result = grad_from_statistics(
        logits, labels, statistics, first_class=0, axis=1, reduction="mean", out=logits
    )
    assert result.grad is logits
    np.testing.assert_allclose(logits, want.grad, rtol=1e-5)
    assert result.loss == pytest.approx(want.loss, rel=1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", OPTIONS)
def test_exponentials_are_taken_once(dtype: type, name: str) -> None:
    """From what class_statistics has left, in any places, comes the gradient bit for bit."""
    for axis, place in itertools.product([0, 1], ["in_place", "apart", "again_apart"]):
        logits, targets, options, later = make_problem(name, 3000, dtype)
        logits[1, 7], logits[2, 8] = np.nan, -np.inf
        want = sharded(logits, targets, [], options, later, reduction="none")
        along = logits.T.copy() if axis == 0 else logits
        targets = targets.T if targets.ndim == 2 and axis == 0 else targets
        left = along if place == "in_place" else np.empty_like(along)
        whole: dict[str, Any] = {"first_class": 0, "axis": axis}
        statistics = class_statistics(
            along, targets, num_classes=3000, out=left, **whole, **options
        )
        loss, grad = grad_from_statistics(
            left,
            targets,
            statistics,
            weight=options.get("weight"),
            reduction="none",
            has_exponentials=True,
            out=np.empty_like(along) if place == "again_apart" else left,
            **whole,
            **later,
        )
        np.testing.assert_array_equal(loss, want[0])
        np.testing.assert_array_equal(grad if axis else grad.T, want[1])


@pytest.mark.parametrize("name", OPTIONS)
def test_exponentials_for_logits(dtype: type, name: str) -> None:
    """To say that the memory holds the one where it holds the other is an error, not a gradient."""
    logits, targets, options, later = make_problem(name, 3000, dtype)
    logits[1, 7], logits[0] = np.nan, -np.inf
    left, out = np.empty_like(logits), np.full_like(logits, 7)
    statistics = class_statistics(
        logits, targets, first_class=0, num_classes=3000, out=left, **options
    )
    more = {"first_class": 0, "weight": options.get("weight"), "out": out, **later}
    with pytest.raises(ValueError, match="has_exponentials=True says so"):
        grad_from_statistics(left, targets, statistics, **more)
    with pytest.raises(ValueError, match="leave out has_exponentials"):
        grad_from_statistics(logits, targets, statistics, has_exponentials=True, **more)
    with pytest.raises(ValueError, match="logits are not those that class_statistics was given"):
        grad_from_statistics(logits + dtype(1), targets, statistics, **more)
    assert (out == 7).all()


def test_exponentials_of_16_bits_in_float32() -> None:
    logits, left = np.zeros((2, 6), np.float16), np.empty((2, 6), np.float32)
    statistics = class_statistics(logits, [0, 5], first_class=0, out=left)
    with pytest.raises(TypeError, match="out must be float32, as the exponentials in logits are"):
        grad_from_statistics(
            left, [0, 5], statistics, first_class=0, has_exponentials=True, out=logits
        )


def test_no_exponentials_before_everything_is_checked() -> None:
    logits = np.full((2, 6), 7.0)
    cases: list[tuple[Any, dict[str, Any], type[Exception]]] = [
        ([0, 6], {"num_classes": 6}, IndexError),
        ([0, 5], {"label_smoothing": 0.1}, ValueError),
        ([0, 5], {"temperature": 0}, ValueError),
        ([0, 5], {"weight": np.ones(5)}, ValueError),
        ([0, 5], {"ignore_index": 0.5}, TypeError),
        ([0, 5], {"out": np.zeros((2, 5))}, ValueError),
    ]
    for labels, options, error in cases:
        with pytest.raises(error):
            class_statistics(logits, labels, first_class=0, **{"out": logits, **options})
        assert (logits == 7).all()


def test_trees_and_travel() -> None:
    logits, targets, options, _ = make_problem("every", 900, np.float32)
    parts = [
        class_statistics(
            logits[:, a : a + 300],
            targets,
            first_class=a,
            num_classes=900,
            **{**options, "weight": options["weight"][a : a + 300]},
        )
        for a in (0, 300, 600)
    ]
    whole = merge_class_statistics(parts)
    tree = merge_class_statistics([merge_class_statistics(parts[1:]), parts[0]])
    np.testing.assert_array_equal(tree.array, whole.array)
    again = ClassStatistics.from_array(whole.array.copy())
    assert again.ranges == ((0, 300), (300, 600), (600, 900))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).array, whole.array)
    assert again.classes == range(900)
    assert again.num_classes == 900
    assert again.dtype == np.float32
    assert again.rows == ROWS


@pytest.mark.parametrize(
    ("place", "numbers", "message"),
    [
        ((0, 0), [0], "of layout 1"),
        ((0, 1), [77], "kind of targets 77"),
        ((0, 1), [0.5], "kind of targets 0.5"),
        ((0, 2), [2], "bytes of a logit 2"),
        ((0, 3), [0], "temperature 0"),
        ((0, 3), [np.nan], "temperature nan"),
        ((0, 4), [1.5], "label smoothing 1.5"),
        ((0, 5), [5], "number of classes 5"),
        ((0, 5), [6.5], "number of classes 6.5"),
        ((0, 6), [2], "mark of class weights 2"),
        ((0, 7), [0], "0 ranges"),
        ((0, 7), [1.5], "1.5 ranges"),
        ((0, 7), [1e9], r"1e\+09 ranges"),
        ((0, 8), [0, 4, 5, 6], "no ranges side by side"),
        ((0, 8), [0, 4, 2, 6], "no ranges side by side"),
        ((0, 8), [0, 4, 4, 2], "no ranges side by side"),
        ((0, 8), [-1, 3, 3, 6], "no ranges side by side"),
        ((0, 8), [0, 2.5, 2.5, 6], "no ranges side by side"),
        ((0, 8), [0, 3, 3, np.inf], "no ranges side by side"),
        ((0, 8), [0, 3, np.nan, 6], "no ranges side by side"),
        ((0, 8), [0, 1024, 1024, 2049], "does not fit its own header"),
        ((2, 0), [2], "-1, 0 or 1 targets"),
    ],
)
def test_arrays_that_hold_no_statistics(
    place: tuple[int, int], numbers: list[float], message: str
) -> None:
    array = merge_class_statistics([measured(0, 3), measured(3, 6)]).array.copy()
    ClassStatistics.from_array(array)
    row, first = place
    array[row, first : first + len(numbers)] = numbers
    with pytest.raises(ValueError, match=message):
        ClassStatistics.from_array(array)


def test_arrays_of_another_shape() -> None:
    for shape in [(2, 20), (2, 9), (0, 24), (24,)]:
        with pytest.raises(ValueError, match="holds no class statistics"):
            ClassStatistics.from_array(np.zeros(shape))


def test_negative_weights() -> None:
    """A mean would divide by a sum of mixed signs; a sum is as it is."""
    logits, labels, weight = np.zeros((2, 4)), [0, 3], np.array([1.0, 1.0, 1.0, -2.0])
    statistics = merge_class_statistics(
        class_statistics(
            logits[:, some], labels, first_class=some.start, weight=weight[some], num_classes=4
        )
        for some in (slice(0, 3), slice(3, 4))
    )
    with pytest.raises(ValueError, match="weight must not be negative where reduction is"):
        loss_from_statistics(statistics, reduction="mean")
    assert loss_from_statistics(statistics, reduction="sum") == pytest.approx(-np.log(4))


def test_mean_over_nothing() -> None:
    logits = np.zeros((2, 4))
    statistics = class_statistics(logits, [-1, -1], first_class=0, ignore_index=-1)
    loss, grad = grad_from_statistics(logits, [-1, -1], statistics, first_class=0, reduction="mean")
    assert np.isnan(loss)
    assert (grad == 0).all()


def test_mean_over_an_infinite_weight() -> None:
    statistics = class_statistics(np.zeros((2, 4)), [0, 3], first_class=0)
    weights = [1, np.inf]
    assert np.isnan(loss_from_statistics(statistics, sample_weight=weights, reduction="mean"))
    assert loss_from_statistics(statistics, sample_weight=weights, reduction="sum") == np.inf


# --- bad input ------------------------------------------------------------------------------------


def measured(start: int, end: int, labels: Any = (0, 5), **options: Any) -> ClassStatistics:
    return class_statistics(
        np.zeros((len(labels), end - start)), labels, first_class=start, **options
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0, 3), (2, 6)], r"\[0, 3\) and \[2, 6\) overlap"),
        ([(0, 3), (4, 6)], r"\[0, 3\) and \[4, 6\) leave classes out"),
        ([], "no statistics"),
    ],
)
def test_ranges_that_do_not_fit(parts: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_class_statistics(measured(*part) for part in parts)


def test_parts_that_differ() -> None:
    with pytest.raises(ValueError, match="other options"):
        merge_class_statistics([measured(0, 3), measured(3, 6, temperature=2.0)])
    with pytest.raises(ValueError, match="different class indices in row 1"):
        merge_class_statistics([measured(0, 3), measured(3, 6, (0, 4))])
    with pytest.raises(ValueError, match="of 2 and of 3 rows"):
        merge_class_statistics([measured(0, 3), measured(3, 6, (0, 4, 1))])
    with pytest.raises(TypeError, match="must be ClassStatistics"):
        merge_class_statistics([np.zeros(3)])


def test_not_all_classes() -> None:
    with pytest.raises(ValueError, match=r"those of classes \[0, 6\), not of all, \[0, 7\)"):
        loss_from_statistics(measured(0, 6, num_classes=7))
    with pytest.raises(ValueError, match=r"those of classes \[1, 6\)"):
        loss_from_statistics(measured(1, 6))
    with pytest.raises(IndexError, match=r"index 6 is out of bounds .* size 6 \(targets\[1\]\)"):
        loss_from_statistics(measured(0, 6, (0, 6)))
    with pytest.raises(IndexError, match="index 6 is out of bounds"):
        measured(0, 6, (0, 6), num_classes=6)
    for label in (-1, np.uint64(1 << 63)):
        with pytest.raises(IndexError, match=rf"index {label} is out .* axis 1 \(targets\[0\]\)"):
            measured(0, 6, np.full(2, label))


def test_nothing_is_written_before_everything_is_checked() -> None:
    out = np.full((2, 6), 7.0)
    logits = np.zeros((2, 6))
    good = measured(0, 6)
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception]]] = [
        ((0, 6), measured(0, 6, (0, 6)), {}, IndexError),
        ((0, 5), measured(0, 6, num_classes=7), {}, ValueError),
        ((1, 5), good, {}, ValueError),
        ((0, 5), good, {"first_class": 1}, ValueError),
        ((0, 5), good, {"weight": np.ones(6)}, ValueError),
    ]
    for labels, statistics, options, error in cases:
        with pytest.raises(error):
            grad_from_statistics(
                logits, labels, statistics, **{"first_class": 0, "out": out, **options}
            )
        assert (out == 7).all()


def test_options_of_measuring() -> None:
    with pytest.raises(ValueError, match="label_smoothing needs num_classes"):
        measured(0, 6, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"\[3, 6\) does not lie in \[0, 5\)"):
        measured(3, 6, num_classes=5)
    with pytest.raises(TypeError, match="first_class"):
        class_statistics(np.zeros((1, 2)), [0], first_class=0.5)  # type: ignore[arg-type]
