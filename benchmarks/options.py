"""What options, another class axis and the other functions cost, in turns with the plain call.

On every batch the calls take turns. Before that, each is made on the batch's first rows and its
result held against the reference, which is given the same arguments.

Knows: the options of the loss, the batches, what is exact. Must not know: turns, tables.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import xent_fast.reference
from benchmarks.implementations import with_torch, with_xent_fast
from benchmarks.implementations.contract import LIBRARY, PEER, Implementation, Step
from benchmarks.timing import Contestant, WrongResultError, copies
from benchmarks.workloads import LOGITS_SPREAD, SEED

CHECKED_LOGITS = 2**20
FUNCTIONS_TOLERANCE = 1e-5  # of the largest entry; their accuracy is the tests' business
PLAIN = "plain"
CLASSES_LAST, CLASS_AXIS_1, PYTORCH = "xent_fast, classes last", "xent_fast, axis=1", "PyTorch"


@dataclass(frozen=True)
class Question:
    """Arguments of one call. The arrays are never written to."""

    logits: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    other: np.ndarray | None = field(default=None, repr=False)  # of a function that takes two

    @property
    def axis(self) -> int:
        return self.options.get("axis", -1)

    def first_rows(self) -> "Question":
        """The same of as many rows, or images, as make CHECKED_LOGITS; of one at least."""
        count = max(1, len(self.logits) * CHECKED_LOGITS // self.logits.size)
        options = dict(self.options)
        if "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"][:count]
        other = None if self.other is None else self.other[:count]
        return Question(self.logits[:count], self.targets[:count], options, other)

    def exact(self) -> tuple[float, np.ndarray]:
        result = xent_fast.reference.softmax_cross_entropy_grad(
            self.logits, self.targets, **self.options
        )
        return result.loss, result.grad

    def mass(self) -> np.ndarray:
        """a q / T of every class: a w ((1 - E) t + E / C) / T, with the mean's denominator in a."""
        classes = self.logits.shape[self.axis]
        class_weight = np.asarray(self.options.get("weight", np.ones(classes)), np.float64)
        smoothing = self.options.get("label_smoothing", 0.0)
        if self.targets.ndim == self.logits.ndim:
            mass = np.moveaxis(self.targets, self.axis, -1).astype(np.float64)
            counted = 1.0
        else:
            mass = (self.targets[..., np.newaxis] == np.arange(classes)).astype(np.float64)
            counted = class_weight[self.targets]
        row_weight = self.options.get("sample_weight", np.ones(mass.shape[:-1]))
        mass *= 1 - smoothing
        mass += smoothing / classes
        mass *= class_weight
        mass *= row_weight[..., np.newaxis] / (row_weight * counted).sum()
        return np.moveaxis(mass, -1, self.axis) / self.options.get("temperature", 1.0)


@dataclass(frozen=True)
class Batch:
    """Implementations that take turns, and what each is asked, by its name."""

    label: str
    bytes: int
    implementations: tuple[Implementation, ...]
    draw: Callable[[], dict[str, Question]]


def check(implementation: Implementation, question: Question) -> None:
    """Hold a result against the reference; the gradient relative to |gradient| + mass."""
    if question.other is not None:
        check_function(implementation, question)
        return
    step = implementation.make(question)
    loss, grad = step(implementation.adopt(question.logits.copy()))
    exact_loss, exact_grad = question.exact()
    error = np.abs(np.asarray(grad) - exact_grad)
    error /= np.abs(exact_grad, out=exact_grad) + question.mass()
    worst = max(abs(float(loss) - exact_loss) / abs(exact_loss), float(error.max()))
    if not worst <= implementation.tolerance * np.finfo(question.logits.dtype).eps:
        raise WrongResultError(f"{implementation.name}: relative error {worst:.1e}")


def check_function(implementation: Implementation, question: Question) -> None:
    got = implementation.make(question)(question.logits.copy())
    exact = FUNCTIONS[implementation.name](xent_fast.reference, question.logits, question)
    error = np.abs(np.asarray(got) - exact).max() / np.abs(exact).max()
    if not error <= FUNCTIONS_TOLERANCE:
        raise WrongResultError(f"{implementation.name}: relative error {error:.1e}")


