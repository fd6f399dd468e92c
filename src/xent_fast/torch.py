"""The loss for PyTorch: `torch.nn.functional.cross_entropy` and its module, on a CPU.

Whatever this module does not compute (other devices, `torch.func`, small inputs, bad arguments) it
hands to PyTorch's own function, so that results, derivatives and errors are PyTorch's there.

The derivatives, with x the logits, L the loss, u the gradient that comes from above:

    first      u L'(x)                         in one pass with the loss, kept until it is asked for
    second     along v: u L''(x) v, and the sum of v L'(x) with respect to u
    third      an error

Knows: PyTorch's arguments, autograd and compiler. Must not know: the core beyond its public names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_fast._extras import needed_by
from xent_fast._linear import linear_softmax_cross_entropy, linear_softmax_cross_entropy_grad
from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast._second_order import softmax_cross_entropy_hvp

with needed_by("xent_fast.torch", "torch"):
    import torch

__all__ = ["CrossEntropyLoss", "cross_entropy", "linear_cross_entropy"]

_REDUCTIONS = ("mean", "sum", "none")
_HALF_PRECISION = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, torch.float64, *_HALF_PRECISION)

# Below so many logits PyTorch's own function takes less time, forward and backward: a call from
# here into autograd costs 20 µs more than one of its own. Its speed drops where rows are shorter
# than a vector. `python -m benchmarks.frameworks --limits` measures both sides.
_SMALL_SHORT_ROWS = 1_500
_SMALL = 40_000
_SHORT_ROW = 16
# PyTorch's number of threads counts here too, from so many logits on.
_THREADED = 131_072


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    inplace: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.cross_entropy`, faster on a CPU.

    Parameters
    ----------
    input : Tensor of shape (C,), (N, C) or (N, C, d1, ...)
        Logits in nats, classes on axis 1. float32, float64, or bfloat16 and float16, which are
        computed in float32.
    target : Tensor
        Class indices, int64 or uint8, of the shape of `input` without its classes; or
        probabilities, of the shape and dtype of `input`.
    weight : Tensor of shape (C,), optional
        A factor for each class, of the dtype of `input`.
    size_average, reduce : bool, optional
        Deprecated in PyTorch, which takes calls with them.
    ignore_index : int, default -100
        Rows with this class index take no part.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in PyTorch.
    label_smoothing : float, default 0.0
        In [0, 1].
    inplace : bool, default False
        Allow the gradient to take the place of the logits: they hold no logits after the call.
        This saves one array of their size. There is then one backward pass and no second
        derivative.

    Returns
    -------
    Tensor
        In nats, of the dtype of `input` (float32 under autocast): one number, or for ``"none"`` one
        a row.

    Raises
    ------
    IndexError
        If a class index is out of range and not `ignore_index`.
    ValueError
        If `inplace` is asked for and `input` is a leaf of the graph, such as a parameter, whose
        values an optimiser needs.
    RuntimeError
        For everything that PyTorch's function refuses; in the backward pass if `input` was changed
        in place before it, if a third derivative is asked for, or after `inplace` a second one.

    See Also
    --------
    CrossEntropyLoss : The same as a module.
    xent_fast.softmax_cross_entropy_grad : The loss and its gradient for NumPy.

    Notes
    -----
    PyTorch itself computes small inputs, tensors on other devices, subclasses of Tensor, whatever
    is inside `torch.func` or forward-mode differentiation, and targets that need a gradient.
    Inside ``torch.compile`` the call is one operator of the graph, and `inplace` does nothing.

    Where nothing is left to average, the mean is NaN, and its gradient is 0, not NaN. Small losses
    keep their relative accuracy; a target of probability 0 on a logit of minus infinity costs 0.

    Examples
    --------
    >>> import torch
    >>> from xent_fast.torch import cross_entropy
    >>> logits = torch.zeros(256, 1000, requires_grad=True)
    >>> loss = cross_entropy(logits, torch.arange(256))
    >>> loss.backward()
    >>> round(loss.item(), 4), tuple(logits.grad.shape)
    (6.9078, (256, 1000))
    """
    if inplace and input.is_leaf and input.requires_grad:
        raise ValueError(
            "inplace=True would overwrite input, which is a leaf of the graph (a parameter, or a "
            "tensor with requires_grad=True): take inplace=False"
        )
    if not _is_known(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    ):
        return torch.nn.functional.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    if torch.is_autocast_enabled("cpu"):
        input, target, weight = map(_as_in_autocast, (input, target, weight))
    options = (reduction, ignore_index, label_smoothing)
    if torch.compiler.is_compiling():
        return _loss_op(input, target, weight, *options)
    if not (input.requires_grad and torch.is_grad_enabled()):
        return _loss(input, target, weight, *options)
    return _LossWithGradient.apply(input, target, weight, options, inplace)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, faster on a CPU.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As of `cross_entropy`.
    inplace : bool, default False
        As of `cross_entropy`.

    See Also
    --------
    cross_entropy : The same as a function.

    Examples
    --------
    >>> import torch
    >>> from xent_fast.torch import CrossEntropyLoss
    >>> criterion = CrossEntropyLoss(label_smoothing=0.1)
    >>> round(criterion(torch.zeros(32, 10), torch.arange(32) % 10).item(), 4)
    2.3026
    """

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        inplace: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.inplace = inplace

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        input, target : Tensor
            As of `cross_entropy`.

        Returns
        -------
        Tensor
            As of `cross_entropy`.
        """
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            inplace=self.inplace,
        )

    def extra_repr(self) -> str:
        """What `repr` adds to the class's name."""
        return "inplace=True" if self.inplace else ""


