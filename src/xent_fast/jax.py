"""The loss for JAX, on a CPU: optax's functions, and one for loops that leave jit at the loss.

Under jit XLA calls the C entry points with its own buffers or, where no C compiler is at hand and
for classes that do not lie on the last axis, back into this process. The loss and its gradient
p Q - y come from one pass. The derivative of that gradient, along v,

    Q p (v - sum p v)

is written in JAX, so that every order exists, forward and backward, and inside vmap.

Knows: JAX's transformations. Must not know: the core beyond its public names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from xent_fast._extras import needed_by, refuse_outputs
from xent_fast._loss import softmax_cross_entropy as _loss
from xent_fast._loss import softmax_cross_entropy_grad as _loss_and_grad

with needed_by("xent_fast.jax", "jax"):
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero
    from jax.experimental.buffer_callback import buffer_callback

    from xent_fast import _xla

__all__ = [
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "value_and_grad_on_host",
]

# XLA takes an array of NumPy's as it lies only where it begins at a multiple of this.
_ALIGNMENT = 64


def softmax_cross_entropy_with_integer_labels(
    logits: jax.Array, labels: jax.Array, axis: int = -1
) -> jax.Array:
    """`optax.softmax_cross_entropy_with_integer_labels`: one loss a row.

    Parameters
    ----------
    logits : Array with a class axis
        In nats; float32, float64, or bfloat16 and float16, which are read and written as they lie
        and computed in float32.
    labels : Array of integers of the shape of `logits` without the class axis
        Class indices in [0, classes).
    axis : int, default -1
        The class axis.

    Returns
    -------
    Array of the shape of `labels`
        Losses in nats, of the dtype of `logits`.

    Raises
    ------
    TypeError
        If the labels are not integers or the logits not floating-point.
    ValueError
        If the shapes do not fit together.
    jax.errors.JaxRuntimeError
        If a label is out of range; the text is that of an IndexError.

    See Also
    --------
    softmax_cross_entropy : The same of dense targets.
    value_and_grad_on_host : Faster, outside jit.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from xent_fast.jax import softmax_cross_entropy_with_integer_labels
    >>> def loss(logits, labels):
    ...     return softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    >>> grad = jax.jit(jax.grad(loss))(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> [round(float(x), 3) for x in grad[0]]
    [-0.375, 0.125, 0.125, 0.125]
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, not {labels.dtype}")
    axis = _negative_axis(logits, axis)
    expected = _without_axis(logits.shape, axis)
    if labels.shape != expected:
        raise ValueError(f"labels must have shape {expected}, not {labels.shape}")
    return _losses(logits, labels, axis)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, axis: int = -1) -> jax.Array:
    """`optax.softmax_cross_entropy`: one loss a row, of targets with one number a class.

    Parameters
    ----------
    logits : Array with a class axis
        As for `softmax_cross_entropy_with_integer_labels`.
    labels : Array of the shape of `logits`
        Probabilities, or any numbers; they need not sum to 1. Converted to the dtype of `logits`.
    axis : int, default -1
        The class axis.

    Returns
    -------
    Array of the shape of `logits` without the class axis
        Losses in nats, of the dtype of `logits`. They have derivatives with respect to both
        arguments.

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy_with_integer_labels`.

    See Also
    --------
    softmax_cross_entropy_with_integer_labels : The same of class indices.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from xent_fast.jax import softmax_cross_entropy
    >>> softmax_cross_entropy(jnp.zeros((2, 4)), jnp.full((2, 4), 0.25)).round(3).tolist()
    [1.3860000371932983, 1.3860000371932983]
    """
    logits = jnp.asarray(logits)
    axis = _negative_axis(logits, axis)
    labels = jnp.asarray(labels).astype(logits.dtype)
    if labels.shape != logits.shape:
        raise ValueError(f"labels must have shape {logits.shape}, not {labels.shape}")
    return _losses(logits, labels, axis)


def value_and_grad_on_host(
    logits: jax.Array, labels: jax.Array, **options: Any
) -> tuple[Any, jax.Array]:
    """Loss and gradient of arrays that exist: between two jitted functions, not inside one.

    Parameters
    ----------
    logits : Array with a class axis
        Read where it lies, without a copy: float32, float64, bfloat16 or float16.
    labels : Array
        Class indices or dense targets, as for `xent_fast.softmax_cross_entropy_grad`.
    **options : Any
        Further options of `xent_fast.softmax_cross_entropy_grad`, but neither ``out`` nor
        ``return_statistics``.

    Returns
    -------
    loss : float or ndarray
        As there: a float for ``"mean"``, which is the default, and ``"sum"``.
    grad : Array of the shape and dtype of `logits`
        Gradient with respect to `logits`.

    Raises
    ------
    TypeError
        If it is called inside jit, grad or vmap, or with an option that it does not take.
    IndexError, TypeError, ValueError
        As `xent_fast.softmax_cross_entropy_grad`.

    See Also
    --------
    softmax_cross_entropy_with_integer_labels : For use inside jit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from xent_fast.jax import value_and_grad_on_host
    >>> loss, grad = value_and_grad_on_host(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> round(loss, 4), grad[0].tolist()
    (1.3863, [-0.375, 0.125, 0.125, 0.125])
    """
    refuse_outputs(options, "value_and_grad_on_host")
    if isinstance(logits, jax.core.Tracer) or isinstance(labels, jax.core.Tracer):
        raise TypeError(
            "value_and_grad_on_host takes arrays that exist and was called inside jit, grad or "
            "vmap: there take softmax_cross_entropy_with_integer_labels"
        )
    array = np.asarray(_at_least_16_bits(logits))
    grad = _aligned_like(array)
    loss, _ = _loss_and_grad(array, np.asarray(labels), **options, out=grad)
    return loss, _like(jax.device_put(grad, may_alias=True), logits)


