"""What people really hand over: taken as they mean it, or refused in words that say what to type.

Knows the containers that targets, logits and weights come in. Must not know how they are checked.
What is refused writes nothing: tests/test_bad_input.py.
"""

from __future__ import annotations

import re
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xent_fast
from xent_fast import _sampler, reference, softmax_cross_entropy, softmax_cross_entropy_grad

ROWS, CLASSES = 4, 3
LABELS = np.array([0, 1, 2, 0])
LOGITS = np.random.default_rng(0).standard_normal((ROWS, CLASSES))
LOSS_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_cross_entropy_grad": softmax_cross_entropy_grad,
    "hessian_diagonal": xent_fast.softmax_cross_entropy_hessian_diagonal,
    "hvp": lambda x, y, **options: xent_fast.softmax_cross_entropy_hvp(x, y, x, **options),
    "distillation": lambda x, y, **options: xent_fast.distillation_loss_grad(x, x, y, **options),
    "cross_entropy": lambda x, y, **options: xent_fast.cross_entropy(
        reference.softmax(x, axis=options.get("axis", -1)), y, **options
    ),
}


def refused(error: type[Exception], *words: str) -> Any:
    """The exception whose message has these words in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, words)))


def one_hot(dtype: Any) -> np.ndarray:
    return np.eye(CLASSES)[LABELS].astype(dtype)


def derivative(argument: str, values: np.ndarray, logits: np.ndarray = LOGITS) -> np.ndarray:
    """Of a function that has such an argument."""
    if argument == "targets":
        return softmax_cross_entropy_grad(logits, values).grad
    if argument == "teacher":
        return xent_fast.distillation_loss_grad(logits, values).grad
    if argument == "vector":
        return xent_fast.softmax_cross_entropy_hvp(logits, LABELS, values)
    return softmax_cross_entropy_grad(logits, LABELS, **{argument: values}).grad


# --- containers of other libraries, by the attributes that tell them ------------------------------


class Objects:
    """In which NumPy finds no numbers."""

    def __init__(self, values: list[object], **attributes: object) -> None:
        self.values = values
        self.__dict__.update(attributes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=object)


class SparseMatrix:
    """As SciPy's, of which NumPy makes a single object."""

    nnz = 4

    def toarray(self) -> np.ndarray:
        return one_hot(float)


class Tensor:
    """What has nothing but DLPack."""

    def __dlpack__(self, **options: object) -> object:
        raise NotImplementedError


class NAType:
    """As pandas' missing value."""


CATEGORICAL = Objects(["a", "b", "c", "a"], dtype="category", codes=LABELS)
CATEGORICAL_SERIES = Objects(["a", "b", "c", "a"], dtype="category", cat=None)
ENUMERATION = Objects(["a", "b", "c", "a"], dtype="Enum(categories=['a'])", to_physical=None)


# --- targets that are taken -----------------------------------------------------------------------


@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
@pytest.mark.parametrize("logits_dtype", [np.float32, np.float64])
def test_one_hot_of_any_dtype(function: str, logits_dtype: type) -> None:
    for dtype in [int, bool, np.uint8, np.int8, ">i4", np.float16, np.longdouble]:
        logits = LOGITS.astype(logits_dtype)
        got = LOSS_FUNCTIONS[function](logits, one_hot(dtype))
        want = LOSS_FUNCTIONS[function](logits, one_hot(logits_dtype))
        if not isinstance(got, tuple):
            got, want = (got,), (want,)
        for part, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("dtype", [int, bool])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_integers_along_any_axis(dtype: type, order: str) -> None:
    rng = np.random.default_rng(1)
    logits = np.asarray(rng.standard_normal((2, CLASSES, 4, 5)), order=order)
    labels = rng.integers(0, CLASSES, (2, 4, 5))
    dense = np.moveaxis(np.eye(CLASSES, dtype=dtype)[labels], -1, 1)
    got = softmax_cross_entropy_grad(logits, np.asarray(dense, order=order), axis=1)
    want = softmax_cross_entropy_grad(logits, dense.astype(float), axis=1)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad, want.grad)


