"""Every public function, what it is given and what it can be asked: the register of calls.

    FUNCTIONS["softmax_vjp"].call(batch)()             a call on arrays of a batch, and its result
    FUNCTIONS["softmax_vjp"].call(batch, output="in place", variant="every", num_threads=2)

The record of bits and the tests of memory, threads, floating-point mode, bad arguments and fuzzing
draw their calls from here: a new function is entered in `FUNCTIONS`; a new option of the loss that
is a number comes by itself, any other is entered in `VARIANTS`.

Knows the public names, what their arguments mean, which options go together.
Must not know values, how arrays lie in memory, or what a call should give.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import xent_fast

with contextlib.suppress(ImportError):
    import ml_dtypes  # noqa: F401  NumPy knows its dtypes by name then

Array = NDArray[Any]

# What functions take, of which the last are bfloat16 where ml_dtypes is there.
KNOWN_DTYPES = ("float32", "float64", "float16", "bfloat16")


def _is_here(name: str) -> bool:
    try:
        return np.dtype(name).name == name
    except TypeError:
        return False


DTYPES: tuple[type[Any], ...] = tuple(
    np.dtype(name).type for name in KNOWN_DTYPES if _is_here(name)
)


def is_half(dtype: DTypeLike) -> bool:
    """Whether numbers have 16 bits."""
    return np.dtype(dtype).itemsize == 2


def swapped(array: Array) -> Array:
    """A copy in the other byte order, which ml_dtypes does not have."""
    dtype = array.dtype
    return array.copy() if dtype.kind == "V" else array.astype(dtype.newbyteorder())


# --- what is given --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Arrays of one shape and layout, and the axis of their classes.

    `other` are numbers of the logits' shape: slopes, a vector, a teacher's logits. `hidden`,
    `layer` and `bias` make up a last layer of as many rows and classes.
    """

    logits: Array
    other: Array
    probabilities: Array
    labels: Array
    dense: Array
    row_weights: Array
    class_weights: Array
    hidden: Array
    layer: Array
    bias: Array
    axis: int = -1
    # Makes an array of the same layout and values.
    copied: Callable[[Array], Array] = lambda array: array.copy("K")

    @property
    def classes(self) -> int:
        return int(self.logits.shape[self.axis])

    @property
    def some_classes(self) -> int:
        return max(self.classes // 2, 1)

    @property
    def first_label(self) -> int:
        return int(self.labels.flat[0])

    @property
    def no_weights(self) -> Array:
        return np.zeros_like(self.row_weights)

    @property
    def row_numbers(self) -> Array:
        """One number a row; those of 16 bits are too few for a logarithm."""
        dtype = self.logits.dtype
        return np.zeros(self.labels.shape, np.float32 if is_half(dtype) else dtype)


@dataclass(frozen=True)
class Of:
    """What a batch has under that name."""

    name: str


def _value(batch: Batch, value: Any) -> Any:
    return getattr(batch, value.name) if isinstance(value, Of) else value


# --- what can be asked ----------------------------------------------------------------------------

# Options by name. A function is asked what it has a keyword for, if it has one for the first.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "every": {
        "scale": 3.7,
        "sample_weight": Of("row_weights"),
        "weight": Of("class_weights"),
        "label_smoothing": 0.125,
        "temperature": 0.3,
        "z_loss": -0.01,
        "return_statistics": True,
        "reduction": "none",
        "alpha": 0.375,
        "clip": 0.01,
        "factor": 2.0,
        "min_hessian": 1e-3,
    },
    "ignored": {"ignore_index": Of("first_label")},
    "statistics": {"return_statistics": True},
    "chosen statistics": {"return_statistics": ("entropy", "target_log_probability")},
    "sample_weight": {"sample_weight": Of("row_weights"), "reduction": "none"},
    "nothing counts": {"sample_weight": Of("no_weights")},
    "weight": {"weight": Of("class_weights")},
    "label_smoothing": {"label_smoothing": 0.125},
    "both": {"label_smoothing": 0.1, "weight": Of("class_weights")},
    "temperature": {"temperature": 1.7},
    "scale": {"scale": 0.37e-30},
    "grad_output": {"grad_output": Of("row_weights"), "reduction": "none"},
    "slope": {"grad_output": 2.0},
    "hessian": {"factor": 2.0, "min_hessian": 1e-3, "weight": Of("class_weights")},
    "keepdims": {"keepdims": True},
    "sampler": {"sampler": "uniform"},
    "chunks": {"chunk_rows": 2, "ignore_index": Of("first_label")},
    "accumulate": {"accumulate": True, "sample_weight": Of("row_weights")},
    "exponentials": {"has_exponentials": True},
}
# Numbers that the loss is given and no line above names: a little more than their default.
for _option in inspect.signature(xent_fast.softmax_cross_entropy_grad).parameters.values():
    if isinstance(_option.default, float):
        VARIANTS["every"].setdefault(_option.name, _option.default + 0.01)
        VARIANTS.setdefault(_option.name, {_option.name: _option.default + 0.01})
