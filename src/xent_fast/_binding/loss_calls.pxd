"""The one call of the losses that other modules make; meanings stand in `loss_calls.pyx`.

Knows: the arguments' order. Must not know: what is done with them.
"""


cpdef object compute_loss(
    bint with_grad,
    object logits,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object label_smoothing,
    object temperature,
    object z_loss,
    object reduction,
    object scale,
    object return_statistics,
    object num_threads,
    object grad_output,
    object out,
)
