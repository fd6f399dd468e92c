"""The loss for Autograd: one pass for loss and gradient, right to the second order.

A derivative in Autograd is a function of a call's arguments and result. The gradient travels from
the pass that makes it to the first who asks for it in an argument that nothing differentiates;
whoever asks again has it computed again.

Knows: Autograd's primitives. Must not know: the core beyond its public names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_fast._extras import needed_by, refuse_outputs
from xent_fast._loss import softmax_cross_entropy_grad as _loss_and_grad
from xent_fast._second_order import softmax_cross_entropy_hvp as _hvp

with needed_by("xent_fast.autograd", "autograd"):
    import autograd.numpy as anp
    from autograd.extend import defjvp, defvjp, primitive

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(logits: Any, targets: Any, **options: Any) -> Any:
    """`xent_fast.softmax_cross_entropy` that Autograd can differentiate, twice.

    Parameters
    ----------
    logits : ndarray with a class axis, float32 or float64
        In nats. What the loss is differentiated by.
    targets : ndarray
        Class indices, or dense targets, which are constants.
    **options : Any
        Options of `xent_fast.softmax_cross_entropy`, but not ``return_statistics``. They are
        constants too.

    Returns
    -------
    float or ndarray
        As there.

    Raises
    ------
    IndexError, TypeError, ValueError
        As there.
    NotImplementedError
        If a third derivative is asked for, or one by the targets.

    See Also
    --------
    xent_fast.softmax_cross_entropy : The options.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import grad
    >>> from xent_fast.autograd import softmax_cross_entropy
    >>> grad(softmax_cross_entropy)(np.zeros((2, 4)), np.array([0, 3]))
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """
    refuse_outputs(options, "softmax_cross_entropy")
    return _loss(logits, targets, options, {})


@primitive
def _loss(logits: Any, targets: Any, options: dict[str, Any], kept: dict[str, Any]) -> Any:
    loss, kept["grad"] = _loss_and_grad(logits, targets, **options)
    return loss


@primitive
def _gradient(logits: Any, targets: Any, options: dict[str, Any], kept: dict[str, Any]) -> Any:
    grad = kept.pop("grad", None)
    return _loss_and_grad(logits, targets, **options).grad if grad is None else grad


@primitive
def _product(vector: Any, logits: Any, targets: Any, options: dict[str, Any]) -> Any:
    return _hvp(logits, targets, vector, **options)


def _by_row(number: Any, logits: Any, options: dict[str, Any]) -> Any:
    """One number a row, or one for all, beside the logits."""
    if options.get("reduction") == "none":
        return anp.expand_dims(number, options.get("axis", -1))
    return number


def _is_one(number: Any) -> bool:
    return isinstance(number, (float, np.ndarray)) and np.ndim(number) == 0 and number == 1


def _loss_vjp(ans: Any, logits: Any, targets: Any, options: Any, kept: Any) -> Any:
    def vjp(above: Any) -> Any:
        grad = _gradient(logits, targets, options, kept)
        return grad if _is_one(above) else _by_row(above, logits, options) * grad

    return vjp


def _loss_jvp(tangent: Any, ans: Any, logits: Any, targets: Any, options: Any, kept: Any) -> Any:
    product = tangent * _gradient(logits, targets, options, kept)
    axis = options.get("axis", -1) if options.get("reduction") == "none" else None
    return anp.sum(product, axis=axis)


def _gradient_vjp(ans: Any, logits: Any, targets: Any, options: Any, kept: Any) -> Any:
    return lambda vector: _product(vector, logits, targets, options)


def _gradient_jvp(vector: Any, ans: Any, logits: Any, targets: Any, options: Any, kept: Any) -> Any:
    return _product(vector, logits, targets, options)


defvjp(_loss, _loss_vjp, argnums=(0,))
defjvp(_loss, _loss_jvp, argnums=(0,))
defvjp(_gradient, _gradient_vjp, argnums=(0,))
defjvp(_gradient, _gradient_jvp, argnums=(0,))
# The product is linear in the vector, and its matrix symmetric; by the logits it has no derivative.
defvjp(
    _product,
    lambda ans, vector, logits, targets, options: lambda v: _product(v, logits, targets, options),
    argnums=(0,),
)
defjvp(
    _product,
    lambda v, ans, vector, logits, targets, options: _product(v, logits, targets, options),
    argnums=(0,),
)
