"""Fast and accurate softmax cross-entropy, loss and gradient, for NumPy on a CPU.

Public names, nothing else.
"""

from xent_fast import _loading  # noqa: F401  before any other module asks for the extension
from xent_fast._backward import log_softmax_vjp, softmax_vjp
from xent_fast._config import __version__, show_config
from xent_fast._distillation import distillation_loss_grad
from xent_fast._linear import (
    linear_softmax_cross_entropy,
    linear_softmax_cross_entropy_grad,
)
from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad, softmax_loss
from xent_fast._probabilities import cross_entropy, cross_entropy_grad
from xent_fast._result import (
    LinearLossAndGrad,
    LossAndGrad,
    LossAndStatistics,
    LossGradAndHessian,
    LossGradAndStatistics,
    RowStatistics,
    SampledLossAndGrad,
)
from xent_fast._sampled import sampled_softmax_loss_grad
from xent_fast._second_order import (
    softmax_cross_entropy_grad_hessian,
    softmax_cross_entropy_hessian_diagonal,
    softmax_cross_entropy_hvp,
)
from xent_fast._softmax import log_softmax, logsumexp, softmax

__all__ = [
    "LinearLossAndGrad",
    "LossAndGrad",
    "LossAndStatistics",
    "LossGradAndHessian",
    "LossGradAndStatistics",
    "RowStatistics",
    "SampledLossAndGrad",
    "__version__",
    "cross_entropy",
    "cross_entropy_grad",
    "distillation_loss_grad",
    "linear_softmax_cross_entropy",
    "linear_softmax_cross_entropy_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "sampled_softmax_loss_grad",
    "show_config",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "softmax_cross_entropy_grad_hessian",
    "softmax_cross_entropy_hessian_diagonal",
    "softmax_cross_entropy_hvp",
    "softmax_loss",
    "softmax_vjp",
]