def test_dense_integers_need_not_be_0_and_1() -> None:
    counts = np.array([[3, 0, 1], [0, 2, 2], [1, 1, 1], [0, 0, 5]])
    got = softmax_cross_entropy(LOGITS, counts, reduction="none")
    np.testing.assert_array_equal(
        got, softmax_cross_entropy(LOGITS, counts.astype(float), reduction="none")
    )
    want = reference.softmax_cross_entropy(LOGITS, counts, reduction="none")
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_dense_integers_in_the_memory_of_out_are_read_first() -> None:
    memory = one_hot(np.int64)
    want = softmax_cross_entropy_grad(LOGITS, memory.copy()).grad
    out = memory.view(np.float64)
    softmax_cross_entropy_grad(LOGITS, memory, out=out)
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("dtype", [int, bool, np.uint8])
@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
def test_integers_of_one_dimensional_logits_name_the_binary_loss(
    function: str, dtype: type
) -> None:
    labels = np.array([0, 1, 1, 0], dtype)
    with refused(TypeError, "one row of 4 classes", "not", "of shape (4,)", "[0, x]"):
        LOSS_FUNCTIONS[function](np.linspace(-1, 1, 4), labels)


@pytest.mark.parametrize("argument", ["targets", "weight", "sample_weight", "teacher", "vector"])
def test_bfloat16(argument: str) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    rounded = {
        "targets": one_hot(float) * 0.7,
        "weight": np.array([0.5, 1.3, 2.0]),
        "sample_weight": np.array([0.1, 1.0, 2.0, 3.3]),
        "teacher": LOGITS,
        "vector": LOGITS,
    }[argument].astype(bfloat16)

    want = derivative(argument, rounded.astype(float))
    np.testing.assert_array_equal(derivative(argument, rounded), want)


# --- labels that are no integers ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (LABELS.astype("f4"), ("float32", "targets.astype(int)")),
        (LABELS.astype(float).tolist(), ("float64", "np.asarray(targets).astype(int)")),
        (LABELS.astype(object), ("object", "targets.astype(int)")),
        (LABELS > 0, ("bool", "targets.astype(int)")),
        ([0, 1.5, 2, 0], ("float64", "targets[1] is no whole number", "logits' shape")),
        ([0, np.nan, 2, 0], ("targets[1] is missing", ".astype(int)", "ignore_index=-100")),
        ([0, None, 2, 0], ("NoneType and int", "targets[1] is missing", "ignore_index=-100")),
        (Objects([0, 1, NAType(), 0]), ("Objects", "targets[2] is missing", "ignore_index=-100")),
        (["a", "b", "c", "a"], ("<U1", "np.unique(targets, return_inverse=True)[1]")),
        (Objects(["a", "b", "c", "a"]), ("Objects", "np.unique(targets, return_inverse=True)[1]")),
        (CATEGORICAL, ("Objects", ".codes")),
        (CATEGORICAL_SERIES, ("Objects", ".cat.codes")),
        (ENUMERATION, ("Objects", ".to_physical()")),
        (SparseMatrix(), ("SparseMatrix", ".toarray()")),
        (Tensor(), ("Tensor", "np.from_dlpack")),
        (iter([0, 1]), ("iterator", "list()")),
        ({0: 1, 1: 0}, ("dict", "[targets[k] for k in range(2)]")),
        ((label for label in LABELS), ("generator", "list()")),
        (None, ("None (targets)",)),
        (2.0, ("float64 (targets)",)),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("axis", [0, -1])