# --- the call and its derivatives -----------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _losses(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    x = _at_least_16_bits(logits)
    labels = _as_computed(labels, x)
    if _is_for_xla(axis):
        losses = _xla.losses(x, labels)
    else:
        rows = jax.ShapeDtypeStruct(_without_axis(x.shape, axis), _xla.computed_type(x))
        call = buffer_callback(partial(_write_losses, axis), rows, vmap_method="broadcast_all")
        losses = call(x, labels)
    return losses.astype(logits.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _losses_and_grads(
    logits: jax.Array, labels: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    x = _at_least_16_bits(logits)
    labels = _as_computed(labels, x)
    if _is_for_xla(axis):
        losses, grads = _xla.losses_and_grads(x, labels)
    else:
        rows = jax.ShapeDtypeStruct(_without_axis(x.shape, axis), _xla.computed_type(x))
        results = (rows, jax.ShapeDtypeStruct(x.shape, x.dtype))
        call = buffer_callback(partial(_write_both, axis), results, vmap_method="broadcast_all")
        losses, grads = call(x, labels)
    return losses.astype(logits.dtype), grads.astype(logits.dtype)


def _losses_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    losses, grads = _losses_and_grads(*primals, axis)
    return losses, _along(losses, grads, axis, primals[0], tangents)


def _losses_and_grads_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    logits, labels = primals
    losses, grads = _losses_and_grads(logits, labels, axis)
    p, change = jax.nn.softmax(logits, axis), jnp.zeros_like(grads)
    if not _is_zero(tangents[0]):
        v = tangents[0]
        mass = labels.sum(axis, keepdims=True) if _is_dense(labels) else 1
        change += mass * p * (v - (p * v).sum(axis, keepdims=True))
    if not _is_zero(tangents[1]):
        v = tangents[1]
        change += p * v.sum(axis, keepdims=True) - v
    return (losses, grads), (_along(losses, grads, axis, logits, tangents), change)


def _along(
    losses: jax.Array, grads: jax.Array, axis: int, logits: jax.Array, tangents: Any
) -> jax.Array:
    """The losses' change along a direction of logits and dense labels."""
    change = jnp.zeros_like(losses)
    if not _is_zero(tangents[0]):
        change += (grads * tangents[0]).sum(axis)
    if not _is_zero(tangents[1]):
        change -= (jax.nn.log_softmax(logits, axis) * tangents[1]).sum(axis)
    return change


_losses.defjvp(_losses_jvp, symbolic_zeros=True)
_losses_and_grads.defjvp(_losses_and_grads_jvp, symbolic_zeros=True)


def _is_for_xla(axis: int) -> bool:
    """Whether XLA itself calls the loss; it hands over rows of classes that lie side by side."""
    return axis == -1 and _xla.is_available()


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0


# --- in this process ------------------------------------------------------------------------------


def _write_losses(axis: int, _: Any, losses: Any, logits: Any, labels: Any) -> None:
    np.asarray(losses)[...] = _loss(
        np.asarray(logits), np.asarray(labels), axis=axis, reduction="none"
    )


def _write_both(axis: int, _: Any, results: Any, logits: Any, labels: Any) -> None:
    losses, grads = map(np.asarray, results)
    losses[...], _ = _loss_and_grad(
        np.asarray(logits), np.asarray(labels), axis=axis, reduction="none", out=grads
    )


# --- shapes and dtypes ----------------------------------------------------------------------------


def _negative_axis(logits: jax.Array, axis: int) -> int:
    """The axis from the end, so that vmap may put others before."""
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating-point, not {logits.dtype}")
    if not -logits.ndim <= axis < logits.ndim:
        raise ValueError(f"axis {axis} is out of bounds for logits of shape {logits.shape}")
    return axis - logits.ndim if axis >= 0 else axis


def _without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _is_dense(labels: jax.Array) -> bool:
    return jnp.issubdtype(labels.dtype, jnp.floating)


def _at_least_16_bits(logits: jax.Array) -> jax.Array:
    """What the core takes; fewer bits are widened."""
    return logits.astype(jnp.float32) if logits.dtype.itemsize < 2 else logits


def _like(result: jax.Array, logits: jax.Array) -> jax.Array:
    return result if result.dtype == logits.dtype else result.astype(logits.dtype)


def _as_computed(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Dense labels of the logits' dtype, class indices of 32 or 64 bits."""
    if _is_dense(labels):
        return labels.astype(logits.dtype)
    if labels.dtype in (jnp.int32, jnp.int64):
        return labels
    is_wide = labels.dtype.itemsize >= 4 and jax.config.jax_enable_x64  # unsigned ones
    return labels.astype(jnp.int64 if is_wide else jnp.int32)


def _aligned_like(array: np.ndarray) -> np.ndarray:
    """An array that XLA takes without a copy."""
    buffer = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    skipped = -buffer.ctypes.data % _ALIGNMENT
    return buffer[skipped : skipped + array.nbytes].view(array.dtype).reshape(array.shape)
