"""Fast and accurate softmax cross-entropy, loss and gradient, for NumPy on a CPU.

    loss, grad = softmax_cross_entropy_grad(logits, labels)

``logits`` are floating-point scores of shape (rows, classes), before any softmax; ``labels``
one class index a row. ``grad`` is the gradient of the mean loss with respect to the logits, as an
array that can be handed to the layer below; ``out=logits`` writes it over the logits.

Losses
    softmax_cross_entropy, softmax_cross_entropy_grad, softmax_loss (the name of many courses),
    linear_softmax_cross_entropy(_grad) for a last layer with many classes,
    sampled_softmax_loss_grad, distillation_loss_grad
Softmax itself
    softmax, log_softmax, logsumexp, and their backward passes softmax_vjp, log_softmax_vjp;
    its entropy, softmax_entropy(_grad)
Second order
    softmax_cross_entropy_hvp, softmax_cross_entropy_hessian_diagonal,
    softmax_cross_entropy_grad_hessian for boosting
By the targets
    softmax_cross_entropy_grad_targets
Of probabilities, not of logits
    cross_entropy, cross_entropy_grad
This installation
    show_config, and ``python -m xent_fast info``, ``bench`` and ``check``; get_include, where the
    header for compiled code lies

Each function's page (``help(xent_fast.softmax)``) has the formula, every argument and an example.
The module `xent_fast.reference` holds the same functions in plain NumPy.
"""

from xent_fast import _loading  # noqa: F401  before any other module asks for the extension
from xent_fast._backward import (
    log_softmax_vjp,
    softmax_cross_entropy_grad_targets,
    softmax_vjp,
)
from xent_fast._class_statistics import ClassStatistics, merge_class_statistics
from xent_fast._classes import class_statistics, grad_from_statistics, loss_from_statistics
from xent_fast._config import __version__, get_include, show_config
from xent_fast._distillation import distillation_loss_grad
from xent_fast._entropy import softmax_entropy, softmax_entropy_grad
from xent_fast._linear import (
    linear_softmax_cross_entropy,
    linear_softmax_cross_entropy_grad,
)
from xent_fast._loss import softmax_cross_entropy, softmax_cross_entropy_grad, softmax_loss
from xent_fast._probabilities import cross_entropy, cross_entropy_grad
from xent_fast._result import (
    ChosenStatistics,
    EntropyAndGrad,
    LinearLossAndGrad,
    LossAndChosenStatistics,
    LossAndGrad,
    LossAndStatistics,
    LossGradAndChosenStatistics,
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
from xent_fast._signatures import hide_annotations
from xent_fast._softmax import log_softmax, logsumexp, softmax

__all__ = [
    "ChosenStatistics",
    "ClassStatistics",
    "EntropyAndGrad",
    "LinearLossAndGrad",
    "LossAndChosenStatistics",
    "LossAndGrad",
    "LossAndStatistics",
    "LossGradAndChosenStatistics",
    "LossGradAndHessian",
    "LossGradAndStatistics",
    "RowStatistics",
    "SampledLossAndGrad",
    "__version__",
    "class_statistics",
    "cross_entropy",
    "cross_entropy_grad",
    "distillation_loss_grad",
    "get_include",
    "grad_from_statistics",
    "linear_softmax_cross_entropy",
    "linear_softmax_cross_entropy_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "loss_from_statistics",
    "merge_class_statistics",
    "sampled_softmax_loss_grad",
    "show_config",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_grad",
    "softmax_cross_entropy_grad_hessian",
    "softmax_cross_entropy_grad_targets",
    "softmax_cross_entropy_hessian_diagonal",
    "softmax_cross_entropy_hvp",
    "softmax_entropy",
    "softmax_entropy_grad",
    "softmax_loss",
    "softmax_vjp",
]

hide_annotations(globals()[name] for name in __all__)