# --- which calls are computed here ----------------------------------------------------------------


def _is_known(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    size_average: bool | None,
    ignore_index: int,
    reduce: bool | None,
    reduction: str,
    label_smoothing: float,
) -> bool:
    """Whether a call is valid, and one that is computed here and not by PyTorch."""
    return (
        _is_plain(input)
        and _is_plain(target)
        and input.dtype in _FLOATS
        and not _is_small(input)
        and (_is_index(input, target) or _is_dense(input, target, ignore_index))
        and (weight is None or _is_class_weight(input, weight))
        and reduction in _REDUCTIONS
        and 0.0 <= label_smoothing <= 1.0
        and size_average is None
        and reduce is None
        and (torch.compiler.is_compiling() or not _is_transformed())
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def _is_small(input: torch.Tensor) -> bool:
    if input.dim() == 0 or 0 in input.shape:
        return True
    is_short = input.shape[_class_axis(input)] < _SHORT_ROW
    return input.numel() < (_SMALL_SHORT_ROWS if is_short else _SMALL)


def _is_index(input: torch.Tensor, target: torch.Tensor) -> bool:
    return target.dtype in (torch.int64, torch.uint8) and target.shape == _without_classes(input)


def _is_dense(input: torch.Tensor, target: torch.Tensor, ignore_index: int) -> bool:
    return (
        target.dtype == input.dtype
        and target.shape == input.shape
        and not target.requires_grad
        and ignore_index < 0
    )


def _is_class_weight(input: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        _is_plain(weight)
        and weight.dtype == input.dtype
        and weight.shape == (input.shape[_class_axis(input)],)
        and not weight.requires_grad
    )


def _is_transformed() -> bool:
    """Whether functions are being transformed by torch.func, or tangents carried forward."""
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


def _class_axis(input: torch.Tensor) -> int:
    return 1 if input.dim() > 1 else 0


def _without_classes(input: torch.Tensor) -> tuple[int, ...]:
    axis = _class_axis(input)
    return (*input.shape[:axis], *input.shape[axis + 1 :])


def _as_in_autocast(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Autocast computes this loss in float32."""
    return tensor.float() if tensor is not None and tensor.dtype in _HALF_PRECISION else tensor


# --- tensors to arrays and back -------------------------------------------------------------------


def _array(tensor: torch.Tensor | None) -> Any:
    """A tensor as the core takes it: the same memory, or a copy in float32 of half precision."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in _HALF_PRECISION else tensor).numpy()


def _write_into(result: torch.Tensor, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a function of the core with `out`, in float32 for half precision."""
    if result.dtype not in _HALF_PRECISION:
        return function(*arguments, **options, out=result.detach().numpy())
    returned = function(*arguments, **options, out=arguments[0])  # a copy, which is free to go
    result.detach().copy_(torch.from_numpy(arguments[0]))
    return returned


def _options(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    *,
    grad_output: torch.Tensor | None = None,
) -> dict[str, Any]:
    """The core's arguments in the core's words, each row multiplied with what comes from above."""
    options: dict[str, Any] = {
        "axis": _class_axis(input),
        "weight": _array(weight),
        "ignore_index": None if target.is_floating_point() else ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "num_threads": torch.get_num_threads() if input.numel() >= _THREADED else 1,
    }
    if grad_output is not None and reduction == "none":
        options["sample_weight"] = _array(grad_output)
    elif grad_output is not None:
        options["scale"] = grad_output.item()
    if weight is not None and reduction == "mean" and _has_negative_means(target, weight):
        options["reduction"] = "sum"
        options["scale"] = options.get("scale", 1.0) / _denominator(target, weight, ignore_index)
    return options


def _has_negative_means(target: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the mean may divide by a negative number: PyTorch does so, the core refuses."""
    return not target.is_floating_point() and bool(weight.min() < 0)


def _denominator(target: torch.Tensor, weight: torch.Tensor, ignore_index: int) -> float:
    """The sum of the weights of the rows that take part; labels that are none count nothing."""
    counted = target[(target != ignore_index) & (target >= 0) & (target < len(weight))]
    return weight.double()[counted.long()].sum().item() or float("nan")


def _loss_tensor(loss: Any, input: torch.Tensor) -> torch.Tensor:
    if isinstance(loss, np.ndarray):
        return torch.from_numpy(loss).to(input.dtype)
    return torch.scalar_tensor(loss, dtype=input.dtype)


# --- eager mode: the gradient in one pass with the loss -------------------------------------------


class _LossWithGradient(torch.autograd.Function):
    """The loss; its gradient is made with it and handed over by the first backward pass.

    Later passes, and those that shall be differentiated, compute it again by the operators below.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None,
        options: tuple[str, int, float],
        inplace: bool,
    ) -> torch.Tensor:
        ctx.grad = input.detach() if inplace else torch.empty_like(input)
        loss, _ = _write_into(
            ctx.grad,
            softmax_cross_entropy_grad,
            _array(input),
            _array(target),
            **_options(input, target, weight, *options),
        )
        ctx.options, ctx.inplace = options, inplace
        if inplace:
            # what saved the logits for its own backward pass learns that they are gone
            torch.autograd.graph.increment_version(input)
        else:
            ctx.save_for_backward(input, target, weight)
        return _loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if not ctx.inplace and torch.is_grad_enabled():
            return (_backward_op(grad_output, *ctx.saved_tensors, *ctx.options), *[None] * 4)
        grad, ctx.grad = ctx.grad, None
        if ctx.inplace and (grad is None or torch.is_grad_enabled()):
            ctx.grad = grad
            raise RuntimeError(
                "cross_entropy(..., inplace=True) keeps no logits: one backward pass, and no "
                "create_graph=True. Take inplace=False"
            )
        if grad is None:
            grad = _backward_op(grad_output, *ctx.saved_tensors, *ctx.options)
        elif not _is_one(grad_output):
            axis = _class_axis(grad)
            grad.mul_(grad_output.unsqueeze(axis) if grad_output.dim() else grad_output)
        return (grad, *[None] * 4)


def _is_one(grad_output: torch.Tensor) -> bool:
    """Whether a number, or a number that is repeated, is 1."""
    if grad_output.dim() and not any(grad_output.stride()):
        grad_output = grad_output[(0,) * grad_output.dim()]
    return grad_output.dim() == 0 and grad_output.item() == 1


# --- operators: what the compiler sees, and what is differentiated again --------------------------

# Reduction, the ignored index and the smoothing are a name and numbers in each operator's schema.
_SCHEMA = (
    "Tensor input, Tensor target, Tensor? weight, "
    "str reduction, int ignore_index, float label_smoothing"
)
_library = torch.library.Library("xent_fast", "DEF")
_library.define(f"cross_entropy({_SCHEMA}) -> Tensor")
_library.define(f"cross_entropy_backward(Tensor grad_output, {_SCHEMA}) -> Tensor")
_library.define(f"cross_entropy_hvp(Tensor vector, Tensor grad_output, {_SCHEMA}) -> Tensor")
_loss_op = torch.ops.xent_fast.cross_entropy.default
_backward_op = torch.ops.xent_fast.cross_entropy_backward.default
_hvp_op = torch.ops.xent_fast.cross_entropy_hvp.default


@torch.library.impl(_library, "cross_entropy", "CPU")
def _loss(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, *options: Any
) -> torch.Tensor:
    loss = softmax_cross_entropy(
        _array(input), _array(target), **_options(input, target, weight, *options)
    )
    return _loss_tensor(loss, input)


@torch.library.impl(_library, "cross_entropy_backward", "CPU")
def _backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    *options: Any,
) -> torch.Tensor:
    grad = torch.empty_like(input)
    _write_into(
        grad,
        softmax_cross_entropy_grad,
        _array(input),
        _array(target),
        **_options(input, target, weight, *options, grad_output=grad_output),
    )
    return grad


@torch.library.impl(_library, "cross_entropy_hvp", "CPU")
def _hvp(
    vector: torch.Tensor,
    grad_output: torch.Tensor,
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    *options: Any,
) -> torch.Tensor:
    product = torch.empty_like(input)
    _write_into(
        product,
        softmax_cross_entropy_hvp,
        _array(input),
        _array(target),
        _array(vector),
        **_options(input, target, weight, *options, grad_output=grad_output),
    )
    return product


@torch.library.register_fake("xent_fast::cross_entropy")
def _fake_loss(
    input: torch.Tensor, target: torch.Tensor, weight: Any, reduction: str, *_: Any
) -> torch.Tensor:
    return input.new_empty(_without_classes(input) if reduction == "none" else ())


@torch.library.register_fake("xent_fast::cross_entropy_backward")
def _fake_backward(grad_output: torch.Tensor, input: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("xent_fast::cross_entropy_hvp")
def _fake_hvp(
    vector: torch.Tensor, grad_output: torch.Tensor, input: torch.Tensor, *_: Any
) -> torch.Tensor:
    return torch.empty_like(input)


def _keep_loss(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _loss_vjp(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
    return (_backward_op(grad_output, *ctx.saved_tensors, *ctx.options), *[None] * 5)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward_vjp(ctx: Any, vector: torch.Tensor) -> tuple[Any, ...]:
    """Of u L'(x), along v."""
    grad_output, input, target, weight = ctx.saved_tensors
    of_grad_output = of_input = None
    if ctx.needs_input_grad[0]:
        grad = _backward_op(torch.ones_like(grad_output), input, target, weight, *ctx.options)
        of_grad_output = (vector * grad).sum(_class_axis(input)).sum_to_size(grad_output.shape)
    if ctx.needs_input_grad[1]:
        of_input = _hvp_op(vector, grad_output, input, target, weight, *ctx.options)
    return (of_grad_output, of_input, *[None] * 5)


def _no_third_derivative(ctx: Any, _: torch.Tensor) -> tuple[Any, ...]:
    raise RuntimeError(
        "xent_fast.torch.cross_entropy has two derivatives, and a third was asked for: "
        "torch.nn.functional.cross_entropy has it"
    )


torch.library.register_autograd(_loss_op, _loss_vjp, setup_context=_keep_loss)
torch.library.register_autograd(_backward_op, _backward_vjp, setup_context=_keep_backward)
torch.library.register_autograd(_hvp_op, _no_third_derivative)


# --- the last layer and its loss together ---------------------------------------------------------


def linear_cross_entropy(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """The loss of a linear layer's logits, which never exist at once.

    Parameters
    ----------
    input : Tensor of shape (N, features)
        What the layer is applied to, in any unit.
    linear_weight : Tensor of shape (C, features)
        The layer's weights, as of `torch.nn.Linear`: nats a unit of `input`.
    target : Tensor of shape (N,) or (N, C)
        Class indices or probabilities, as for `cross_entropy`.
    linear_bias : Tensor of shape (C,), optional
        The layer's biases, in nats.
    weight, reduction, ignore_index, label_smoothing
        As for `cross_entropy`.
    chunk_rows : int, optional
        Rows whose logits exist at a time, as for `xent_fast.linear_softmax_cross_entropy_grad`.

    Returns
    -------
    Tensor
        As of `cross_entropy`.

    Raises
    ------
    IndexError, RuntimeError, ValueError
        As `cross_entropy`.

    See Also
    --------
    cross_entropy : The loss of logits that exist.

    Notes
    -----
    Float32 and float64 matrices on a CPU take this way, outside ``torch.compile``, autocast and
    `torch.func`. For all others the layer is applied, and `cross_entropy` takes its logits. A pass
    that shall be differentiated again goes through PyTorch's own functions, and makes the logits.

    Examples
    --------
    >>> import torch
    >>> from xent_fast.torch import linear_cross_entropy
    >>> layer = torch.nn.Linear(16, 5000)
    >>> hidden, labels = torch.zeros(64, 16), torch.arange(64)
    >>> loss = linear_cross_entropy(hidden, layer.weight, labels, linear_bias=layer.bias)
    >>> loss.backward()
    >>> tuple(layer.weight.grad.shape)
    (5000, 16)
    """
    layer = (input, linear_weight, linear_bias)
    options = (reduction, ignore_index, label_smoothing, chunk_rows)
    if not _is_known_layer(layer, target, weight, *options[:3]):
        logits = torch.nn.functional.linear(*layer)
        return cross_entropy(
            logits,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in layer):
        return _LinearLoss.apply(*layer, target, weight, options)
    loss = linear_softmax_cross_entropy(
        _array(input),
        _array(linear_weight),
        _array(linear_bias),
        _array(target),
        **_linear_options(target, weight, *options),
    )
    return _loss_tensor(loss, input)


def _is_known_layer(
    layer: tuple[Any, ...],
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
) -> bool:
    input, linear_weight, bias = layer
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not _is_transformed()
        and all(part is None or _is_plain(part) for part in (*layer, target, weight))
        and input.dtype in (torch.float32, torch.float64)
        and input.dim() == linear_weight.dim() == 2
        and linear_weight.shape[1] == input.shape[1]
        and 0 not in (*input.shape, *linear_weight.shape)
        and linear_weight.dtype == input.dtype
        and (bias is None or (bias.dtype == input.dtype and bias.shape == linear_weight.shape[:1]))
        and _is_target_of(input, linear_weight, target, ignore_index)
        and (
            weight is None
            or (
                weight.dtype == input.dtype
                and weight.shape == linear_weight.shape[:1]
                and not weight.requires_grad
                and not _has_negative_means(target, weight)
            )
        )
        and reduction in _REDUCTIONS
        and 0.0 <= label_smoothing <= 1.0
    )


def _is_target_of(
    input: torch.Tensor, linear_weight: torch.Tensor, target: torch.Tensor, ignore_index: int
) -> bool:
    if target.dtype in (torch.int64, torch.uint8):
        return target.shape == input.shape[:1]
    return (
        target.dtype == input.dtype
        and target.shape == (len(input), len(linear_weight))
        and not target.requires_grad
        and ignore_index < 0
    )


def _linear_options(
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    chunk_rows: int | None,
) -> dict[str, Any]:
    return {
        "class_weight": _array(weight),
        "ignore_index": None if target.is_floating_point() else ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "chunk_rows": chunk_rows,
        "num_threads": torch.get_num_threads(),
    }


class _LinearLoss(torch.autograd.Function):
    """One sweep for the loss and all gradients; with one loss a row, one more when they are known.

    As in `_LossWithGradient`, the first backward pass is handed the gradients, and a later one has
    them computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        linear_weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        weight: torch.Tensor | None,
        options: tuple[Any, ...],
    ) -> torch.Tensor:
        ctx.save_for_backward(input, linear_weight, bias, target, weight)
        ctx.options, ctx.grads = options, None
        arrays: Any = [_array(part) for part in (input, linear_weight, bias, target)]
        given = _linear_options(target, weight, *options)
        if options[0] == "none":
            loss = linear_softmax_cross_entropy(*arrays, **given)
        else:
            loss, *ctx.grads = linear_softmax_cross_entropy_grad(*arrays, **given)
        return _loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            return (
                *_differentiable_grads(grad_output, *ctx.saved_tensors, *ctx.options),
                *[None] * 3,
            )
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            *parts, weight = ctx.saved_tensors
            given = _linear_options(parts[-1], weight, *ctx.options)
            if ctx.options[0] == "none":
                given["sample_weight"] = _array(grad_output)
            else:
                given["scale"] = grad_output.item()
            _, *grads = linear_softmax_cross_entropy_grad(*map(_array, parts), **given)
        elif not _is_one(grad_output):
            for grad in grads:
                if grad is not None:
                    grad *= grad_output.item()
        results = [None if grad is None else torch.from_numpy(grad) for grad in grads]
        return (*results, None, None, None)


def _differentiable_grads(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    bias: torch.Tensor | None,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    _: int | None,
) -> list[torch.Tensor | None]:
    """The gradients by PyTorch, of every order."""
    loss = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(input, linear_weight, bias),
        target,
        weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    layer = (input, linear_weight, bias)
    wanted = [part for part in layer if part is not None and part.requires_grad]
    made = iter(torch.autograd.grad(loss, wanted, grad_output, create_graph=True))
    return [next(made) if part is not None and part.requires_grad else None for part in layer]
