"""Bytes to a call of a public function: arguments of any type, dtype, shape, layout and value.

Knows: the public signatures, how arrays may lie in memory.
Must not know: what a call should give.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xent_fast._bits.functions import DTYPES, FUNCTIONS, Function, swapped

FLOATS = tuple(np.dtype(dtype).name for dtype in DTYPES)
OTHER_DTYPES = ("f2", "g", "i4", "?", "c16", "O", "U3", "u1", "M8[s]", "V4")
INTEGERS = ("i8", "i4", "i2", "i1", "u1", "u2", "u4", "u8")
SPECIAL_VALUES = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-40, 3e38, -60.0)
SPECIAL_LABELS = (-1, -100, 2**31, 2**63 - 1, 5, 2**32)
GUARD_BYTE = 0xA5
MARGIN = 64


class Choices:
    """The bytes of an input, one choice after another; 0 once they are spent."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0

    def byte(self) -> int:
        if self._next >= len(self._data):
            return 0
        self._next += 1
        return self._data[self._next - 1]

    def peek(self) -> int:
        return self._data[self._next] if self._next < len(self._data) else 0

    def below(self, count: int) -> int:
        return self.byte() % count

    def one_of(self, options: tuple[Any, ...]) -> Any:
        return options[self.below(len(options))]

    def rarely(self) -> bool:
        """Once in 16 times."""
        return self.byte() >= 240


@dataclass
class Call:
    """A function's name and arguments, and the memory behind every array among them."""

    name: str
    arguments: list[Any]
    options: dict[str, Any]
    buffers: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Rows:
    """What the arguments of a call have in common."""

    shape: tuple[int, ...]
    axis: int
    dtype: str

    @property
    def classes(self) -> int:
        return self.shape[self.axis] if self.shape else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        axis = self.axis % max(len(self.shape), 1)
        return self.shape[:axis] + self.shape[axis + 1 :]


# --- shapes and values ----------------------------------------------------------------------------