# Arrays that a function may be given to write to: in the shape of which member of the batch.
OUTPUTS = {
    "out": "logits",
    "grad_out": "logits",
    "hessian_out": "logits",
    "grad_hidden_out": "hidden",
    "grad_weight_out": "layer",
    "grad_bias_out": "bias",
}


@dataclass(frozen=True)
class Call:
    """A function and its arguments; `out`, if any, is among them, and may be one of them twice."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    variant: str = "plain"

    def __call__(self) -> Any:
        return self.function(*self.arguments, **self.options)

    @property
    def arrays(self) -> list[Array]:
        """Every array that is given, once each."""
        given = [*self.arguments, *self.options.values()]
        return list({id(a): a for a in given if isinstance(a, np.ndarray)}.values())

    @property
    def outputs(self) -> list[Array]:
        """The arrays that it writes to."""
        return [self.options[name] for name in OUTPUTS if name in self.options]


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of what can be given by position, and of the rest."""
    parameters = inspect.signature(function).parameters.values()
    keywords = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return tuple(p.name for p in parameters if p.name not in keywords), keywords


@dataclass(frozen=True)
class Function:
    """A public function: by position, the members of a batch that it is given."""

    given: tuple[str, ...]
    # Options of every call.
    required: Mapping[str, Any] = field(default_factory=dict)
    # Where a result may be written, if not as `OUTPUTS` says.
    outputs: Mapping[str, str] | None = None
    # The function that gives its loss alone.
    loss_alone: str | None = None
    # The first output may be the first argument.
    in_place: bool = True
    # All that is rounded is rounded in compiled code, on the batch alone.
    is_compiled: bool = True
    # Kinds of targets; None is none of them.
    kinds: tuple[str | None, ...] = ("index", "dense")
    name: str = ""

    @property
    def function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(xent_fast, self.name)
        return function

    @functools.cached_property
    def keywords(self) -> tuple[str, ...]:
        """Its options, in the order of its signature."""
        return _parameters(self.function)[1]

    @property
    def parameters(self) -> tuple[str, ...]:
        """What it calls the members of a batch that it is given."""
        return _parameters(self.function)[0][: len(self.given)]

    def variants(self, kind: str | None) -> list[str]:
        """Names of the options that go with a kind of targets."""
        names = ["plain"]
        for name, options in VARIANTS.items():
            asked = self._asked[name]
            is_here = asked and (name == "every" or next(iter(options)) in asked)
            is_ignoring = "ignore_index" in asked and kind != "index"
            if is_here and not is_ignoring:
                names.append(name)
        return names

    def ways_out(self, variant: str = "plain") -> tuple[str, ...]:
        """How results can be returned: in "new" arrays, in given ones "apart", "in place"."""
        if variant == "accumulate":
            return ("apart",)
        if variant == "keepdims" or not self._outputs:
            return ("new",)
        return ("new", "apart", "in place") if self.in_place else ("new", "apart")

    def call(
        self,
        batch: Batch,
        kind: str | None = None,
        variant: str = "plain",
        output: str = "new",
        *,
        layout: str = "",
        **more: Any,
    ) -> Call:
        """The function on that batch, ready to be called; `more` options as far as it has them.

        The call's name says all of it, `layout` too.
        """
        keywords = self.keywords
        targets = {"index": batch.labels, "dense": batch.dense}.get(kind or "")
        members: dict[str, Any] = {name: getattr(batch, name, None) for name in self.given}
        members["targets"] = targets
        if "statistics" in members:
            members["statistics"] = _statistics(batch, targets, VARIANTS[variant])
        if "has_exponentials" in VARIANTS[variant]:
            members["logits"] = _exponentials(batch, kind)
        if "ranges" in members:
            members["ranges"] = _ranges(batch, targets, 1, VARIANTS[variant])
        if output == "in place":
            members[self.given[0]] = batch.copied(members[self.given[0]])
        asked = {"axis": batch.axis, **self._asked[variant], **more}
        options: dict[str, Any] = {
            **self.required,
            **{name: value for name, value in asked.items() if name in keywords},
        }
        options = {name: _value(batch, value) for name, value in options.items()}
        if "statistics" in self.given and "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"].reshape(-1)
        if output != "new":
            options |= {name: batch.copied(getattr(batch, m)) for name, m in self._outputs.items()}
        if output == "in place":
            options[next(iter(self._outputs))] = members[self.given[0]]
        words = [word for word in (self.name, kind, variant, layout, output) if word]
        arguments = [members[name] for name in self.given]
        while arguments and arguments[-1] is None:
            arguments.pop()
        return Call(", ".join(words), self.function, tuple(arguments), options, variant)

    @functools.cached_property
    def _outputs(self) -> dict[str, str]:
        outputs = OUTPUTS | dict(self.outputs or {})
        return {name: outputs[name] for name in outputs if name in self.keywords}

    @functools.cached_property
    def _asked(self) -> dict[str, dict[str, Any]]:
        """Of each variant's options those that it has, by its own names."""
        own_names = {"weight": "class_weight"} if "class_weight" in self.keywords else {}
        return {
            variant: {
                own: value
                for name, value in options.items()
                if (own := own_names.get(name, name)) in self.keywords
            }
            for variant, options in VARIANTS.items()
        }


