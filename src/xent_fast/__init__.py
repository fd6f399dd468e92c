"""Fast and accurate softmax cross-entropy, loss and gradient, for NumPy on a CPU.

Public names, nothing else.
"""

from xent_fast._backward import log_softmax_vjp, softmax_vjp
from xent_fast._config import __version__, show_config
from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad, softmax_loss
from xent_fast._probabilities import cross_entropy, cross_entropy_grad
from xent_fast._result import LossAndGrad

__all__ = [
    "LossAndGrad",
    "__version__",
    "cross_entropy",
    "cross_entropy_grad",
    "log_softmax_vjp",
    "show_config",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "softmax_loss",
    "softmax_vjp",
]
