"""The last layer and its loss together, in PyTorch's graph.

Knows: PyTorch's autograd, which layers and targets the core takes. Must not know: chunks of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from xent_fast._linear import linear_softmax_cross_entropy, linear_softmax_cross_entropy_grad
from xent_fast._torch.calls import (
    COMPUTED,
    HALF_PRECISION,
    REDUCTIONS,
    array_of,
    has_negative_means,
    is_plain,
    is_transformed,
    loss_tensor,
)


def is_known_layer(
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
        and not is_transformed()
        and all(part is None or is_plain(part) for part in (*layer, target, weight))
        and input.dtype in COMPUTED
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
                and not has_negative_means(target, weight)
            )
        )
        and reduction in REDUCTIONS
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


def linear_options(
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    chunk_rows: int | None,
) -> dict[str, Any]:
    return {
        "class_weight": array_of(weight),
        "ignore_index": None if target.is_floating_point() else ignore_index,
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "chunk_rows": chunk_rows,
        "num_threads": torch.get_num_threads(),
    }


def linear_loss(
    layer: tuple[Any, ...],
    target: torch.Tensor,
    weight: torch.Tensor | None,
    options: tuple[Any, ...],
) -> torch.Tensor:
    """The loss alone."""
    arrays: Any = [array_of(part) for part in (*layer, target)]
    loss = linear_softmax_cross_entropy(*arrays, **linear_options(target, weight, *options))
    return loss_tensor(loss, layer[0])


def loss_and_gradients(parts: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    """The loss and the gradients of the layer's parts, which the target follows.

    Those of 16 bits stay in float32, since what comes from above, such as a loss scale, multiplies
    them before they are rounded.
    """
    if parts[0].dtype in HALF_PRECISION:
        for name, part in zip(("hidden", "weight", "bias"), parts, strict=False):
            if part is not None:
                options[f"grad_{name}_out"] = np.empty(part.shape, np.float32)
    return linear_softmax_cross_entropy_grad(*map(array_of, parts), **options)


class LinearLoss(torch.autograd.Function):
    """One sweep for the loss and all gradients; with one loss a row, one more when they are known.

    As in `LossWithGradient`, the first backward pass is handed the gradients, and a later one has
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
        layer = (input, linear_weight, bias)
        if options[0] == "none":
            return linear_loss(layer, target, weight, options)
        given = linear_options(target, weight, *options)
        loss, *ctx.grads = loss_and_gradients((*layer, target), given)
        return loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            return (
                *_differentiable_grads(grad_output, *ctx.saved_tensors, *ctx.options),
                *[None] * 3,
            )
        grads, ctx.grads = ctx.grads, None
        *parts, weight = ctx.saved_tensors
        factor = 1.0
        if grads is None:
            given = linear_options(parts[-1], weight, *ctx.options)
            if ctx.options[0] == "none":
                given["sample_weight"] = array_of(grad_output)
            else:
                given["scale"] = grad_output.item()
            _, *grads = loss_and_gradients(tuple(parts), given)
        else:
            factor = grad_output.item()
        results: list[torch.Tensor | None] = []
        for grad, part in zip(grads, parts, strict=False):
            if grad is None:
                results.append(None)
                continue
            result = torch.from_numpy(grad)
            if factor != 1:
                result *= factor
            results.append(result.to(part.dtype))
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
