"""The loss and its gradient: signatures, documentation, and one call each into the binding.

Compiled, because finding a dozen defaults takes Python as long as a small batch takes the kernels.

Knows: what a caller may ask for. Must not know: mathematics, memory layouts, threads.
"""

from xent_fast import _passes

from xent_fast._binding.engine cimport (
    xent_float_mode,
    xent_restore_mode,
    xent_use_default_mode,
)
from xent_fast._binding.loss_calls cimport compute
from xent_fast._binding.options cimport Options, read_options


def softmax_cross_entropy(
    logits, targets, *, axis=-1, weight=None, sample_weight=None, ignore_index=None,
    label_smoothing=0.0, temperature=1.0, z_loss=0.0, reduction="mean", scale=1.0,
    return_statistics=False, num_threads=None
):
    r"""Cross-entropy between targets and the softmax of logits.

    A row of logits, divided by the temperature, is :math:`x`; its targets :math:`t` are one number
    a class (for a class index :math:`y`: 1 at :math:`y` and 0 elsewhere). With class weights
    :math:`w`, label smoothing :math:`\varepsilon` among :math:`C` classes and z-loss :math:`z`,

    .. math::

        \begin{gathered}
        \mathrm{lse} = \log \sum_k e^{x_k} \\
        q_c = w_c \bigl((1 - \varepsilon) t_c + \varepsilon / C\bigr) \\
        \mathrm{loss} = a \Bigl(\sum_c q_c (\mathrm{lse} - x_c) + z\, \mathrm{lse}^2\Bigr)
        \end{gathered}

    in nats, where :math:`a` is the row's weight: ``scale``, times its ``sample_weight`` if given,
    divided for ``reduction="mean"`` by the sum described there.

    Parameters
    ----------
    logits : array_like with a class axis, float16, bfloat16, float32 or float64
        Scores of the classes, one row a sample: a larger score means a more likely class. They need
        not be positive or sum to anything (unnormalised log-probabilities, in nats). Any memory
        layout will do. Computed in their own precision, those of 16 bits in float32. A row is what
        lies along the class axis; one-dimensional logits are one row. For a binary loss of one
        number x a row, give two logits, [0, x].
    targets : array_like
        Either class indices, integers of the logits' shape without the class axis, or dense
        targets, numbers of the logits' shape, which need not sum to 1 and are converted to what
        the logits are computed in. Integers and booleans do as dense targets, as one-hot arrays
        often hold, where the logits have two dimensions or more.
    axis : int, default -1
        The class axis. Logits are copied only where their classes lie neither side by side nor
        some distance apart with at least eight rows side by side, as in (N, C, H, W).
    weight : array_like of shape (classes,), optional
        Real numbers that multiply the targets of each class; converted to what the logits are
        computed in. Negative ones are refused for class indices with ``reduction="mean"``.
    sample_weight : array_like of the logits' shape without the class axis, optional
        Real numbers that multiply each row's loss. ``reduction="mean"`` divides by their sum and
        refuses negative ones. For the advantages of policy gradients use
        ``reduction="sum", scale=1 / rows``, which takes them as given. The weight 0 does not hide a
        NaN among a row's logits, as 0 * NaN is NaN; `ignore_index` does.
    ignore_index : int, optional
        Rows whose class index equals this number do not count, whatever their logits hold: their
        loss is 0, and the mean leaves them out. The number need not be a class. By default no row
        is ignored.
    label_smoothing : float in [0, 1], default 0.0
        The share of the targets that is spread evenly over all classes.
    temperature : float, default 1.0
        Finite and at least 2^-124; the logits are divided by it first.
    z_loss : float, default 0.0
        Weight of the squared logarithm of the sum of exponentials, which keeps logits from
        drifting: the auxiliary loss of the PaLM report, Chowdhery et al. 2022.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"sum"`` adds the losses of all rows. ``"mean"`` divides that sum: for class indices by
        the sum of ``sample_weight * weight[target]`` over the rows that are not ignored, which is
        their number without weights; for dense targets by the number of rows or, if given, the sum
        of their sample weights. ``"none"`` returns one loss a row.
    scale : float, default 1.0
        Multiplies the loss.
    return_statistics : bool or names, default False
        Whether to return, from the same pass, every row's lse and predicted class. Or the names of
        statistics, fields of `ChosenStatistics`: ``("entropy", "target_log_probability")``. Either
        of these two takes another pass over the logits, and ``"entropy"`` one more.
    num_threads : int, optional
        At least 1; more than there is work for are not used. By default as many as
        ``OMP_NUM_THREADS``, threadpoolctl and the processors at hand allow, and one for small
        inputs. The result does not depend on it. In a forked child there is always one.
        In a training loop leave it out; pass 1 beside other busy threads or programs.

    Returns
    -------
    loss : float or ndarray of the logits' shape without the class axis
        In nats. A float for ``"mean"`` and ``"sum"``: the rows' losses are added in double, each
        with the digits that ``"none"`` gives it or more. For ``"none"`` an array of the logits'
        dtype, or of float32 where that has 16 bits.
    statistics : RowStatistics, or ChosenStatistics for names
        Only if `return_statistics`; then both come as a `LossAndStatistics` or a
        `LossAndChosenStatistics`. Its numbers are in nats.

    Raises
    ------
    IndexError
        If a class index is neither in [0, classes) nor `ignore_index`.
    TypeError
        If an argument has the wrong type or dtype: logits that are no floats of 16, 32 or 64
        bits, class indices that are not integers, dense targets that are no real numbers, a masked
        array.
    ValueError
        If shapes do not fit together, the logits have rows but no class, `ignore_index` is given
        with dense targets, a weight that ``reduction="mean"`` would divide by is negative,
        `label_smoothing` or `temperature` is out of its range, `z_loss` is NaN, `reduction` or a
        name of a statistic is unknown or `num_threads` below 1.
    numpy.exceptions.AxisError
        If `axis` is out of range.
    MemoryError
        If a copy or a workspace cannot be allocated.

    See Also
    --------
    softmax_cross_entropy_grad : The loss and its gradient.
    cross_entropy : The loss of probabilities as given.

    Notes
    -----
    A logit of -inf has probability 0; the loss is +inf if its target is positive. A row with a NaN,
    a +inf or nothing but -inf has the loss NaN and leaves the other rows alone. The mean over
    nothing (no rows, all rows ignored, weights that sum to 0) is NaN.

    With :math:`R = \sum_{k \ne y} e^{x_k - x_y}` the loss of a class index is computed as
    :math:`\log(1 + R)`, not as a difference, so that a small one keeps its relative accuracy.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 6.2.2.3. MIT Press, 2016.
    .. [2] C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna. Rethinking the Inception
       architecture for computer vision. CVPR 2016, section 7: label smoothing.
    .. [3] A. Chowdhery et al. PaLM: scaling language modeling with pathways. 2022, section 5: the
       z-loss. arXiv:2204.02311.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy
    >>> logits, labels = np.log([[1.0, 2.0, 1.0], [1.0, 1.0, 8.0]]), np.array([0, 2])
    >>> round(softmax_cross_entropy(logits, labels), 6)  # (log 4 + log 1.25) / 2
    0.804719
    >>> softmax_cross_entropy(logits, labels, label_smoothing=0.3, reduction="none").round(6)
    array([1.31698 , 0.639032])
    >>> loss, rows = softmax_cross_entropy(logits, labels, return_statistics=True)
    >>> rows.prediction, rows.is_correct
    (array([1, 2]), array([False,  True]))
    """
    if not isinstance(return_statistics, bool):
        return _passes.loss(
            softmax_cross_entropy, logits, targets, return_statistics, axis=axis, weight=weight,
            sample_weight=sample_weight, ignore_index=ignore_index,
            label_smoothing=label_smoothing, temperature=temperature, z_loss=z_loss,
            reduction=reduction, scale=scale, num_threads=num_threads
        )
    return compute_loss(
        False, logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing,
        temperature, z_loss, reduction, scale, return_statistics, num_threads, None, None
    )


