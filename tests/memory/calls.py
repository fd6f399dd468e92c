"""One ordinary call, or many, of every public function: what the checks of memory repeat.

Knows: the public functions, their arguments, and the ways in which arrays may lie in memory.
Must not know: what is checked, or what a call returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import xent_fast

LAYOUTS = ("rows", "padded", "reversed", "fortran", "byte_swapped", "axis_1", "axis_0_of_3")
OUTPUTS = ("new", "apart", "in_place")

# Functions by what they take besides logits or probabilities, or numbers of their shape.
OF_TARGETS = (
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "softmax_cross_entropy_hessian_diagonal",
    "softmax_cross_entropy_grad_hessian",
)
OF_LOGITS = (
    *("softmax", "log_softmax", "logsumexp", "softmax_entropy", "softmax_entropy_grad"),
    "softmax_cross_entropy_grad_targets",
)
OF_TWO_ARRAYS = ("softmax_vjp", "log_softmax_vjp")
OF_RANGES = ("class_statistics", "grad_from_statistics")
WITHOUT_OUT = (
    *("softmax_cross_entropy", "cross_entropy", "softmax_cross_entropy_grad_hessian"),
    *("softmax_entropy", "softmax_cross_entropy_grad_targets", "class_statistics"),
)
WITH_STATISTICS = ("softmax_cross_entropy", "softmax_cross_entropy_grad")
OF_PROBABILITIES = ("cross_entropy", "cross_entropy_grad", "softmax_vjp")


@dataclass(frozen=True)
class Call:
    """A function and its arguments; `out`, if any, is among them, and may be one of them twice."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return self.function(*self.arguments, **self.options)

    @property
    def arrays(self) -> list[np.ndarray]:
        """Every array that is given, once each."""
        given = [*self.arguments, *self.options.values()]
        return list({id(a): a for a in given if isinstance(a, np.ndarray)}.values())

    @property
    def out(self) -> np.ndarray | None:
        return self.options.get("out")


def every_call(
    rows: int, classes: int, layouts: tuple[str, ...] = LAYOUTS, dtype: type = np.float32
) -> Iterator[Call]:
    """Every public function with every layout, output and option that changes what it allocates."""
    for layout in layouts:
        maker = _Maker(rows, classes, layout, dtype)
        for output in OUTPUTS:
            for name in (*OF_TARGETS, "softmax_cross_entropy_hvp", *OF_RANGES):
                for targets in ("index", "dense"):
                    for options in _options_of(name, targets, maker):
                        yield from maker.call(name, targets, output, options)
            for name in (*OF_LOGITS, *OF_TWO_ARRAYS):
                yield from maker.call(name, None, output, {})
            for name in (*OF_TWO_ARRAYS, "softmax_entropy_grad"):
                yield from maker.call(name, None, output, {"grad_output": 2.0})
            for targets in (None, "index"):
                yield from maker.call("distillation_loss_grad", targets, output, {})
    yield from _course_call(rows, classes, dtype)
    yield from _sampled_call(rows, classes, dtype)
    yield from _layer_calls(rows, classes, dtype)


def statistics_of_ranges(
    logits: np.ndarray, targets: np.ndarray, *, axis: int = -1, **options: Any
) -> xent_fast.ClassStatistics:
    """Of all classes, and of none behind them, together."""
    classes = logits.shape[axis]
    none = np.split(logits, [0], axis)[0]
    targets_of_none = np.split(targets, [0], axis)[0] if targets.ndim == logits.ndim else targets
    options |= {"axis": axis, "num_classes": classes}
    weight = options.pop("weight", None)
    weight_of_none = None if weight is None else weight[:0]
    return xent_fast.merge_class_statistics(
        [
            xent_fast.class_statistics(logits, targets, first_class=0, weight=weight, **options),
            xent_fast.class_statistics(
                none, targets_of_none, first_class=classes, weight=weight_of_none, **options
            ),
        ]
    )