def test_labels_that_are_no_integers(targets: object, words: tuple[str, ...], axis: int) -> None:
    logits = LOGITS if axis == -1 else LOGITS.T
    with refused(TypeError, "class indices must be integers, not", *words):
        softmax_cross_entropy(logits, targets, axis=axis)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 2**70, 0, 0], f"index {2**70} is out of bounds for axis 1 with size 3 (targets[1])"),
        ([2**63, -1, 0, 0], f"index {2**63} is out of bounds for axis 1 with size 3 (targets[0])"),
        ([0, 0, 0, -(2**64)], f"index {-(2**64)} is out of bounds for axis 1 with size 3"),
        ([0, -100, 0, 0], "(targets[1]); ignore_index=-100 leaves such rows out"),
        ([0, 0, -1, 0], "(targets[2]); ignore_index=-1 leaves such rows out"),
        ([1, 2, 3, 1], "(targets[2]); class indices count from 0"),
    ],
    ids=str,
)
def test_labels_out_of_bounds(targets: list[int], words: str) -> None:
    with refused(IndexError, words):
        softmax_cross_entropy(LOGITS, targets)
    if abs(max(targets)) < 2**63:
        with refused(IndexError, words):
            xent_fast.cross_entropy(reference.softmax(LOGITS), targets)


def test_a_negative_label_beside_an_ignore_index_gets_no_advice() -> None:
    with pytest.raises(IndexError) as raised:
        softmax_cross_entropy(LOGITS, [0, -1, -100, 0], ignore_index=-100)
    assert str(raised.value).endswith("(targets[1])")


def test_one_column_of_logits_names_the_binary_loss() -> None:
    with refused(IndexError, "index 1 is out of bounds for axis 1 with size 1", "[0, x]"):
        softmax_cross_entropy(LOGITS[:, :1], [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("logits_shape", "targets", "words"),
    [
        ((2, 3, 4, 4), np.zeros((2, 4, 4), int), ("24 rows of 4 classes", "pass axis=1")),
        ((3, 4), np.zeros(4, int), ("3 rows of 4 classes", "pass axis=0")),
        ((4, 3), np.zeros((4, 1), int), ("4 rows of 3 classes", "targets.reshape((4,))")),
        ((4, 3), np.zeros(5, int), ("(4,), not (5,)", "4 rows of 3 classes")),
        ((4, 3), np.zeros((5, 3)), ("(4, 3), not (5, 3)", "4 rows of 3 classes")),
        ((4,), np.zeros(5, int), ("(), not (5,)", "1 rows of 4 classes")),
        ((4, 3), np.zeros((4, 1)), ("(4, 3), not (4, 1)", "targets.reshape((4,)).astype(int)")),
    ],
    ids=str,
)
def test_shapes_that_disagree(
    logits_shape: tuple[int, ...], targets: np.ndarray, words: tuple[str, ...]
) -> None:
    with refused(ValueError, *words):
        softmax_cross_entropy(np.zeros(logits_shape), targets)


# --- logits and weights ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (LOGITS.astype(int), ("int64", "logits.astype(np.float32)")),
        (LOGITS.astype(int).tolist(), ("int64", "np.asarray(logits).astype(np.float32)")),
        (SparseMatrix(), ("SparseMatrix", ".toarray()")),
        (Tensor(), ("Tensor", "np.from_dlpack")),
        (Objects(LOGITS.tolist(), to_numpy=None), ("Objects", ".to_numpy(dtype=np.float32)")),
        ([[0.0, None, 1.0]], ("logits[0, 1] is missing",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_logits_that_are_no_floats(logits: object, words: tuple[str, ...]) -> None:
    for function in (softmax_cross_entropy, softmax_cross_entropy_grad):
        with refused(
            TypeError, "logits must be float16, bfloat16, float32 or float64, not", *words
        ):
            function(logits, LABELS)
    with refused(TypeError, "logits must be float16, bfloat16, float32 or float64, not", *words):
        xent_fast.softmax(logits)


@pytest.mark.parametrize("function", [softmax_cross_entropy, softmax_cross_entropy_grad])
def test_logits_after_their_targets(function: Callable[..., Any]) -> None:
    with refused(TypeError, "not int64", "targets are float64: the logits come first"):
        function(np.array(LABELS, np.int64), LOGITS)


def test_lists_beside_out_name_the_remedy() -> None:
    with refused(TypeError, "logits must be an ndarray", "not list", "np.asarray(logits)"):
        softmax_cross_entropy_grad(LOGITS.tolist(), LABELS, out=np.zeros(LOGITS.shape))
    with refused(ValueError, "output array is read-only (out)", "copy"):
        softmax_cross_entropy_grad(LOGITS, LABELS, out=np.broadcast_to(0.0, LOGITS.shape))


@pytest.mark.parametrize("name", ["weight", "sample_weight"])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda n: np.ones(n, bool), ("bool", "astype(float)")),
        (lambda n: ["1"] * n, ("<U1", "astype(float)")),
        (lambda n: SparseMatrix(), ("SparseMatrix", ".toarray()")),
        (lambda n: Tensor(), ("Tensor", "np.from_dlpack")),
        (lambda n: [1.0] * (n - 1) + [None], ("is missing",)),
        (lambda n: dict.fromkeys(range(n), 1.0), ("dict; [", "[k] for k in range(", "is taken")),
        (lambda n: iter([1.0] * n), ("list() of it",)),
    ],
    ids=["bool", "str", "sparse", "dlpack", "missing", "dict", "iterator"],
)
def test_weights_that_are_no_numbers(
    name: str, values: Callable[[int], object], words: tuple[str, ...]
) -> None:
    length = CLASSES if name == "weight" else ROWS
    with refused(TypeError, f"{name} must hold real numbers, not", *words):
        softmax_cross_entropy(LOGITS, LABELS, **{name: values(length)})