def softmax_cross_entropy_grad(
    logits, targets, *, axis=-1, weight=None, sample_weight=None, ignore_index=None,
    label_smoothing=0.0, temperature=1.0, z_loss=0.0, reduction="mean", scale=1.0,
    return_statistics=False, num_threads=None, grad_output=None, out=None
):
    r"""Cross-entropy between targets and the softmax of logits, and its gradient.

    With the symbols of `softmax_cross_entropy`, the row's softmax :math:`p` and the temperature
    :math:`T`, the gradient of the row losses' sum with respect to the logits as given is

    .. math:: \frac{a}{T} \Bigl(\bigl(\sum_k q_k + 2 z\, \mathrm{lse}\bigr) p_c - q_c\Bigr)

    which is :math:`a (p - t)` without options, for class indices and for targets that sum to 1.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, temperature
        As for `softmax_cross_entropy`.
    z_loss, reduction, return_statistics, num_threads
        As for `softmax_cross_entropy`.
    scale : float, default 1.0
        Multiplies loss and gradient, as a loss scale or 1 / (number of accumulated batches) does.
    grad_output : float, or array_like of the logits' shape without the class axis, optional
        Derivative of a later loss with respect to this one, as a backward pass has it: it
        multiplies the gradient alone, in the same pass. One number a row only with
        ``reduction="none"``.
    out : ndarray of the logits' shape, optional
        Where the gradient is written: `logits` themselves, or an array of their shape and dtype, or
        of float32 for logits of 16 bits, that shares no memory with them. The logits must then be
        an ndarray. By default a new array. No other input is ever written to.

    Returns
    -------
    loss : float or ndarray of the logits' shape without the class axis
        As for `softmax_cross_entropy`.
    grad : ndarray of the logits' shape
        How fast the loss grows with each logit, in nats per unit of it. Of the logits' dtype; `out`
        if it was given. Numbers of 16 bits are rounded once; small gradients of float16 become 0
        unless `scale` is large. For ``reduction="none"`` each row holds the gradient of its own
        loss.
    statistics : RowStatistics, or ChosenStatistics for names
        Only if `return_statistics`; then all come as a `LossGradAndStatistics` or a
        `LossGradAndChosenStatistics`.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError, numpy.exceptions.AxisError
        As for `softmax_cross_entropy`; also TypeError if `out` is not an ndarray of the logits'
        dtype, and ValueError if it has another shape, is read-only, overlaps itself, overlaps the
        logits without being the same array, or shares memory with `targets`, or if `grad_output`
        has another shape. After any exception `out` holds what it held before.

    See Also
    --------
    softmax_cross_entropy : The loss alone.
    softmax_loss : The same with fewer options, as courses write it.

    Notes
    -----
    The gradient of an ignored row is exactly 0, even where its logits are NaN. Where the loss is
    NaN because the mean would divide by 0, the whole gradient is exactly 0. A row with a NaN, a
    +inf or nothing but -inf has a gradient of NaN throughout. For a row whose loss is +inf the
    gradient stays finite.

    The gradient of a row's target is computed as :math:`-R / (1 + R)` with :math:`R` as for
    `softmax_cross_entropy`, so that it keeps its relative accuracy where :math:`p` is close to 1.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville. Deep Learning, section 6.2.2.3. MIT Press, 2016. That
    the gradient is :math:`p - t` is in J. S. Bridle. Probabilistic interpretation of feedforward
    classification network outputs. Neurocomputing, NATO ASI Series 68 (1990).

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_cross_entropy_grad
    >>> logits = np.zeros((2, 4))
    >>> loss, grad = softmax_cross_entropy_grad(logits, np.array([0, 3]), out=logits)
    >>> grad
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    >>> grad is logits
    True
    """
    if not isinstance(return_statistics, bool):
        return _passes.loss_and_grad(
            softmax_cross_entropy, softmax_cross_entropy_grad, logits, targets, return_statistics,
            grad_output, out, axis=axis, weight=weight, sample_weight=sample_weight,
            ignore_index=ignore_index, label_smoothing=label_smoothing, temperature=temperature,
            z_loss=z_loss, reduction=reduction, scale=scale, num_threads=num_threads
        )
    return compute_loss(
        True, logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing,
        temperature, z_loss, reduction, scale, return_statistics, num_threads, grad_output, out
    )


