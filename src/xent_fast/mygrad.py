"""The loss for MyGrad: loss and gradient from one pass.

Knows: MyGrad's operations. Must not know: the core beyond its public names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_fast._extras import needed_by, refuse_outputs
from xent_fast._loss import softmax_cross_entropy as _loss
from xent_fast._loss import softmax_cross_entropy_grad as _loss_and_grad

with needed_by("xent_fast.mygrad", "mygrad"):
    import mygrad
    from mygrad._utils import graph_tracking
    from mygrad.operation_base import Operation

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(
    logits: Any, targets: Any, *, constant: bool | None = None, **options: Any
) -> Any:
    """`xent_fast.softmax_cross_entropy` of a tensor, with a backward pass.

    Parameters
    ----------
    logits : Tensor or array_like with a class axis, float32 or float64
        In nats.
    targets : array_like
        Class indices, or dense targets, which are constants.
    constant : bool, optional
        If True the result has no backward pass, as in MyGrad's own functions.
    **options : Any
        Options of `xent_fast.softmax_cross_entropy`, but not ``return_statistics``. They are
        constants too.

    Returns
    -------
    Tensor
        The loss, or for ``reduction="none"`` one a row.

    Raises
    ------
    IndexError, TypeError, ValueError
        As there; TypeError also for targets or an option that is a tensor which needs a gradient.

    See Also
    --------
    xent_fast.softmax_cross_entropy : The options.

    Notes
    -----
    MyGrad has no second derivatives.

    Examples
    --------
    >>> import mygrad
    >>> import numpy as np
    >>> from xent_fast.mygrad import softmax_cross_entropy
    >>> logits = mygrad.tensor(np.zeros((2, 4)))
    >>> softmax_cross_entropy(logits, np.array([0, 3])).backward()
    >>> logits.grad[0]
    array([-0.375,  0.125,  0.125,  0.125])
    """
    refuse_outputs(options, "softmax_cross_entropy")
    if graph_tracking.TRACK_GRAPH and not constant:
        for name, value in {"targets": targets, **options}.items():
            if isinstance(value, mygrad.Tensor) and not value.constant:
                raise TypeError(
                    f"{name} is a tensor that needs a gradient, and the loss has none by it: pass "
                    "its .data, or make it with constant=True"
                )
    targets = targets.data if isinstance(targets, mygrad.Tensor) else targets
    return mygrad.Tensor._op(
        _SoftmaxCrossEntropy, logits, op_args=(targets, options, constant), constant=constant
    )


class _SoftmaxCrossEntropy(Operation):
    """The gradient is made with the loss, and handed over by the first backward pass."""

    def __call__(
        self, logits: Any, targets: Any, options: dict[str, Any], constant: bool | None
    ) -> Any:
        self.variables = (logits,)
        self.call = (logits.data, targets, options)
        if constant or logits.constant or not graph_tracking.TRACK_GRAPH:
            return np.asarray(_loss(logits.data, targets, **options))
        loss, self.grad = _loss_and_grad(logits.data, targets, **options)
        return np.asarray(loss)

    def backward_var(self, grad: Any, index: int, **_: Any) -> Any:
        logits, targets, options = self.call
        own, self.grad = self.grad, None
        if own is None:
            own = _loss_and_grad(logits, targets, **options).grad
        if np.ndim(grad):
            own *= np.expand_dims(grad, options.get("axis", -1))
        elif grad != 1:
            own *= grad
        return own