# --- steps ----------------------------------------------------------------------------------------


def in_place(question: Question) -> Step:
    """xent_fast's call of that question, on a buffer of logits that takes the gradient."""
    call = partial(
        xent_fast.softmax_cross_entropy_grad, targets=question.targets, **question.options
    )

    def step(x):
        result = call(x, out=x)
        return result.loss, result.grad

    return step


def on_one_thread(question: Question) -> Step:
    options = {**question.options, "num_threads": 1}
    return in_place(Question(question.logits, question.targets, options))


def ours(name: str, make: Callable[[Question], Step] = in_place) -> Implementation:
    return Implementation(
        name, LIBRARY, with_xent_fast.RUNTIME, make, tolerance=with_xent_fast.TOLERANCE
    )


# --- the cost of options --------------------------------------------------------------------------


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.float32(LOGITS_SPREAD) * rng.standard_normal(shape, dtype=np.float32)


def option_questions(rows: int, classes: int) -> dict[str, Question]:
    """Of one batch of logits; no row is ignored, since one that is costs nothing."""
    rng = np.random.default_rng(SEED)
    logits, dense = normal(rng, rows, classes), np.exp(normal(rng, rows, classes))
    dense /= dense.sum(axis=1, keepdims=True)
    labels = rng.integers(0, classes, rows)
    weight = rng.uniform(0.5, 2.0, classes).astype(np.float32)
    options: dict[str, dict[str, Any]] = {
        PLAIN: {},
        "weight": {"weight": weight},
        "label_smoothing": {"label_smoothing": 0.1},
        "weight, label_smoothing": {"weight": weight, "label_smoothing": 0.1},
        "temperature": {"temperature": 2.0},
        "z_loss": {"z_loss": 1e-4},
        "return_statistics": {"return_statistics": True},
        "sample_weight": {"sample_weight": rng.uniform(0.5, 2.0, rows)},
        "ignore_index": {"ignore_index": -100},
    }
    questions = {name: Question(logits, labels, given) for name, given in options.items()}
    dense_options: dict[str, dict[str, Any]] = {
        "dense targets": {},
        "dense targets, weight": {"weight": weight},
        "dense targets, label_smoothing": {"label_smoothing": 0.1},
    }
    return questions | {
        name: Question(logits, dense, given) for name, given in dense_options.items()
    }


OPTION_NAMES = tuple(option_questions(1, 1))


def option_batch(rows: int, classes: int) -> Batch:
    return Batch(
        f"{rows:,} x {classes:,}",
        4 * rows * classes,
        tuple(ours(name) for name in OPTION_NAMES),
        partial(option_questions, rows, classes),
    )


OPTION_BATCHES = (
    option_batch(256, 1_000),
    option_batch(512, 32_000),
    option_batch(65_536, 10),
)


# --- the class axis -------------------------------------------------------------------------------


def axis_questions(batch: int, classes: int, height: int, width: int) -> dict[str, Question]:
    """The same numbers, with the classes on axis 1 and last."""
    rng = np.random.default_rng(SEED)
    logits = normal(rng, batch, classes, height, width)
    labels = rng.integers(0, classes, (batch, height, width))
    on_axis_1 = Question(logits, labels, {"axis": 1})
    last = Question(np.moveaxis(logits, 1, -1).copy(), labels)
    return {
        CLASSES_LAST: last,
        f"{CLASSES_LAST}, 1 thread": last,
        CLASS_AXIS_1: on_axis_1,
        f"{CLASS_AXIS_1}, 1 thread": on_axis_1,
        PYTORCH: on_axis_1,
    }


def _pytorch(question: Question) -> Step:
    """Eager `cross_entropy`, whose classes are on axis 1, and its backward pass."""
    return with_torch.eager_loss_and_grad(question.targets)