def softmax_loss(x, y):
    r"""Mean softmax loss over a batch and its gradient, under the names that courses use.

    With the softmax :math:`p` of a row of :math:`x`, :math:`N` rows and class indices :math:`y`,

    .. math::

        \mathrm{loss} = -\frac{1}{N} \sum_n \log p_{n, y_n} \qquad
        \mathrm{dx}_{nc} = \frac{1}{N} \bigl(p_{nc} - [c = y_n]\bigr)

    Parameters
    ----------
    x : array_like of shape (rows, classes), float16, bfloat16, float32 or float64
        Scores of the classes, in nats, one row a sample. Any other shape with the classes last does
        as well.
    y : array_like of shape (rows,)
        Class indices. Dense targets of the shape of `x` are taken as well.

    Returns
    -------
    loss : float
        Mean loss over the batch, in nats.
    dx : ndarray of shape (rows, classes)
        Gradient of the loss with respect to `x`, in nats per unit of score: a new array. It is
        the field ``grad`` of the tuple.

    Raises
    ------
    IndexError, TypeError, ValueError, MemoryError
        As for `softmax_cross_entropy_grad`; what is wrong with `x` is said of logits there, and of
        `y` of targets.

    See Also
    --------
    softmax_cross_entropy_grad : The same with every option; this is
        ``softmax_cross_entropy_grad(x, y)``.

    Notes
    -----
    A mean over no row is NaN.

    References
    ----------
    A. Karpathy. CS231n: Convolutional neural networks for visual recognition, notes on linear
    classification. Stanford University.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_fast import softmax_loss
    >>> loss, dx = softmax_loss(np.zeros((2, 4)), np.array([0, 3]))
    >>> round(loss, 6)
    1.386294
    >>> dx
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """
    return compute_loss(
        True, x, y, -1, None, None, None, 0.0, 1.0, 0.0, "mean", 1.0, False, None, None, None
    )


cdef object compute_loss(
    bint with_grad, object logits, object targets, object axis, object weight,
    object sample_weight, object ignore_index, object label_smoothing, object temperature,
    object z_loss, object reduction, object scale, object return_statistics, object num_threads,
    object grad_output, object out
):
    """The loss, with its gradient or alone, in the default float mode."""
    cdef Options options
    cdef xent_float_mode mode = xent_use_default_mode()
    try:
        read_options(
            &options, label_smoothing, temperature, z_loss, reduction, scale, return_statistics,
            num_threads
        )
        options.with_grad = with_grad
        return compute(
            &options, logits, targets, axis, weight, sample_weight, ignore_index, grad_output, out
        )
    finally:
        xent_restore_mode(mode)