def _ranges(
    batch: Batch, targets: Array | None, cut: int, options: Mapping[str, Any]
) -> list[xent_fast.ClassStatistics]:
    """The statistics of the classes before a cut, and of those behind it."""
    one = FUNCTIONS["class_statistics"]
    parts = []
    for some in (slice(0, cut), slice(cut, None)):
        where = [slice(None)] * batch.logits.ndim
        where[batch.axis] = some
        part = replace(
            batch,
            logits=batch.logits[tuple(where)],
            dense=batch.dense[tuple(where)],
            class_weights=batch.class_weights[some],
        )
        kind = "dense" if targets is batch.dense else "index"
        own = {name: _value(part, value) for name, value in options.items()}
        more: dict[str, Any] = {"first_class": some.start or 0, "num_classes": batch.classes}
        parts.append(one.call(part, kind, **own, **more)())
    return parts


def _statistics(
    batch: Batch, targets: Array | None, options: Mapping[str, Any]
) -> xent_fast.ClassStatistics:
    """Of all classes, and of none behind them, together."""
    return xent_fast.merge_class_statistics(_ranges(batch, targets, batch.classes, options))


def _exponentials(batch: Batch, kind: str | None) -> Array:
    """What `class_statistics` leaves of all classes' logits."""
    leaving = FUNCTIONS["class_statistics"].call(batch, kind, output="apart")
    leaving()
    return leaving.outputs[0]


def arrays_of(result: object) -> list[Array]:
    """The arrays and numbers of a result, however nested; of a dictionary its keys."""
    if result is None:
        return []
    if isinstance(result, xent_fast.ClassStatistics):
        return [result.array]
    if isinstance(result, (tuple, list, dict)):
        return [array for part in result for array in arrays_of(part)]
    return [np.asarray(result)]


# --- the register ---------------------------------------------------------------------------------

_LOSS = ("logits", "targets")
_LAYER = ("hidden", "layer", "bias", "targets")
_NO_TARGETS: dict[str, Any] = {"kinds": (None,)}
_BY_BLAS: dict[str, Any] = {"is_compiled": False, "in_place": False}

FUNCTIONS: dict[str, Function] = {
    name: replace(entry, name=name)
    for name, entry in {
        "softmax_cross_entropy_grad": Function(_LOSS, loss_alone="softmax_cross_entropy"),
        "softmax_cross_entropy": Function(_LOSS),
        "softmax_loss": Function(_LOSS),
        "softmax": Function(("logits",), **_NO_TARGETS),
        "log_softmax": Function(("logits",), **_NO_TARGETS),
        "logsumexp": Function(
            ("logits",), outputs={"out": "row_numbers"}, in_place=False, **_NO_TARGETS
        ),
        "softmax_vjp": Function(("probabilities", "other"), **_NO_TARGETS),
        "log_softmax_vjp": Function(("logits", "other"), **_NO_TARGETS),
        "cross_entropy": Function(("probabilities", "targets"), is_compiled=False),
        "cross_entropy_grad": Function(("probabilities", "targets"), is_compiled=False),
        "softmax_cross_entropy_hvp": Function((*_LOSS, "other")),
        "softmax_cross_entropy_hessian_diagonal": Function(_LOSS),
        "softmax_cross_entropy_grad_hessian": Function(_LOSS),
        "distillation_loss_grad": Function(
            ("logits", "other", "targets"), kinds=(None, "index", "dense")
        ),
        "softmax_entropy": Function(("logits",), **_NO_TARGETS),
        "softmax_entropy_grad": Function(("logits",), loss_alone="softmax_entropy", **_NO_TARGETS),
        "softmax_cross_entropy_grad_targets": Function(("logits",), **_NO_TARGETS),
        "class_statistics": Function(_LOSS, {"first_class": 0, "num_classes": Of("classes")}),
        "merge_class_statistics": Function(("ranges",)),
        "loss_from_statistics": Function(("statistics",)),
        "grad_from_statistics": Function((*_LOSS, "statistics"), {"first_class": 0}),
        "sampled_softmax_loss_grad": Function(
            _LAYER,
            {"num_sampled": Of("some_classes"), "rng": 0},
            kinds=("index",),
            **_BY_BLAS,
        ),
        "linear_softmax_cross_entropy": Function(_LAYER, **_BY_BLAS),
        "linear_softmax_cross_entropy_grad": Function(
            _LAYER, loss_alone="linear_softmax_cross_entropy", **_BY_BLAS
        ),
        "get_include": Function((), is_compiled=False, **_NO_TARGETS),
        "show_config": Function((), {"mode": "dicts"}, is_compiled=False, **_NO_TARGETS),
    }.items()
}
