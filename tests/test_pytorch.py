"""Loss and gradients against PyTorch in float64, over the product of options and dimensions.

Knows which option of PyTorch means what here, and where the two differ on purpose.
Must not know how either computes.
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", exc_type=ModuleNotFoundError)

TOLERANCE = 1e-12
REDUCTIONS = ("mean", "sum", "none")
CLASSES = 4
# As few as the kernels take side by side with other rows, and more than those.
FEW_AND_MANY = (CLASSES, 40)
DIMENSIONS = (1, 2, 3, 4, 5)


def shape_of(dimensions: int, classes: int = CLASSES) -> tuple[int, ...]:
    """PyTorch has the classes on axis 1, or 0 of a single sample.

    Three dimensions and more have at least eight rows side by side, which are not copied.
    """
    positions = {1: (), 2: (6,), 3: (3, 9), 4: (2, 5, 2), 5: (2, 2, 1, 4)}[dimensions]
    return (*positions[:1], classes, *positions[1:])


def tensor(values: np.ndarray | None, *, requires_grad: bool = False) -> Any:
    """A copy for PyTorch; None stays None."""
    return None if values is None else torch.tensor(values, requires_grad=requires_grad)


def torch_loss_and_grad(
    logits: np.ndarray, targets: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`F.cross_entropy`, and the gradient of its sum."""
    x = tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        x, tensor(targets), tensor(options.pop("weight", None)), **options
    )
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def random_problem(
    dimensions: int, kind: str, classes: int = CLASSES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets; dense ones do not sum to 1."""
    rng = np.random.default_rng(seed + dimensions)
    shape = shape_of(dimensions, classes)
    logits = 3 * rng.standard_normal(shape)
    if kind == "dense":
        return logits, rng.random(shape)
    return logits, rng.integers(0, classes, np.delete(shape, class_axis(dimensions)))


def class_axis(dimensions: int) -> int:
    return 0 if dimensions == 1 else 1


def assert_agree(got: Any, want: Any) -> None:
    """Loss and gradient to 1e-12, relative or absolute."""
    for ours, theirs in zip(got, want, strict=True):
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("classes", FEW_AND_MANY)
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_every_combination_of_options(
    implementation: ModuleType, dimensions: int, classes: int, kind: str
) -> None:
    logits, targets = random_problem(dimensions, kind, classes)
    some_weights = np.resize([0.5, 2.0, 0.75, 1.25], classes)
    some_weights[(int(targets.flat[0]) + 1) % classes] = 0
    weights = (None, some_weights)
    ignored = (-100,) if kind == "dense" else (-100, 1)
    for weight, ignore_index, smoothing, reduction in itertools.product(
        weights, ignored, (0.0, 0.2, 1.0), REDUCTIONS
    ):
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        want = torch_loss_and_grad(logits, targets, ignore_index=ignore_index, **options)
        options["axis"] = class_axis(dimensions)
        options["ignore_index"] = None if ignore_index == -100 else ignore_index
        got = implementation.softmax_cross_entropy_grad(logits, targets, **options)
        assert_agree(got, want)
        loss = implementation.softmax_cross_entropy(logits, targets, **options)
        assert_agree([loss], [want[0]])


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("classes", FEW_AND_MANY)
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_options_that_pytorch_users_write_out(
    implementation: ModuleType, dimensions: int, classes: int, kind: str
) -> None:
    """Temperature, z-loss and weights of rows, composed from what autograd differentiates."""
    logits, targets = random_problem(dimensions, kind, classes, seed=10)
    axis, scale = class_axis(dimensions), -3.0
    rng = np.random.default_rng(dimensions)
    weights = (None, rng.random(classes))
    row_weight = rng.random(np.delete(logits.shape, axis)) + 0.1
    ignored = (None,) if kind == "dense" else (None, int(np.max(targets)))
    for temperature, z_loss, smoothing, weight, ignore_index, reduction in itertools.product(
        (1.0, 2.5), (0.0, 0.1), (0.0, 0.2), weights, ignored, REDUCTIONS
    ):
        counted = np.ones(row_weight.shape) if ignore_index is None else targets != ignore_index
        x = tensor(logits, requires_grad=True)
        row_loss = torch.nn.functional.cross_entropy(
            x / temperature,
            tensor(targets),
            tensor(weight),
            label_smoothing=smoothing,
            reduction="none",
        )
        row_loss = row_loss + z_loss * torch.logsumexp(x / temperature, axis) ** 2
        loss = scale * tensor(row_weight * counted) * row_loss
        if reduction == "mean":
            of_class = np.ones(counted.shape)
            if kind == "index" and weight is not None:
                of_class = weight[targets]
            denominator = (row_weight * counted * of_class).sum()
            if denominator == 0:  # the only row is ignored: a difference on purpose, below
                continue
            loss = loss.sum() / denominator
        elif reduction == "sum":
            loss = loss.sum()
        loss.sum().backward()
        got = implementation.softmax_cross_entropy_grad(
            logits,
            targets,
            axis=axis,
            weight=weight,
            sample_weight=row_weight,
            ignore_index=ignore_index,
            label_smoothing=smoothing,
            temperature=temperature,
            z_loss=z_loss,
            reduction=reduction,
            scale=scale,
        )
        assert_agree(got, (loss.detach().numpy(), x.grad.numpy()))


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_second_order(implementation: ModuleType, dimensions: int, kind: str) -> None:
    """The Hessian times a vector and its diagonal, from autograd applied twice."""
    logits, targets = random_problem(dimensions, kind, seed=20)
    axis = class_axis(dimensions)
    rng = np.random.default_rng(dimensions)
    vector, weight = rng.standard_normal(logits.shape), rng.random(CLASSES)

    def loss_of(x: Any) -> Any:
        x = x / 1.5
        loss = torch.nn.functional.cross_entropy(
            x, tensor(targets), tensor(weight), label_smoothing=0.1, reduction="sum"
        )
        return loss + 0.1 * (torch.logsumexp(x, axis) ** 2).sum()

    options = {
        "axis": axis,
        "weight": weight,
        "label_smoothing": 0.1,
        "temperature": 1.5,
        "z_loss": 0.1,
        "reduction": "sum",
    }
    _, want = torch.autograd.functional.hvp(loss_of, tensor(logits), tensor(vector))
    got = implementation.softmax_cross_entropy_hvp(logits, targets, vector, **options)
    assert_agree([got], [want.numpy()])
    hessian = torch.autograd.functional.hessian(loss_of, tensor(logits)).numpy()
    want = np.diagonal(hessian.reshape(logits.size, logits.size)).reshape(logits.shape)
    got = implementation.softmax_cross_entropy_hessian_diagonal(logits, targets, **options)
    assert_agree([got], [want])


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_softmax_and_its_relatives(implementation: ModuleType, dimensions: int) -> None:
    """Forward and backward passes along every axis."""
    rng = np.random.default_rng(dimensions)
    logits, grad = rng.standard_normal((2, *shape_of(dimensions)))
    for axis in range(-dimensions, dimensions):
        for function, backward, theirs in (
            (implementation.softmax, implementation.softmax_vjp, torch.softmax),
            (implementation.log_softmax, implementation.log_softmax_vjp, torch.log_softmax),
        ):
            x = tensor(logits, requires_grad=True)
            output = theirs(x, axis)
            output.backward(tensor(grad))
            got = function(logits, axis=axis)
            assert_agree(
                (got, backward(got, grad, axis=axis)), (output.detach().numpy(), x.grad.numpy())
            )
        for keepdims in (False, True):
            assert_agree(
                [implementation.logsumexp(logits, axis=axis, keepdims=keepdims)],
                [torch.logsumexp(tensor(logits), axis, keepdim=keepdims).numpy()],
            )


def test_loss_of_probabilities(implementation: ModuleType) -> None:
    """`cross_entropy` is `F.nll_loss` of the logarithms."""
    rng = np.random.default_rng(1)
    probabilities, weight = rng.random((3, CLASSES, 5)), rng.random(CLASSES)
    labels = rng.integers(0, CLASSES, (3, 5))
    for ignore_index, reduction in itertools.product((-100, 2), REDUCTIONS):
        p = tensor(probabilities, requires_grad=True)
        want = torch.nn.functional.nll_loss(
            torch.log(p),
            tensor(labels),
            tensor(weight),
            ignore_index=ignore_index,
            reduction=reduction,
        )
        want.sum().backward()
        got = implementation.cross_entropy_grad(
            probabilities,
            labels,
            axis=1,
            weight=weight,
            ignore_index=None if ignore_index == -100 else ignore_index,
            reduction=reduction,
        )
        assert_agree(got, (want.detach().numpy(), p.grad.numpy()))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_distillation(implementation: ModuleType, temperature: float, reduction: str) -> None:
    """T^2 `F.kl_div` of the softened rows, mixed with `F.cross_entropy`."""
    functional = torch.nn.functional
    rng = np.random.default_rng(2)
    student_logits, teacher_logits = 2 * rng.standard_normal((2, 7, CLASSES))
    labels = rng.integers(0, CLASSES, 7)
    for alpha in (0.0, 0.3, 1.0):
        x = tensor(student_logits, requires_grad=True)
        soft = functional.kl_div(
            torch.log_softmax(x / temperature, 1),
            torch.log_softmax(tensor(teacher_logits) / temperature, 1),
            log_target=True,
            reduction="none",
        ).sum(1)
        hard = functional.cross_entropy(x, tensor(labels), label_smoothing=0.1, reduction="none")
        loss = alpha * temperature**2 * soft + (1 - alpha) * hard
        loss = {"mean": loss.mean, "sum": loss.sum, "none": lambda loss=loss: loss}[reduction]()
        loss.sum().backward()
        got = implementation.distillation_loss_grad(
            student_logits,
            teacher_logits,
            labels,
            temperature=temperature,
            alpha=alpha,
            label_smoothing=0.1,
            reduction=reduction,
        )
        assert_agree(got, (loss.detach().numpy(), x.grad.numpy()))


# --- differences on purpose -----------------------------------------------------------------------


def test_nothing_is_ignored_unless_asked(implementation: ModuleType) -> None:
    """PyTorch ignores the label -100 by default; here a stray -100 is an error."""
    logits, labels = np.zeros((2, 3)), np.array([1, -100])
    theirs, _ = torch_loss_and_grad(logits, labels)
    with pytest.raises(IndexError, match="-100"):
        implementation.softmax_cross_entropy(logits, labels)
    ours = implementation.softmax_cross_entropy(logits, labels, ignore_index=-100)
    assert ours == pytest.approx(float(theirs), rel=TOLERANCE)


def test_a_void_mean_has_the_gradient_zero(implementation: ModuleType) -> None:
    """A mean over no weight is NaN in both; its gradient is NaN there and 0 here."""
    logits, labels, weight = np.ones((2, 3)), np.array([1, 1]), np.array([1.0, 0.0, 1.0])
    theirs = torch_loss_and_grad(logits, labels, weight=weight)
    ours = implementation.softmax_cross_entropy_grad(logits, labels, weight=weight)
    assert np.isnan(theirs[0])
    assert np.isnan(ours.loss)
    assert np.isnan(theirs[1]).any()
    assert not ours.grad.any()


def test_no_mass_on_an_impossible_class_costs_nothing(implementation: ModuleType) -> None:
    """0 * inf: NaN in PyTorch's dense loss, 0 here, as for class indices in both."""
    logits, dense = np.array([[0.0, 0.0, -np.inf]]), np.array([[1.0, 0.0, 0.0]])
    theirs, _ = torch_loss_and_grad(logits, dense)
    assert np.isnan(theirs)
    for targets in (dense, np.array([0])):
        loss, grad = implementation.softmax_cross_entropy_grad(logits, targets)
        assert loss == pytest.approx(np.log(2), rel=TOLERANCE)
        np.testing.assert_allclose(grad, [[-0.5, 0.5, 0.0]], rtol=TOLERANCE)


def test_small_losses_do_not_vanish(implementation: ModuleType) -> None:
    """log(1 + exp(-40)) is 4.2e-18: PyTorch's max + log(sum) rounds it to 0."""
    logits = np.array([[40.0, 0.0]])
    theirs, _ = torch_loss_and_grad(logits, np.array([0]))
    ours, grad = implementation.softmax_cross_entropy_grad(logits, np.array([0]))
    assert theirs == 0
    assert ours == pytest.approx(np.exp(-40.0), rel=1e-14)
    np.testing.assert_allclose(grad, [[-np.exp(-40.0), np.exp(-40.0)]], rtol=1e-14)
