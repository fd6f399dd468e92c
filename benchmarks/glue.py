"""What a user writes to have the loss in a framework: its own, by hand from NumPy, by a module.

Each function's body, the last line included, is that program's part: what is imported, what is
defined, and the loss as the rest of the program calls it. `lines_of` counts them, for the table of
docs/frameworks.md, which times these very functions.

Knows: each framework's way to extend it. Must not know: how anything is measured.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable


def lines_of(function: Callable) -> int:
    """Lines of code in a function's body: no blank ones, comments or docstrings."""
    source = textwrap.dedent(inspect.getsource(function))
    body = ast.parse(source).body[0].body
    if ast.get_docstring(ast.parse(source).body[0]) is not None:
        body = body[1:]
    lines = source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(1 for line in map(str.strip, lines) if line and not line.startswith("#"))


def torch_itself() -> Callable:
    from torch.nn.functional import cross_entropy

    return lambda logits, labels: cross_entropy(logits, labels)


def torch_by_module() -> Callable:
    from xent_fast.torch import cross_entropy

    return lambda logits, labels: cross_entropy(logits, labels)


def torch_by_module_in_place() -> Callable:
    from xent_fast.torch import cross_entropy

    return lambda logits, labels: cross_entropy(logits, labels, inplace=not logits.is_leaf)


def torch_by_hand() -> Callable:
    """A gradient that is a function of its own, else the second derivative would be 0."""
    import torch

    import xent_fast

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, labels):
            loss, grad = xent_fast.softmax_cross_entropy_grad(
                logits.detach().numpy(), labels.numpy(), ignore_index=-100
            )
            ctx.save_for_backward(logits, labels, torch.from_numpy(grad))
            return logits.new_tensor(loss)

        @staticmethod
        def backward(ctx, above):
            return above * Gradient.apply(*ctx.saved_tensors), None

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, labels, grad):
            ctx.save_for_backward(logits, labels)
            return grad

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, vector):
            logits, labels = ctx.saved_tensors
            product = xent_fast.softmax_cross_entropy_hvp(
                logits.detach().numpy(), labels.numpy(), vector.numpy(), ignore_index=-100
            )
            return torch.from_numpy(product), None, None

    return lambda logits, labels: Loss.apply(logits, labels)


def jax_itself() -> Callable:
    import optax

    return lambda x, labels: optax.softmax_cross_entropy_with_integer_labels(x, labels)


def jax_by_module() -> Callable:
    from xent_fast.jax import softmax_cross_entropy_with_integer_labels as loss

    return lambda logits, labels: loss(logits, labels)


def jax_by_hand() -> Callable:
    """The first derivative alone; a second one is an error."""
    import jax
    import numpy as np

    import xent_fast

    def on_host(logits, labels):
        return tuple(
            xent_fast.softmax_cross_entropy_grad(
                np.asarray(logits), np.asarray(labels), reduction="none"
            )
        )

    def both(logits, labels):
        shapes = [jax.ShapeDtypeStruct(s, logits.dtype) for s in (labels.shape, logits.shape)]
        return jax.pure_callback(on_host, tuple(shapes), logits, labels)

    loss = jax.custom_vjp(lambda logits, labels: both(logits, labels)[0])
    loss.defvjp(both, lambda grad, above: (above[..., None] * grad, None))
    return lambda logits, labels: loss(logits, labels)


def jax_on_host_by_module() -> Callable:
    from xent_fast.jax import value_and_grad_on_host

    return lambda logits, labels: value_and_grad_on_host(logits, labels)


def jax_on_host_by_hand() -> Callable:
    import jax.numpy as jnp

    import xent_fast

    def loss(logits, labels):
        loss, grad = xent_fast.softmax_cross_entropy_grad(logits, labels)
        return loss, jnp.asarray(grad)

    return lambda logits, labels: loss(logits, labels)


def autograd_itself() -> Callable:
    import autograd.numpy as anp
    from autograd.scipy.special import logsumexp

    def loss(logits, labels):
        return anp.mean(logsumexp(logits, axis=1) - logits[anp.arange(len(labels)), labels])

    return lambda logits, labels: loss(logits, labels)


def autograd_by_module() -> Callable:
    from xent_fast.autograd import softmax_cross_entropy

    return lambda logits, labels: softmax_cross_entropy(logits, labels)


def autograd_by_hand() -> Callable:
    """A derivative there sees arguments and result alone: the gradient travels in a dictionary."""
    from autograd.extend import defvjp, primitive

    import xent_fast

    @primitive
    def loss(logits, labels, kept):
        value, kept["grad"] = xent_fast.softmax_cross_entropy_grad(logits, labels)
        return value

    @primitive
    def gradient(logits, labels, kept):
        if kept:
            return kept.pop("grad")
        return xent_fast.softmax_cross_entropy_grad(logits, labels).grad

    @primitive
    def product(vector, logits, labels):
        return xent_fast.softmax_cross_entropy_hvp(logits, labels, vector)

    defvjp(
        loss,
        lambda ans, logits, labels, kept: lambda above: above * gradient(logits, labels, kept),
        argnums=(0,),
    )
    defvjp(
        gradient,
        lambda ans, logits, labels, kept: lambda vector: product(vector, logits, labels),
        argnums=(0,),
    )
    return lambda logits, labels: loss(logits, labels, {})


def mygrad_itself() -> Callable:
    from mygrad.nnet import softmax_crossentropy

    return lambda logits, labels: softmax_crossentropy(logits, labels)


def mygrad_by_module() -> Callable:
    from xent_fast.mygrad import softmax_cross_entropy

    return lambda logits, labels: softmax_cross_entropy(logits, labels)


def mygrad_by_hand() -> Callable:
    import mygrad
    import numpy as np
    from mygrad.operation_base import Operation

    import xent_fast

    class Loss(Operation):
        def __call__(self, logits, labels):
            self.variables = (logits,)
            loss, self.grad = xent_fast.softmax_cross_entropy_grad(logits.data, labels)
            return np.asarray(loss)

        def backward_var(self, above, index, **_):
            return above * self.grad

    return lambda logits, labels: mygrad.execute_op(Loss, logits, op_args=(labels,))