def class_statistics(
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    axis: int = -1,
    weight: np.ndarray | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """What they hold, and the losses that follow."""
    statistics = statistics_of_ranges(
        logits,
        targets,
        axis=axis,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        temperature=temperature,
    )
    return statistics.array, xent_fast.loss_from_statistics(statistics)


def _options_of(name: str, targets: str, maker: _Maker) -> Iterator[dict[str, Any]]:
    yield {}
    if name in OF_RANGES:
        yield {"weight": maker.class_weights(), "label_smoothing": 0.1}
        return
    yield {"reduction": "none", "sample_weight": maker.row_weights()}
    yield {"label_smoothing": 0.1, "weight": maker.class_weights()}
    yield {"sample_weight": np.zeros(maker.row_shape)}  # a mean over nothing
    if targets == "index":
        yield {"ignore_index": 1}
    if name in WITH_STATISTICS:
        yield {"return_statistics": True}
        yield {"return_statistics": True, "reduction": "none", "weight": maker.class_weights()}
        yield {"return_statistics": ("entropy", "target_log_probability")}
    if name == "softmax_cross_entropy_grad":
        yield {"grad_output": maker.row_weights(), "reduction": "none"}


def _course_call(rows: int, classes: int, dtype: type) -> Iterator[Call]:
    maker = _Maker(rows, classes, "rows", dtype)
    arguments = (maker.logits(), maker.targets("index"))
    yield Call("softmax_loss", xent_fast.softmax_loss, arguments)


def _sampled_call(rows: int, classes: int, dtype: type) -> Iterator[Call]:
    rng = np.random.default_rng(0)
    features = 3
    for sampler in ("log_uniform", "uniform"):
        arguments = (
            rng.standard_normal((rows, features)).astype(dtype),
            rng.standard_normal((classes, features)).astype(dtype),
            rng.standard_normal(classes).astype(dtype),
            rng.integers(0, classes, rows),
        )
        options = {"num_sampled": max(classes // 2, 1), "sampler": sampler, "rng": 0}
        function = xent_fast.sampled_softmax_loss_grad
        yield Call(f"sampled_softmax_loss_grad {sampler}", function, arguments, options)


def _layer_calls(rows: int, classes: int, dtype: type) -> Iterator[Call]:
    rng = np.random.default_rng(0)
    features = 3
    arguments = (
        rng.standard_normal((rows, features)).astype(dtype),
        rng.standard_normal((classes, features)).astype(dtype),
        rng.standard_normal(classes).astype(dtype),
        rng.integers(0, classes, rows),
    )
    for name in ("linear_softmax_cross_entropy", "linear_softmax_cross_entropy_grad"):
        function = getattr(xent_fast, name)
        for options in (
            {},
            {"chunk_rows": 2, "ignore_index": 1},
            {"reduction": "none", "class_weight": rng.random(classes) + 0.5},
        ):
            yield Call(f"{name} {'+'.join(options) or 'plain'}", function, arguments, options)
    given = {
        "grad_weight_out": np.zeros((classes, features), dtype),
        "accumulate": True,
        "sample_weight": rng.random(rows) + 0.5,
    }
    yield Call(f"{name} accumulate", function, arguments, given)


class _Maker:
    """Arrays of one layout."""

    def __init__(self, rows: int, classes: int, layout: str, dtype: type) -> None:
        self.layout = layout
        self.dtype = dtype
        self.axis = {"axis_1": 1, "axis_0_of_3": 0}.get(layout, -1)
        self.shape = {
            "axis_1": (rows // 2, classes, 2),
            "axis_0_of_3": (classes, rows // 2, 2),
        }.get(layout, (rows, classes))
        self.row_shape = tuple(np.delete(self.shape, self.axis))
        self.classes = classes
        self.rng = np.random.default_rng(classes)

    def call(
        self, name: str, targets: str | None, output: str, options: dict[str, Any]
    ) -> Iterator[Call]:
        if name in WITHOUT_OUT and output != "new":
            return
        if name == "logsumexp" and output == "in_place":
            return
        numbers = self.probabilities() if name in OF_PROBABILITIES else self.logits()
        arguments: list[Any] = [numbers]
        if name in ("distillation_loss_grad", *OF_TWO_ARRAYS):
            arguments.append(self.logits())
        if targets is not None:
            arguments.append(self.targets(targets))
        if name == "softmax_cross_entropy_hvp":
            arguments.append(self.logits())
        apart = self.row_numbers() if name == "logsumexp" else self.logits()
        out = {"new": {}, "apart": {"out": apart}, "in_place": {"out": numbers}}[output]
        if name == "cross_entropy_grad" and output == "in_place":
            out["scale"] = 0.0  # what it writes are probabilities again, for a second call
        words = (name, str(targets), self.layout, output, "+".join(options) or "plain")
        function = class_statistics if name == "class_statistics" else getattr(xent_fast, name)
        options = {"axis": self.axis, **options}
        if name == "grad_from_statistics":
            statistics = statistics_of_ranges(*arguments, **options)
            function = functools.partial(function, statistics=statistics, first_class=0)
            options.pop("label_smoothing", None)
        yield Call(
            " ".join(words),
            function,
            tuple(arguments),
            {**options, **out},
        )

    def logits(self) -> np.ndarray:
        return self.laid_out(self.rng.standard_normal(self.shape))

    def probabilities(self) -> np.ndarray:
        e = np.exp(self.rng.standard_normal(self.shape))
        return self.laid_out(e / e.sum(axis=self.axis, keepdims=True))

    def targets(self, kind: str) -> np.ndarray:
        if kind == "dense":
            return self.probabilities()
        return self.rng.integers(0, self.classes, self.row_shape)

    def row_numbers(self) -> np.ndarray:
        return np.zeros(self.row_shape, self.dtype)

    def row_weights(self) -> np.ndarray:
        return self.rng.random(self.row_shape) + 0.5

    def class_weights(self) -> np.ndarray:
        return self.rng.random(self.classes) + 0.5

    def laid_out(self, values: np.ndarray) -> np.ndarray:
        values = values.astype(self.dtype)
        if self.layout == "padded":
            return np.pad(values, ((0, 0), (0, 3)))[:, : values.shape[1]]
        if self.layout == "reversed":
            return values[::-1].copy()[::-1]
        if self.layout == "fortran":
            return np.asfortranarray(values)
        if self.layout == "byte_swapped":
            return values.astype(values.dtype.newbyteorder())
        return values