def axis_batch(*shape: int) -> Batch:
    return Batch(
        f"({', '.join(map(str, shape))})",
        4 * int(np.prod(shape)),
        (
            ours(CLASSES_LAST),
            ours(f"{CLASSES_LAST}, 1 thread", on_one_thread),
            ours(CLASS_AXIS_1),
            ours(f"{CLASS_AXIS_1}, 1 thread", on_one_thread),
            Implementation(
                PYTORCH,
                PEER,
                with_torch.RUNTIME,
                _pytorch,
                with_torch.leaf,
                needs=("torch",),
                tolerance=with_torch.TOLERANCE,
            ),
        ),
        partial(axis_questions, *shape),
    )


AXIS_BATCHES = (axis_batch(16, 21, 256, 256),)


# --- the other functions --------------------------------------------------------------------------

# Of the library or the reference, given the logits, the rest, and where the result goes.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    PLAIN: lambda of, x, q, **out: of.softmax_cross_entropy_grad(x, q.targets, **out).grad,
    "softmax": lambda of, x, q, **out: of.softmax(x, **out),
    "log_softmax": lambda of, x, q, **out: of.log_softmax(x, **out),
    "logsumexp": lambda of, x, q, **out: of.logsumexp(x),
    "softmax_vjp": lambda of, x, q, **out: of.softmax_vjp(x, q.other, **out),
    "log_softmax_vjp": lambda of, x, q, **out: of.log_softmax_vjp(x, q.other, **out),
    "softmax_cross_entropy_hvp": lambda of, x, q, **out: of.softmax_cross_entropy_hvp(
        x, q.targets, q.other, **out
    ),
    "softmax_cross_entropy_hessian_diagonal": (
        lambda of, x, q, **out: of.softmax_cross_entropy_hessian_diagonal(x, q.targets, **out)
    ),
    "distillation_loss_grad": lambda of, x, q, **out: (
        of.distillation_loss_grad(x, q.other, q.targets, temperature=2.0, **out).grad
    ),
}
FUNCTION_NAMES = tuple(FUNCTIONS)


def function_questions(rows: int, classes: int) -> dict[str, Question]:
    rng = np.random.default_rng(SEED)
    logits, other = normal(rng, rows, classes), normal(rng, rows, classes)
    question = Question(logits, rng.integers(0, classes, rows), other=other)
    return dict.fromkeys(FUNCTION_NAMES, question)


def _function(name: str) -> Implementation:
    def make(question: Question) -> Step:
        return lambda x: FUNCTIONS[name](xent_fast, x, question, out=x)

    return ours(name, make)


def function_batch(rows: int, classes: int) -> Batch:
    return Batch(
        f"functions, {rows:,} x {classes:,}",
        8 * rows * classes,
        tuple(map(_function, FUNCTION_NAMES)),
        partial(function_questions, rows, classes),
    )


FUNCTION_BATCHES = (
    function_batch(256, 1_000),
    function_batch(512, 32_000),
    function_batch(65_536, 10),
)


# --- in the process of one runtime ----------------------------------------------------------------


class Bench:
    """What one process has ready of one batch."""

    batches = (*OPTION_BATCHES, *AXIS_BATCHES, *FUNCTION_BATCHES)

    def __init__(self) -> None:
        self.ready: dict[str, Contestant] = {}

    def prepare(self, label: str, names: list[str]) -> dict[str, str]:
        """Get ready what is named; the reason of each that cannot be."""
        (batch,) = [one for one in self.batches if one.label == label]
        self.ready.clear()
        questions, failures = batch.draw(), {}
        buffers: dict[int, list[np.ndarray]] = {}
        for one in batch.implementations:
            if one.name not in names:
                continue
            question = questions[one.name]
            logits = question.logits
            if id(logits) not in buffers:
                buffers[id(logits)] = copies(logits)
            try:
                with one.in_force():
                    check(one, question.first_rows())
                step = one.make(question)
            except Exception as error:  # whatever a library raises: it is left out and named
                failures[one.name] = f"{type(error).__name__}: {error}".split("\n")[0]
            else:
                self.ready[one.name] = Contestant(one, step, buffers[id(logits)], logits)
        return failures

    def visit(self, name: str) -> list[float]:
        return self.ready[name].visit()
