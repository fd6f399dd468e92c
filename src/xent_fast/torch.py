"""The loss for PyTorch: `torch.nn.functional.cross_entropy` and its module, on a CPU.

Whatever this module does not compute (other devices, `torch.func`, small inputs, bad arguments) it
hands to PyTorch's own function, so that results, derivatives and errors are PyTorch's there.

Knows: PyTorch's functions and their documentation. Must not know: arrays, autograd, the core.
"""

from __future__ import annotations

from xent_fast._extras import needed_by

with needed_by("xent_fast.torch", "torch"):
    import torch

    from xent_fast._torch import calls
    from xent_fast._torch.layer import LinearLoss, is_known_layer, linear_loss
    from xent_fast._torch.loss import LossWithGradient, loss_op, loss_without_gradient

__all__ = ["CrossEntropyLoss", "cross_entropy", "linear_cross_entropy"]


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
        If `inplace` is asked for and `input` is a leaf of the graph, such as a parameter, or a view
        of one: an optimiser needs its values.
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
    if inplace and input.requires_grad and calls.is_of_a_leaf(input):
        raise ValueError(
            "inplace=True would overwrite input, which is a leaf of the graph (a parameter, or a "
            "tensor with requires_grad=True) or a view of one: take inplace=False"
        )
    if not calls.is_known(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    ):
        return torch.nn.functional.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    if torch.is_autocast_enabled("cpu"):
        input, target, weight = map(calls.as_in_autocast, (input, target, weight))
    options = (reduction, ignore_index, label_smoothing)
    if torch.compiler.is_compiling():
        return loss_op(input, target, weight, *options)
    if not (input.requires_grad and torch.is_grad_enabled()):
        return loss_without_gradient(input, target, weight, *options)
    return LossWithGradient.apply(input, target, weight, options, inplace)


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
    Matrices on a CPU take this way, outside ``torch.compile``, autocast and `torch.func`; those of
    bfloat16 and float16 are computed in float32, and their gradients rounded once. For all others
    the layer is applied, and `cross_entropy` takes its logits. A pass that shall be differentiated
    again goes through PyTorch's own functions, and makes the logits.

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
    if not is_known_layer(layer, target, weight, *options[:3]):
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
        return LinearLoss.apply(*layer, target, weight, options)
    return linear_loss(layer, target, weight, options)