@pytest.mark.parametrize("values", ["balanced", {1.0, 2.0}], ids=["word", "set"])
def test_what_nothing_makes_weights_of_has_no_remedy(values: object) -> None:
    with pytest.raises(TypeError, match=r"weight must hold real numbers, not (<U8|set)$"):
        softmax_cross_entropy(LOGITS, LABELS, weight=values)


def test_masked_arrays_name_the_remedy() -> None:
    masked = np.ma.masked_array
    with refused(TypeError, "targets must not be a masked array", "ignore_index=-100"):
        softmax_cross_entropy(LOGITS, masked(LABELS))
    with refused(TypeError, "logits must not be a masked array", "filled(-np.inf)"):
        softmax_cross_entropy(masked(LOGITS), LABELS)
    with refused(TypeError, "student_logits must not be", "filled(-np.inf)"):
        xent_fast.distillation_loss_grad(masked(LOGITS), LOGITS)
    with refused(TypeError, "sample_weight must not be a masked array", "filled(0)"):
        softmax_cross_entropy(LOGITS, LABELS, sample_weight=masked(np.ones(ROWS)))


@pytest.mark.parametrize("name", ["weight", "sample_weight", "targets", "teacher", "vector"])
@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_casts_to_the_logits_dtype_neither_warn_nor_raise(name: str, value: float) -> None:
    logits = LOGITS.astype(np.float32)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        shapes = {"weight": CLASSES, "sample_weight": ROWS}
        values = np.full(shapes.get(name, LOGITS.shape), value)
        derivative(name, values, logits)
        if name in shapes:
            xent_fast.cross_entropy(reference.softmax(LOGITS), LABELS, **{name: values})


@pytest.mark.parametrize("value", [np.inf, 5e-324])
def test_odd_sample_weights_of_probabilities_raise_nothing(value: float) -> None:
    with np.errstate(all="raise"):
        xent_fast.cross_entropy(reference.softmax(LOGITS), LABELS, sample_weight=[value] * ROWS)


# --- a mean never turns a gradient round ----------------------------------------------------------