def take_rows(c: Choices) -> Rows:
    dimensions = c.one_of((2, 2, 2, 1, 3, 4, 5, 0))
    shape = tuple(c.one_of((1, 2, 3, 4, 0, 5, 7, 1)) for _ in range(dimensions))
    axis = c.one_of((-1, -1, 0, 1, dimensions // 2, -1))
    if shape and axis < dimensions and c.below(3) == 0:
        grown = list(shape)
        grown[axis] = c.one_of((10, 17, 33, 65, 128, 300, 1, 8))
        shape = tuple(grown)
    return Rows(shape, axis if -dimensions <= axis < dimensions else -1, c.one_of(FLOATS))


def take_values(c: Choices, shape: tuple[int, ...], dtype: str, *, positive: bool) -> np.ndarray:
    """Ordinary numbers of a seed, some of them replaced."""
    rng = np.random.default_rng(c.byte())
    spread = c.one_of((1.0, 4.0, 0.0, 20.0))
    values = rng.random(shape) if positive else spread * rng.standard_normal(shape)
    values = np.asarray(values)
    for _ in range(c.below(4) if values.size else 0):
        values.reshape(-1)[c.byte() % values.size] = c.one_of(SPECIAL_VALUES)
    if dtype in ("i4", "u1", "i8"):
        return np.nan_to_num(values).clip(0, 100).astype(dtype)
    with np.errstate(all="ignore"):
        return values.astype("f8").astype(dtype)


def take_labels(c: Choices, shape: tuple[int, ...], classes: int) -> np.ndarray:
    dtype = np.dtype(c.one_of(INTEGERS))
    most = min(classes, np.iinfo(dtype).max)
    labels = np.random.default_rng(c.byte()).integers(0, max(most, 1), shape)
    labels = np.asarray(labels, dtype=object)
    for _ in range(c.below(3) if labels.size and c.below(3) == 0 else 0):
        labels.reshape(-1)[c.byte() % labels.size] = c.one_of(SPECIAL_LABELS)
    bounds = np.iinfo(dtype)
    return np.asarray(np.clip(labels, bounds.min, bounds.max) if labels.size else labels, dtype)


# --- layouts --------------------------------------------------------------------------------------


def laid_out(call: Call, c: Choices, values: np.ndarray) -> Any:
    """The values in some layout, in memory of their own that the call remembers; or no array."""
    layouts: tuple[Callable[[Call, Choices, np.ndarray], Any], ...] = (
        *(in_strides,) * 9,
        lambda call, c, values: np.asfortranarray(values),
        repeated,
        lambda call, c, values: values.tolist(),
        memory_mapped,
    )
    if c.rarely():
        return c.one_of((np.ma.masked_array, listed, str, Duck, as_subclass))(values)
    array = c.one_of(layouts)(call, c, values)
    if isinstance(array, np.ndarray) and c.below(8) == 0:
        array.flags.writeable = False
    return array


def in_strides(call: Call, c: Choices, values: np.ndarray) -> np.ndarray:
    """Any order of the axes, any signs, gaps, an offset that misaligns, any byte order."""
    way = c.byte()
    dtype = (swapped(values) if way & 7 == 7 else values).dtype
    if dtype.hasobject:
        return values
    gaps, offset = (way >> 3 & 3) * dtype.itemsize, 1 if way & 0xE0 == 0xE0 else 0
    order = list(range(values.ndim))
    if c.below(4) == 0:
        order = [order[(k + c.below(5)) % len(order)] for k in range(len(order))]
        order = list(dict.fromkeys(order + list(range(values.ndim))))
    strides, step = [0] * values.ndim, dtype.itemsize
    for axis in reversed(order):
        strides[axis] = step
        step = step * max(values.shape[axis], 1) + gaps
    buffer = remembered(call, step + 2 * MARGIN + offset)
    array = np.ndarray(values.shape, dtype, buffer, MARGIN + offset, strides)
    array[...] = values
    flips = c.byte() if c.below(4) == 0 else 0
    return array[tuple(slice(None, None, -1 if flips >> k & 1 else 1) for k in range(values.ndim))]


def remembered(call: Call, size: int) -> np.ndarray:
    buffer = np.full(size, GUARD_BYTE, np.uint8)
    call.buffers.append(buffer)
    return buffer


def repeated(call: Call, c: Choices, values: np.ndarray) -> np.ndarray:
    """The first entry of an axis for all of them."""
    if not values.ndim or values.size == 0:
        return values
    axis = c.below(values.ndim)
    broadcast = np.broadcast_to(values.take([0], axis=axis), values.shape)
    return np.lib.stride_tricks.as_strided(broadcast, writeable=c.below(2) == 0)


def memory_mapped(call: Call, c: Choices, values: np.ndarray) -> np.ndarray:
    """A view of an array's bytes, as np.memmap is, without a file."""
    array = in_strides(call, c, values)
    return array.view(np.memmap) if not values.dtype.hasobject else array


def listed(values: np.ndarray) -> Any:
    return tuple(values) if values.ndim else [values]


def as_subclass(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2:
        return values.view(np.recarray)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(values)


class Duck:
    """Something that only `numpy.asarray` can make an array of."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype)


# --- arguments ------------------------------------------------------------------------------------


def take_shape_near(c: Choices, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Mostly the same."""
    if not c.rarely():
        return shape
    return c.one_of((shape[1:], (1, *shape), shape[::-1], (), (0,), (3,), shape[:-1]))


def take_floats(call: Call, c: Choices, rows: Rows, *, positive: bool = False) -> Any:
    dtype = c.one_of(OTHER_DTYPES) if c.rarely() else rows.dtype
    shape = take_shape_near(c, rows.shape)
    if dtype in ("M8[s]", "V4"):
        return np.zeros(shape, dtype)
    return laid_out(call, c, take_values(c, shape, dtype, positive=positive))


def take_weights(call: Call, c: Choices, shape: tuple[int, ...]) -> Any:
    dtype = c.one_of(("f8", "f4", "i4", "f2", "?", "c16", "f8", "f8"))
    return laid_out(call, c, take_values(c, take_shape_near(c, shape), dtype, positive=True))


def take_targets(call: Call, c: Choices, rows: Rows) -> Any:
    if c.below(3) == 0:
        return take_floats(call, c, rows, positive=True)
    if c.rarely():
        return c.one_of((None, 0, 1.5, "labels", [0, 1], [[0.5]], object()))
    return laid_out(call, c, take_labels(c, take_shape_near(c, rows.row_shape), rows.classes))


def take_out(call: Call, c: Choices, rows: Rows) -> Any:
    """Mostly nothing, an input, or an array of the right kind; else an overlap or a wrong one."""
    way = c.below(12)
    inputs = [a for a in call.arguments if isinstance(a, np.ndarray)]
    if way < 3:
        return None
    if way < 6 and inputs:
        return inputs[c.below(len(inputs))]
    if way == 6 and inputs:
        return shifted(inputs[c.below(len(inputs))], c)
    if way == 7:
        return c.one_of((0.0, [0.0], "out", np.zeros(3), np.zeros(rows.shape, "i8"), object()))
    if call.name == "logsumexp":
        shape = take_shape_near(c, rows.row_shape)
        return laid_out(call, c, take_values(c, shape, rows.dtype, positive=False))
    return take_floats(call, c, rows)


def shifted(array: np.ndarray, c: Choices) -> np.ndarray:
    """The same shape over the same memory, in another order."""
    if array.ndim == 0:
        return array
    return np.flip(array, c.below(array.ndim)) if c.below(2) else array.T


def number(*usual: Any) -> Callable[[Call, Choices, Rows], Any]:
    """One of these, or rarely something else."""
    odd = (None, "1", True, np.float32(0.5), np.int8(1), 1j, [1.0], np.zeros(2), np.array(0.25))
    odd = (*odd, float("nan"), float("inf"), -1.0, 10**400, -(2**70), 2**70, 1e300, 0, np.True_)

    def take(call: Call, c: Choices, rows: Rows) -> Any:
        return c.one_of(odd) if c.rarely() else c.one_of(usual)

    return take


# How each is chosen; a call's byte of options is read in this order.
OPTIONS: dict[str, Callable[[Call, Choices, Rows], Any]] = {
    "axis": lambda call, c, rows: (
        c.one_of((0, 1, -1, 7, -9, 2**70, None, True, "0", 1.0)) if c.rarely() else rows.axis
    ),
    "weight": lambda call, c, rows: take_weights(call, c, (rows.classes,)),
    "sample_weight": lambda call, c, rows: take_weights(call, c, rows.row_shape),
    "ignore_index": number(-1, -100, 0, 1, 2**63, np.int16(1)),
    "label_smoothing": number(0.0, 0.1, 0.5, 1.0, 1),
    "reduction": number("mean", "sum", "none", "mean"),
    "scale": number(1.0, 0.5, -2.0, 0.0),
    "num_threads": number(1, 2, 3, None),
    "temperature": number(1.0, 2.0, 0.5, 10),
    "z_loss": number(0.0, 1e-2, 1.0, -0.5),
    "alpha": number(0.5, 0.0, 1.0, 0.25),
    "clip": number(0.0, 1e-6, 0.25),
    "return_statistics": number(True, False, 1, 0, ("entropy", "lse"), "target_log_probability"),
    "keepdims": number(True, False),
    "factor": number(1.0, 2.0, -0.5),
    "min_hessian": number(0.0, 1e-3, 0.25),
    "out": take_out,
    "grad_output": lambda call, c, rows: (
        take_weights(call, c, rows.row_shape) if c.below(2) else number(1.0, -0.5)(call, c, rows)
    ),
}
OPTIONS_OF_RANGES = (
    *("axis", "weight", "sample_weight", "ignore_index", "label_smoothing", "reduction", "scale"),
    *("temperature", "z_loss", "out"),
)
# The judge knows one output.
NOT_FUZZED = {"grad_out", "hessian_out"}
# The first byte of a call by ranges of classes is at least this.
OF_RANGES = 244


def made(call: Call, c: Choices, rows: Rows, member: str) -> Any:
    """What the register calls a member of a batch."""
    if member == "probabilities":
        return take_floats(call, c, rows, positive=True)
    return take_targets(call, c, rows) if member == "targets" else take_floats(call, c, rows)


def options_of(function: Function) -> list[str]:
    """In the order of OPTIONS; of a new one this says that it is to be entered there."""
    unknown = set(function.keywords) - set(OPTIONS) - NOT_FUZZED
    assert not unknown, f"OPTIONS lacks {unknown} of {function.name}"
    return [name for name in OPTIONS if name in function.keywords]


# Functions of rows; those of a layer or of ranges of classes are made up below.
OF_ROWS = {
    name: (function, options_of(function))
    for name, function in FUNCTIONS.items()
    if {"logits", "probabilities"}.intersection(function.given[:1])
    and function.name not in ("class_statistics", "grad_from_statistics")
}
# Functions of a layer whose classes are all there.
OF_LAYERS = [name for name, function in FUNCTIONS.items() if "chunk_rows" in function.keywords]


def take_call(data: bytes) -> Call:
    c = Choices(data)
    if c.peek() >= OF_RANGES:
        return take_ranges(c)
    which = c.below(len(OF_ROWS) + 2)
    if which == len(OF_ROWS):
        return take_sampled(c)
    if which > len(OF_ROWS):
        return take_layer(c)
    name = list(OF_ROWS)[which]
    function, options = OF_ROWS[name]
    rows = take_rows(c)
    call = Call(name, [], {})
    for member in function.given:
        may_lack = member == "targets" and None in function.kinds
        lacks = may_lack and c.below(3) == 0
        call.arguments.append(None if lacks else made(call, c, rows, member))
    # Options whose bit is set; the axis always, so that other ones than the last are common.
    asked = c.byte() | c.byte() << 8
    for k, option in enumerate(options):
        if option == "axis" or asked >> k & 1:
            call.options[option] = OPTIONS[option](call, c, rows)
    return call


def take_sampled(c: Choices) -> Call:
    batch, features, classes = c.below(4), c.below(4), c.one_of((5, 1, 9, 0, 40))
    dtype = c.one_of(FLOATS)
    call = Call("sampled_softmax_loss_grad", [], {})

    def floats(*shape: int) -> Any:
        return take_floats(call, c, Rows(shape, -1, dtype))

    call.arguments += [floats(batch, features), floats(classes, features)]
    call.arguments.append(None if c.below(2) else floats(classes))
    labels = take_labels(c, take_shape_near(c, (batch,)), classes)
    call.arguments.append(laid_out(call, c, labels))
    count = c.one_of((1, 2, 5, 0, -1, 2.5, "3"))
    samples = (take_labels(c, (2,), classes), np.ones(classes))
    call.options = {
        "num_sampled": count,
        "rng": c.byte(),
        "sampler": c.one_of(("uniform", "log_uniform", samples, "other", 3)),
        "remove_accidental_hits": c.below(2) == 0,
        "reduction": c.one_of(("mean", "sum", "none", "all")),
    }
    return call


def take_ranges(c: Choices) -> Call:
    c.byte()
    rows = take_rows(c)
    call = Call("grad_of_ranges", [], {})
    call.arguments += [take_floats(call, c, rows), take_targets(call, c, rows)]
    call.arguments.append(c.below(rows.classes + 1))
    asked = c.byte() | c.byte() << 8
    for k, option in enumerate(OPTIONS_OF_RANGES):
        if option == "axis" or asked >> k & 1:
            call.options[option] = OPTIONS[option](call, c, rows)
    return call


def grad_of_ranges(
    module: Any,
    logits: Any,
    targets: Any,
    cut: int,
    *,
    axis: Any = -1,
    weight: Any = None,
    sample_weight: Any = None,
    reduction: Any = "mean",
    z_loss: Any = 0.0,
    scale: Any = 1.0,
    out: Any = None,
    **measuring: Any,
) -> Any:
    """Loss and gradient of classes in two ranges, by xent_fast or its reference.

    `out` takes the second range's gradient, if it is an array of that range's shape: the first's
    would be written before it, were the second's arguments wrong.
    """
    if not isinstance(logits, np.ndarray) or type(axis) is not int or cut == 0:
        ranges = [slice(None)]
    else:
        ranges = [slice(0, cut), slice(cut, None)]

    def part(values: Any, axis: Any, some: slice) -> Any:
        if not isinstance(values, np.ndarray) or values.ndim == 0 or len(ranges) == 1:
            return values
        return values[(slice(None),) * (axis % values.ndim) + (some,)]

    def of(some: slice) -> tuple[Any, Any, dict[str, Any]]:
        is_dense = isinstance(targets, np.ndarray) and targets.shape == np.shape(logits)
        given = part(logits, axis, some)
        options = {"axis": axis, "weight": part(weight, 0, some), "first_class": some.start or 0}
        return given, part(targets, axis, some) if is_dense else targets, options

    classes = np.shape(logits)[axis]
    statistics = module.merge_class_statistics(
        [
            module.class_statistics(given, its_targets, num_classes=classes, **options, **measuring)
            for given, its_targets, options in map(of, ranges)
        ]
    )
    settling = {"reduction": reduction, "z_loss": z_loss, "scale": scale}
    settling["sample_weight"] = sample_weight
    if isinstance(sample_weight, np.ndarray) and np.ndim(logits) > 2:
        settling["sample_weight"] = sample_weight.reshape(-1)
    loss = module.loss_from_statistics(statistics, **settling)
    grads = []
    for some in ranges:
        given, its_targets, options = of(some)
        result = module.grad_from_statistics(
            given,
            its_targets,
            statistics,
            out=out if some is ranges[-1] else None,
            **options,
            **settling,
        )
        grads.append(result.grad)
    return (loss, *grads)


def take_layer(c: Choices) -> Call:
    batch, features, classes = c.below(6), c.below(4), c.one_of((5, 1, 9, 0, 40))
    dtype = c.one_of(FLOATS)
    name = c.one_of(tuple(OF_LAYERS))
    call = Call(name, [], {})
    rows = Rows((batch, classes), -1, dtype)

    def floats(*shape: int) -> Any:
        return take_floats(call, c, Rows(shape, -1, dtype))

    call.arguments += [floats(batch, features), floats(classes, features)]
    call.arguments.append(None if c.below(2) else floats(classes))
    call.arguments.append(take_targets(call, c, rows))
    asked = c.byte()
    options = (
        "sample_weight",
        "ignore_index",
        "label_smoothing",
        "temperature",
        "reduction",
        "scale",
    )
    for k, option in enumerate(options):
        if asked >> k & 1:
            call.options[option] = OPTIONS[option](call, c, rows)
    if asked >> len(options) & 1:
        call.options["class_weight"] = take_weights(call, c, (classes,))
    call.options["chunk_rows"] = c.one_of((None, 1, 2, 3, None, 0))
    return call
