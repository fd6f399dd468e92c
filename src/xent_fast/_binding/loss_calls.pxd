"""The one call of the losses that other modules make; meanings stand in `loss_calls.pyx`.

Knows: the arrays' order. Must not know: what is done with them.
"""

from xent_fast._binding.options cimport Options


cdef object compute(
    const Options *options,
    object logits,
    object targets,
    object axis,
    object weight,
    object sample_weight,
    object ignore_index,
    object grad_output,
    object out,
)