@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
@pytest.mark.parametrize("dtype", [float, int, np.float16])
@pytest.mark.parametrize("weights", [[1, -1, 1, 1], [-1, -1, -1, -1], [1, -1, 0, 0]], ids=str)
def test_negative_sample_weights_have_no_mean(
    function: str, dtype: type, weights: list[int]
) -> None:
    call = LOSS_FUNCTIONS[function]
    place = weights.index(-1)
    words = (f"sample_weight[{place}] is -1.0", 'reduction="sum", scale=1 / rows')
    for targets in (LABELS, one_hot(float)):
        with refused(ValueError, "sample_weight must not be negative", *words):
            call(LOGITS, targets, sample_weight=np.array(weights, dtype))


@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_class_weights_of_class_indices_have_no_mean(function: str, dtype: type) -> None:
    call = LOSS_FUNCTIONS[function]
    with refused(ValueError, "weight must not be negative", "weight[2] is -0.5", 'reduction="sum"'):
        call(LOGITS.astype(dtype), LABELS, weight=[1, 0, -0.5])
    call(LOGITS.astype(dtype), one_hot(float), weight=[1, 0, -0.5])  # divided by rows


def test_the_place_of_a_negative_weight_is_the_callers() -> None:
    logits = np.zeros((2, 3, 4, 5)).transpose(3, 1, 0, 2)
    weights = np.ones((5, 2, 4))
    weights[3, 1, 2] = -7.0
    with refused(ValueError, "sample_weight[3, 1, 2] is -7.0"):
        softmax_cross_entropy(logits, np.zeros((5, 2, 4), int), axis=1, sample_weight=weights)


def test_minus_zero_and_nan_are_not_negative() -> None:
    assert np.isfinite(softmax_cross_entropy(LOGITS, LABELS, sample_weight=[1, -0.0, 1, 1]))
    assert np.isnan(softmax_cross_entropy(LOGITS, LABELS, sample_weight=[1, np.nan, 1, 1]))


def test_the_spelling_for_policy_gradients() -> None:
    """It weighs every row by its advantage over the number of rows, whatever they sum to."""
    advantages = np.array([1.0, -1.0, 2.0, -2.0])
    loss, grad = softmax_cross_entropy_grad(
        LOGITS, LABELS, sample_weight=advantages, reduction="sum", scale=1 / ROWS
    )
    rows, row_grads = softmax_cross_entropy_grad(LOGITS, LABELS, reduction="none")
    assert loss == pytest.approx((advantages * rows).mean(), rel=1e-14)
    np.testing.assert_allclose(grad, advantages[:, None] / ROWS * row_grads, rtol=1e-14)
    none = softmax_cross_entropy(LOGITS, LABELS, sample_weight=advantages, reduction="none")
    np.testing.assert_allclose(none, advantages * rows, rtol=1e-14)


def test_weight_0_does_not_hide_nan_but_ignore_index_does() -> None:
    logits = LOGITS.copy()
    logits[1] = np.nan
    weighted = softmax_cross_entropy_grad(logits, LABELS, sample_weight=[1, 0, 1, 1])
    assert np.isnan(weighted.loss)
    assert np.isnan(weighted.grad[1]).all()
    labels = np.where([0, 1, 0, 0], -100, LABELS)
    ignored = softmax_cross_entropy_grad(logits, labels, ignore_index=-100)
    assert np.isfinite(ignored.loss)
    np.testing.assert_array_equal(ignored.grad[1], 0.0)


# --- logits where probabilities belong ------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "cross_entropy_grad"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("value", [1.01, 4.0, -0.01, -np.inf, np.inf])
def test_logits_are_no_probabilities(name: str, axis: int, value: float) -> None:
    p = np.full((2, 3), 0.25)
    p[1, 2] = value
    labels = np.zeros(p.shape[1 - axis], int)
    words = ("probabilities must be in [0, 1]", f"probabilities[1, 2] is {value}")
    with refused(ValueError, *words, "for logits use softmax_cross_entropy"):
        getattr(xent_fast, name)(p, labels, axis=axis)


