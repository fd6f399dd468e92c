"""The definition: the public functions in plain float64 NumPy, clear and accurate, not fast.

A row has logits x, a temperature T, and one number q_c a class, its effective mass, made of the
targets t (of a class index y: 1 at y and 0 elsewhere), class weights w, label smoothing E among C
classes, and a row weight a; z is the z-loss:

    q = a w ((1 - E) t + E / C)     Q = sum q
    m = max x     e = exp((x - m) / T)     S = sum e     lse = m / T + log S     p = e / S
    loss = sum q_c (lse - x_c / T) + a z lse^2
    grad = ((Q + 2 a z lse) p - q) / T

Nothing is computed by subtracting nearly equal numbers where that can be helped. With R = S - 1 the
exponentials of all classes but the largest logit's,

    lse = m / T + log1p(R)     lse - x_c / T = (m - x_c) / T + log1p(R)
    Q p_c - q_c = (e_c sum_{k != c} q_k - q_c sum_{k != c} e_k) / S

so that a loss and a gradient stay accurate to a few units in the last place however small they are
(as far as the terms of these sums do not cancel by themselves).

Each function takes the arguments of the public one of its name, which says what they mean; those
that say how (num_threads, chunk_rows, progress) are not used. Results are float64, rounded to
another dtype in an `out` alone. A class index out of bounds is an IndexError; shapes that do not
fit together, or an option outside its domain, are a ValueError.

Knows: which functions there are. Must not know: the compiled module, as nothing here does. Nothing
in the package imports this one.
"""

from xent_fast.reference._classes import (
    class_statistics,
    grad_from_statistics,
    loss_from_statistics,
    merge_class_statistics,
)
from xent_fast.reference._distillation import distillation_loss_grad
from xent_fast.reference._entropy import softmax_entropy, softmax_entropy_grad
from xent_fast.reference._linear import (
    linear_softmax_cross_entropy,
    linear_softmax_cross_entropy_grad,
)
from xent_fast.reference._loss import (
    softmax_cross_entropy,
    softmax_cross_entropy_grad,
    softmax_cross_entropy_grad_targets,
    softmax_loss,
)
from xent_fast.reference._probabilities import cross_entropy, cross_entropy_grad
from xent_fast.reference._sampled import sampled_softmax_loss_grad
from xent_fast.reference._second_order import (
    softmax_cross_entropy_grad_hessian,
    softmax_cross_entropy_hessian_diagonal,
    softmax_cross_entropy_hvp,
)
from xent_fast.reference._softmax import (
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    softmax,
    softmax_jacobian,
    softmax_vjp,
)

__all__ = [
    "class_statistics",
    "cross_entropy",
    "cross_entropy_grad",
    "distillation_loss_grad",
    "grad_from_statistics",
    "linear_softmax_cross_entropy",
    "linear_softmax_cross_entropy_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "loss_from_statistics",
    "merge_class_statistics",
    "sampled_softmax_loss_grad",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "softmax_cross_entropy_grad_hessian",
    "softmax_cross_entropy_grad_targets",
    "softmax_cross_entropy_hessian_diagonal",
    "softmax_cross_entropy_hvp",
    "softmax_entropy",
    "softmax_entropy_grad",
    "softmax_jacobian",
    "softmax_loss",
    "softmax_vjp",
]
