"""The loss in PyTorch's graph: operators, what the compiler sees of them, and their derivatives.

With x the logits, L the loss, u the gradient that comes from above:

    first      u L'(x)                         in one pass with the loss, kept until it is asked for
    second     along v: u L''(x) v, and the sum of v L'(x) with respect to u
    third      an error

Knows: PyTorch's autograd and compiler. Must not know: which calls come here.
"""

from __future__ import annotations

from typing import Any

import torch

from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad
from xent_fast._second_order import softmax_cross_entropy_hvp
from xent_fast._torch.calls import (
    array_of,
    class_axis,
    core_options,
    is_one,
    loss_tensor,
    without_classes,
    write_into,
)

# --- eager mode: the gradient in one pass with the loss -------------------------------------------


class LossWithGradient(torch.autograd.Function):
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
        loss, _ = write_into(
            ctx.grad,
            softmax_cross_entropy_grad,
            array_of(input),
            array_of(target),
            **core_options(input, target, weight, *options),
        )
        ctx.options, ctx.inplace = options, inplace
        if inplace:
            # what saved the logits for its own backward pass learns that they are gone
            torch.autograd.graph.increment_version(input)
        else:
            ctx.save_for_backward(input, target, weight)
        return loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        if not ctx.inplace and torch.is_grad_enabled():
            return (backward_op(grad_output, *ctx.saved_tensors, *ctx.options), *[None] * 4)
        grad, ctx.grad = ctx.grad, None
        if ctx.inplace and (grad is None or torch.is_grad_enabled()):
            ctx.grad = grad
            raise RuntimeError(
                "cross_entropy(..., inplace=True) keeps no logits: one backward pass, and no "
                "create_graph=True. Take inplace=False"
            )
        is_whole = is_one(grad_output)
        if grad is None or (grad.dtype == torch.float16 and not is_whole and not ctx.inplace):
            # float16 rounds to 0 what a loss scale would have kept
            grad = backward_op(grad_output, *ctx.saved_tensors, *ctx.options)
        elif not is_whole:
            axis = class_axis(grad)
            grad.mul_(grad_output.unsqueeze(axis) if grad_output.dim() else grad_output)
        return (grad, *[None] * 4)


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
loss_op = torch.ops.xent_fast.cross_entropy.default
backward_op = torch.ops.xent_fast.cross_entropy_backward.default
hvp_op = torch.ops.xent_fast.cross_entropy_hvp.default


@torch.library.impl(_library, "cross_entropy", "CPU")
def loss_without_gradient(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, *options: Any
) -> torch.Tensor:
    loss = softmax_cross_entropy(
        array_of(input), array_of(target), **core_options(input, target, weight, *options)
    )
    return loss_tensor(loss, input)


@torch.library.impl(_library, "cross_entropy_backward", "CPU")
def _backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    *options: Any,
) -> torch.Tensor:
    grad = torch.empty_like(input)
    write_into(
        grad,
        softmax_cross_entropy_grad,
        array_of(input),
        array_of(target),
        **core_options(input, target, weight, *options, grad_output=grad_output),
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
    write_into(
        product,
        softmax_cross_entropy_hvp,
        array_of(input),
        array_of(target),
        array_of(vector),
        **core_options(input, target, weight, *options, grad_output=grad_output),
    )
    return product


@torch.library.register_fake("xent_fast::cross_entropy")
def _fake_loss(
    input: torch.Tensor, target: torch.Tensor, weight: Any, reduction: str, *_: Any
) -> torch.Tensor:
    return input.new_empty(without_classes(input) if reduction == "none" else ())


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
    return (backward_op(grad_output, *ctx.saved_tensors, *ctx.options), *[None] * 5)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward_vjp(ctx: Any, vector: torch.Tensor) -> tuple[Any, ...]:
    """Of u L'(x), along v."""
    grad_output, input, target, weight = ctx.saved_tensors
    of_grad_output = of_input = None
    if ctx.needs_input_grad[0]:
        grad = backward_op(torch.ones_like(grad_output), input, target, weight, *ctx.options)
        of_grad_output = (vector * grad).sum(class_axis(input)).sum_to_size(grad_output.shape)
    if ctx.needs_input_grad[1]:
        of_input = hvp_op(vector, grad_output, input, target, weight, *ctx.options)
    return (of_grad_output, of_input, *[None] * 5)


def _no_third_derivative(ctx: Any, _: torch.Tensor) -> tuple[Any, ...]:
    raise RuntimeError(
        "xent_fast.torch.cross_entropy has two derivatives, and a third was asked for: "
        "torch.nn.functional.cross_entropy has it"
    )


torch.library.register_autograd(loss_op, _loss_vjp, setup_context=_keep_loss)
torch.library.register_autograd(backward_op, _backward_vjp, setup_context=_keep_backward)
torch.library.register_autograd(hvp_op, _no_third_derivative)