def test_probabilities_that_only_rounding_took_beyond_1() -> None:
    p = np.array([[1.0 + 1e-6, -1e-7], [np.float32(1.0000001), 0.0]])
    assert xent_fast.cross_entropy(p, [0, 0]) == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(xent_fast.cross_entropy(np.full((1, 2), np.nan), [0]))
    ignored = np.array([[5.0, 7.0], [0.5, 0.5]])
    assert xent_fast.cross_entropy(ignored, [-1, 0], ignore_index=-1) == pytest.approx(np.log(2))


def test_certain_probabilities_cost_plus_0() -> None:
    losses = xent_fast.cross_entropy(np.eye(2), [0, 1], reduction="none")
    np.testing.assert_array_equal(np.signbit(losses), False)


# --- nearly all classes sampled -------------------------------------------------------------------


@pytest.mark.thread_unsafe(reason="measures the whole process")
@pytest.mark.parametrize("sampler", ["log_uniform", "uniform"])
@pytest.mark.parametrize("missing", [1, 10, 1000])
def test_nearly_all_classes_take_bounded_time_and_memory(sampler: str, missing: int) -> None:
    classes = 100_000
    rng = np.random.default_rng(0)
    tracemalloc.start()
    began = time.process_time()
    candidates = _sampler.draw_candidates(sampler, classes - missing, classes, rng)
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(candidates.samples)) == classes - missing
    counts = candidates.expected_count(np.arange(classes))
    assert ((counts > 0) & (counts <= 1)).all()
    # Every class was expected there as often as the sample has classes.
    assert counts.sum() == pytest.approx(classes - missing, rel=1e-3)
    assert peak < 75e6
    assert seconds < 1.5


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform"])
def test_the_definition_draws_nearly_all_classes_alike(sampler: str) -> None:
    rng = np.random.default_rng(3)
    layer = rng.standard_normal((5, 4)), rng.standard_normal((60, 4)), None, np.arange(5)
    for seed in range(5):
        options = {"num_sampled": 59, "sampler": sampler, "rng": seed}
        got = xent_fast.sampled_softmax_loss_grad(*layer, **options)
        want = reference.sampled_softmax_loss_grad(*layer, **options)
        assert got.loss == pytest.approx(want.loss, rel=1e-13)
        np.testing.assert_array_equal(got.rows, want.rows)


@pytest.mark.parametrize("sampler", ["log_uniform", "uniform"])
def test_draws_not_made_one_by_one_have_the_same_distribution(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which class is left out, and the number of draws, by both ways: within 5 deviations."""
    classes, runs = 4, 2000

    def left_out_and_draws(most: int) -> tuple[np.ndarray, np.ndarray]:
        monkeypatch.setattr(_sampler, "_MOST_DRAWS_A_SAMPLE", most)
        left_out, log_miss = np.zeros(classes), np.zeros(runs)
        for run in range(runs):
            rng = np.random.default_rng((most, run))
            candidates = _sampler.draw_candidates(sampler, classes - 1, classes, rng)
            left_out[np.setdiff1d(np.arange(classes), candidates.samples)] += 1
            log_miss[run] = np.log1p(-candidates.expected_count(np.array([classes - 1]))[0])
        return left_out, log_miss / log_miss.max()  # proportional to the number of draws

    one_by_one, draws = left_out_and_draws(10**6)
    at_once, other_draws = left_out_and_draws(0)
    deviation = np.sqrt(2 * runs * 0.25)
    assert (np.abs(one_by_one - at_once) < 5 * deviation).all()
    scatter = np.sqrt((draws.var() + other_draws.var()) / runs)
    assert abs(draws.mean() - other_draws.mean()) < 5 * scatter
    assert draws.std() == pytest.approx(other_draws.std(), rel=0.15)
