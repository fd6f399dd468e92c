"""Which calls are computed here and not by PyTorch, and their tensors as the core's arrays.

Knows: PyTorch's arguments, the core's words for them. Must not know: derivatives, operators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

try:
    from ml_dtypes import bfloat16 as _bfloat16
except ModuleNotFoundError:  # PyTorch does without it
    _bfloat16 = None

REDUCTIONS = ("mean", "sum", "none")
HALF_PRECISION = (torch.bfloat16, torch.float16)
# What the core reads as it lies, and writes.
COMPUTED = (torch.float32, torch.float64, *HALF_PRECISION[_bfloat16 is None :])
_FLOATS = (torch.float32, torch.float64, *HALF_PRECISION)

# Below so many logits PyTorch's own function takes less time, forward and backward: a call from
# here into autograd costs 20 µs more than one of its own. Its speed drops where rows are shorter
# than a vector. `python -m benchmarks.frameworks --limits` measures both sides.
_SMALL_SHORT_ROWS = 1_500
_SMALL = 40_000
_SHORT_ROW = 16
# PyTorch's number of threads counts here too, from so many logits on.
_THREADED = 131_072


# --- which calls are computed here ----------------------------------------------------------------


def is_known(
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
        is_plain(input)
        and is_plain(target)
        and input.dtype in _FLOATS
        and not _is_small(input)
        and (_is_index(input, target) or _is_dense(input, target, ignore_index))
        and (weight is None or _is_class_weight(input, weight))
        and reduction in REDUCTIONS
        and 0.0 <= label_smoothing <= 1.0
        and size_average is None
        and reduce is None
        and (torch.compiler.is_compiling() or not is_transformed())
    )


def is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def is_of_a_leaf(input: torch.Tensor) -> bool:
    """Whether the memory is that of a leaf: `input` is one, or a view of one."""
    base = None if torch.compiler.is_compiling() else input._base
    return input.is_leaf or (base is not None and base.is_leaf and base.requires_grad)


def _is_small(input: torch.Tensor) -> bool:
    if input.dim() == 0 or 0 in input.shape:
        return True
    is_short = input.shape[class_axis(input)] < _SHORT_ROW
    return input.numel() < (_SMALL_SHORT_ROWS if is_short else _SMALL)


def _is_index(input: torch.Tensor, target: torch.Tensor) -> bool:
    return target.dtype in (torch.int64, torch.uint8) and target.shape == without_classes(input)


def _is_dense(input: torch.Tensor, target: torch.Tensor, ignore_index: int) -> bool:
    return (
        target.dtype == input.dtype
        and target.shape == input.shape
        and not target.requires_grad
        and ignore_index < 0
    )


def _is_class_weight(input: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        is_plain(weight)
        and weight.dtype == input.dtype
        and weight.shape == (input.shape[class_axis(input)],)
        and not weight.requires_grad
    )


def is_transformed() -> bool:
    """Whether functions are being transformed by torch.func, or tangents carried forward."""
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


def class_axis(input: torch.Tensor) -> int:
    return 1 if input.dim() > 1 else 0


def without_classes(input: torch.Tensor) -> tuple[int, ...]:
    axis = class_axis(input)
    return (*input.shape[:axis], *input.shape[axis + 1 :])


def as_in_autocast(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Autocast computes this loss in float32."""
    return tensor.float() if tensor is not None and tensor.dtype in HALF_PRECISION else tensor


# --- tensors to arrays and back -------------------------------------------------------------------


def array_of(tensor: torch.Tensor | None) -> Any:
    """A tensor as the core takes it: the same memory or, if that cannot be had, a float32 copy."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    if _bfloat16 is None:
        return tensor.float().numpy()
    return tensor.view(torch.int16).numpy().view(_bfloat16)


def write_into(result: torch.Tensor, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a function of the core with `out`."""
    if result.dtype != torch.bfloat16 or _bfloat16 is not None:
        return function(*arguments, **options, out=array_of(result))
    returned = function(*arguments, **options, out=arguments[0])  # a copy, which is free to go
    result.detach().copy_(torch.from_numpy(arguments[0]))
    return returned


def core_options(
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
        "axis": class_axis(input),
        "weight": array_of(weight),
        "ignore_index": None if target.is_floating_point() else ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "num_threads": torch.get_num_threads() if input.numel() >= _THREADED else 1,
    }
    if grad_output is not None and reduction == "none":
        options["sample_weight"] = array_of(grad_output)
    elif grad_output is not None:
        options["scale"] = grad_output.item()
    if weight is not None and reduction == "mean" and has_negative_means(target, weight):
        options["reduction"] = "sum"
        options["scale"] = options.get("scale", 1.0) / _denominator(target, weight, ignore_index)
    return options


def has_negative_means(target: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the mean may divide by a negative number: PyTorch does so, the core refuses."""
    return not target.is_floating_point() and bool(weight.min() < 0)


def _denominator(target: torch.Tensor, weight: torch.Tensor, ignore_index: int) -> float:
    """The sum of the weights of the rows that take part; labels that are none count nothing."""
    counted = target[(target != ignore_index) & (target >= 0) & (target < len(weight))]
    return weight.double()[counted.long()].sum().item() or float("nan")


def loss_tensor(loss: Any, input: torch.Tensor) -> torch.Tensor:
    if isinstance(loss, np.ndarray):
        return torch.from_numpy(loss).to(input.dtype)
    return torch.scalar_tensor(loss, dtype=input.dtype)


def is_one(grad_output: torch.Tensor) -> bool:
    """Whether a number, or a number that is repeated, is 1."""
    if grad_output.dim() and not any(grad_output.stride()):
        grad_output = grad_output[(0,) * grad_output.dim()]
    return grad_output.dim() == 0 and grad_output.item() == 1
