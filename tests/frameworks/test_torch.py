"""`xent_fast.torch` beside PyTorch's own loss: values, derivatives, compiler, modules.

Knows PyTorch's conventions. Must not know how either computes.
"""

from __future__ import annotations

import inspect
import itertools
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ModuleNotFoundError)
from torch.nn import functional  # noqa: E402
from torch.testing import assert_close  # noqa: E402

from xent_fast._torch import calls as calls_of_torch  # noqa: E402
from xent_fast._torch import loss as loss_of_torch  # noqa: E402
from xent_fast.torch import CrossEntropyLoss, cross_entropy, linear_cross_entropy  # noqa: E402

OPERATORS = torch.ops.xent_fast
SHAPES = ((5,), (6, 4), (3, 40), (2, 4, 9), (2, 5, 3, 2))
REDUCTIONS = ("mean", "sum", "none")
# What PyTorch's own modules warn of while they are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def _small_inputs_too(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the tests' inputs would go to PyTorch."""
    torch.manual_seed(0)
    if "small_inputs_go_to_pytorch" not in request.fixturenames:
        monkeypatch.setattr(calls_of_torch, "_SMALL", 0)
        monkeypatch.setattr(calls_of_torch, "_SMALL_SHORT_ROWS", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of every call that went to PyTorch's function."""
    made = []
    own = functional.cross_entropy

    def noted(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        return own(*arguments, **options)

    monkeypatch.setattr(functional, "cross_entropy", noted)
    return made


def problem(
    shape: tuple[int, ...] = (6, 4), kind: str = "index", dtype: Any = torch.float64
) -> tuple[Any, Any]:
    """Logits that need a gradient, and targets, one of them ignored."""
    axis = min(len(shape) - 1, 1)
    logits = (3 * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_()
    if kind == "dense":
        return logits, torch.rand(shape, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, shape[axis], (*shape[:axis], *shape[axis + 1 :]))
    if labels.numel() > 1:
        labels.view(-1)[1] = -100
    return logits, labels


def loss_and_grad(function: Any, logits: Any, targets: Any, *rest: Any, **options: Any) -> Any:
    """A loss and the gradient of its rows' sum, weighted where there is one loss a row."""
    loss = function(logits, targets, *rest, **options)
    above = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    (grad,) = torch.autograd.grad(loss, logits, above)
    return loss.detach(), grad


def options_of(shape: tuple[int, ...], dtype: Any = torch.float64) -> list[dict[str, Any]]:
    weight = torch.linspace(0.25, 2.0, shape[min(len(shape) - 1, 1)], dtype=dtype)
    weights = [None, weight]
    if dtype == torch.float64:  # a mean of mixed signs cancels
        weights.append(weight - weight[:1] * torch.arange(len(weight)).eq(0) * 17)
    return [
        {"weight": a, "reduction": b, "label_smoothing": c}
        for a, b, c in itertools.product(weights, REDUCTIONS, (0.0, 0.2))
    ]


# --- values and first derivative ---


def test_arguments_stand_where_pytorch_has_them() -> None:
    ours = list(inspect.signature(cross_entropy).parameters.values())
    theirs = list(inspect.signature(functional.cross_entropy).parameters.values())
    assert [(p.name, p.default) for p in ours[:-1]] == [(p.name, p.default) for p in theirs]
    assert (ours[-1].name, ours[-1].kind) == ("inplace", inspect.Parameter.KEYWORD_ONLY)
    ours = list(inspect.signature(CrossEntropyLoss).parameters.values())
    theirs = list(inspect.signature(torch.nn.CrossEntropyLoss).parameters.values())
    assert [(p.name, p.default) for p in ours[:-1]] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(calls: list[Any], shape: tuple[int, ...], kind: str) -> None:
    logits, targets = problem(shape, kind)
    for options in options_of(shape):
        want = loss_and_grad(functional.cross_entropy, logits, targets, **options)
        del calls[:]
        got = loss_and_grad(cross_entropy, logits, targets, **options)
        with torch.no_grad():
            loss = cross_entropy(logits, targets, **options)
        assert not calls
        assert_close((*got, loss), (*want, want[0]), rtol=1e-12, atol=1e-12)


@pytest.fixture(params=["ml_dtypes", "nothing"])
def bfloat16_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What NumPy knows bfloat16 by: without it the numbers are copied as float32."""
    if request.param == "nothing":
        monkeypatch.setattr(calls_of_torch, "_bfloat16", None)
    return request.param


@pytest.mark.usefixtures("bfloat16_by")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_other_dtypes(calls: list[Any], shape: tuple[int, ...], dtype: Any) -> None:
    """Half precision is computed in float32 and rounded once; PyTorch rounds on the way."""
    for kind in ("index", "dense"):
        logits, targets = problem(shape, kind, dtype)
        exact = logits.detach().double().requires_grad_()
        for options in options_of(shape, dtype):
            exactly = dict(options)
            if options["weight"] is not None:
                exactly["weight"] = options["weight"].double()
            exact_targets = targets.double() if kind == "dense" else targets
            want = loss_and_grad(functional.cross_entropy, exact, exact_targets, **exactly)
            del calls[:]
            got = loss_and_grad(cross_entropy, logits, targets, **options)
            assert not calls
            assert got[0].dtype == got[1].dtype == dtype
            tolerance = 4 * torch.finfo(dtype).eps
            for ours, exact_one in zip(got, want, strict=True):
                assert_close(ours.double(), exact_one, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_and_written_as_it_lies(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits, dense targets and gradient, along any axis; no array of their size is made."""
    seen: list[Any] = []
    own = loss_of_torch.softmax_cross_entropy_grad

    def noted(logits: Any, targets: Any, **options: Any) -> Any:
        seen.append([array.ctypes.data for array in (logits, targets, options["out"])])
        return own(logits, targets, **options)

    monkeypatch.setattr(loss_of_torch, "softmax_cross_entropy_grad", noted)
    for shape in ((6, 40), (2, 40, 3), (40, 6)):
        logits, targets = problem(shape, "dense", dtype)
        if shape[0] == 40:
            logits, targets = logits.detach().T.requires_grad_(), targets.T
        (grad,) = torch.autograd.grad(cross_entropy(logits, targets), logits)
        assert seen == [[logits.data_ptr(), targets.data_ptr(), grad.data_ptr()]]
        del seen[:]


def test_layouts() -> None:
    """Gradients lie in memory as PyTorch's do."""
    images = torch.randn(2, 5, 4, 20)
    for logits in (
        images,
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(2, 3),
        images[:, :, ::2],
        images[:, :1].expand(2, 5, 4, 20),
    ):
        logits = logits.detach().requires_grad_()
        targets = torch.randint(0, 5, (2, *logits.shape[2:]))
        want = loss_and_grad(functional.cross_entropy, logits, targets)
        got = loss_and_grad(cross_entropy, logits, targets)
        assert_close(got, want)
        assert got[1].stride() == torch.empty_like(logits).stride()


def test_upstream_gradient_of_one_costs_no_array() -> None:
    """The pass that makes the loss makes what the first backward pass hands over."""
    logits, targets = problem((64, 100))
    for factor in (1.0, 0.25):
        loss = cross_entropy(logits, targets)
        made = loss.grad_fn.grad
        (grad,) = torch.autograd.grad(factor * loss, logits)
        assert grad.data_ptr() == made.data_ptr()


def test_more_than_one_backward_pass() -> None:
    logits, targets = problem()
    loss = cross_entropy(logits, targets)
    grads = [torch.autograd.grad(3 * loss, logits, retain_graph=True)[0] for _ in range(3)]
    (last,) = torch.autograd.grad(loss, logits)
    assert_close(grads, [3 * last] * 3)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, logits)


def test_logits_changed_before_the_backward_pass() -> None:
    """The gradient exists by then; to compute it again takes the logits."""
    parameter, targets = problem()
    logits = 2 * parameter
    (want,) = torch.autograd.grad(functional.cross_entropy(logits, targets), parameter)
    logits = 2 * parameter
    loss = cross_entropy(logits, targets)
    logits.add_(1)
    (got,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    assert_close(got, want)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, parameter)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant: bool) -> None:
    logits, targets = problem()
    want = torch.autograd.grad(functional.cross_entropy(logits, targets), logits)
    torch.utils.checkpoint.checkpoint(
        cross_entropy, logits, targets, use_reentrant=use_reentrant
    ).backward()
    assert_close(logits.grad, *want)


# --- second derivative, and what there is of a third ---


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 3)])
def test_derivatives_by_differences(shape: tuple[int, ...], kind: str) -> None:
    logits, targets = problem(shape, kind)
    for options in options_of(shape):
        weight, reduction, smoothing = options.values()
        for function in (
            lambda x, options=options: cross_entropy(x, targets, **options),
            lambda x, w=weight, r=reduction, e=smoothing: OPERATORS.cross_entropy(
                x, targets, w, r, -100, e
            ),
        ):
            assert torch.autograd.gradcheck(function, logits)
            assert torch.autograd.gradgradcheck(function, logits)


@pytest.mark.usefixtures("bfloat16_by")
def test_hessian_in_single_and_half_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits, targets = problem((3, 40), dtype=dtype)
        vector = torch.randn_like(logits)
        products = []
        for function in (cross_entropy, functional.cross_entropy):
            (grad,) = torch.autograd.grad(function(logits, targets), logits, create_graph=True)
            assert grad.requires_grad
            products.append(torch.autograd.grad(grad, logits, vector)[0])
        tolerance = 16 * torch.finfo(dtype).eps
        assert_close(*products, rtol=tolerance, atol=tolerance)


def test_third_derivative_is_an_error() -> None:
    logits, targets = problem()
    (first,) = torch.autograd.grad(cross_entropy(logits, targets), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="a third was asked for"):
        torch.autograd.grad(second.sum(), logits)


def test_functional_transforms_are_pytorchs_own(calls: list[Any]) -> None:
    logits, targets = problem()
    logits = logits.detach()
    tangent = torch.randn_like(logits)
    own = functional.cross_entropy
    for transformed in (
        lambda f: torch.func.grad(lambda x: f(x, targets))(logits),
        lambda f: torch.func.vmap(f)(logits[:, None], targets[:, None]),
        lambda f: torch.func.hessian(lambda x: f(x, targets))(logits),
        lambda f: torch.func.jvp(lambda x: f(x, targets), (logits,), (tangent,)),
    ):
        del calls[:]
        got = transformed(cross_entropy)
        assert calls
        assert_close(got, transformed(own), equal_nan=True)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, tangent)
        got = torch.autograd.forward_ad.unpack_dual(cross_entropy(dual, targets)).tangent
        want = torch.autograd.forward_ad.unpack_dual(own(dual, targets)).tangent
    assert_close(got, want)


def test_targets_and_weights_that_need_a_gradient_are_pytorchs() -> None:
    logits, targets = problem((6, 4), "dense")
    targets.requires_grad_()
    assert torch.autograd.gradcheck(cross_entropy, (logits, targets))


# --- compiler, autocast ---


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_operators_keep_their_contracts(reduction: str, kind: str) -> None:
    """Schema, fake tensors, autograd registration and the compiler's view of each operator."""
    logits, targets = problem((3, 4, 9), kind)
    weight = torch.rand(4, dtype=torch.float64)
    options = (weight, reduction, -100, 0.1)
    above = torch.rand((3, 9) if reduction == "none" else (), dtype=torch.float64)
    above.requires_grad_()
    vector = torch.randn_like(logits)
    opcheck = torch.library.opcheck
    opcheck(OPERATORS.cross_entropy.default, (logits, targets, *options))
    opcheck(OPERATORS.cross_entropy_backward.default, (above, logits, targets, *options))
    opcheck(
        OPERATORS.cross_entropy_hvp.default,
        (vector, above.detach(), logits.detach(), targets, *options),
    )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_without_a_break(backend: str) -> None:
    torch.compiler.reset()
    weight = torch.rand(100)

    def step(function: Any, logits: Any, targets: Any, **options: Any) -> Any:
        return 3 * function((logits * 2)[:], targets, weight, label_smoothing=0.1, **options)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for rows in (64, 32, 17):
        logits, targets = problem((rows, 100), dtype=torch.float32)
        got = compiled(cross_entropy, logits, targets, inplace=True)
        want = step(functional.cross_entropy, logits, targets)
        assert_close(got, want)
        assert_close(*(torch.autograd.grad(loss, logits) for loss in (got, want)))


def test_compiled_module_and_channels_last() -> None:
    torch.compiler.reset()
    criterion = torch.compile(CrossEntropyLoss(), fullgraph=True, backend="aot_eager")
    logits = torch.randn(2, 6, 4, 5).permute(0, 3, 1, 2).requires_grad_()
    labels = torch.randint(0, 5, (2, 6, 4))
    want = torch.autograd.grad(functional.cross_entropy(logits, labels), logits)
    got = torch.autograd.grad(criterion(logits, labels), logits)
    assert_close(got, want)


def test_exported() -> None:
    logits, targets = problem()
    program = torch.export.export(CrossEntropyLoss(), (logits.detach(), targets))
    assert_close(program.module()(logits, targets), functional.cross_entropy(logits, targets))


@pytest.mark.parametrize("is_compiled", [False, True])
def test_autocast_computes_in_float32(is_compiled: bool) -> None:
    torch.compiler.reset()
    logits, targets = problem((6, 40), dtype=torch.bfloat16)
    function = torch.compile(cross_entropy, backend="aot_eager") if is_compiled else cross_entropy
    with torch.autocast("cpu", torch.bfloat16):
        got = loss_and_grad(function, logits, targets)
        want = loss_and_grad(functional.cross_entropy, logits, targets)
    assert got[0].dtype == want[0].dtype == torch.float32
    assert got[1].dtype == want[1].dtype == torch.bfloat16
    assert_close(got, want)


# --- in place ---


@pytest.mark.usefixtures("bfloat16_by")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_in_place(dtype: Any) -> None:
    layer = torch.nn.Linear(7, 40, dtype=dtype)
    inputs = torch.randn(6, 7, dtype=dtype)
    _, targets = problem((6, 40))
    criterion = CrossEntropyLoss(reduction="sum", inplace=True)
    for factor in (1.0, 0.25):
        want = torch.autograd.grad(
            factor * cross_entropy(layer(inputs), targets, reduction="sum"), layer.weight
        )
        logits = layer(inputs)
        logits = logits if factor == 1 else logits[:]  # a view of what is no leaf
        seen = []
        logits.register_hook(lambda grad, seen=seen: seen.append(grad.data_ptr()))
        got = torch.autograd.grad(factor * criterion(logits, targets), layer.weight)
        assert seen == [logits.data_ptr()]
        assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize(
    "view",
    [lambda x: x, lambda x: x.view(6, 4), lambda x: x[:], lambda x: x.T.T],
    ids=["itself", "view", "slice", "transposed"],
)
def test_in_place_refuses_a_leaf(view: Any) -> None:
    logits, targets = problem()
    before = logits.detach().clone()
    with pytest.raises(ValueError, match="inplace=True would overwrite input, which is a leaf"):
        cross_entropy(view(logits), targets, inplace=True)
    assert_close(logits.detach(), before, rtol=0, atol=0)


def test_in_place_without_a_gradient_leaves_the_logits() -> None:
    logits, targets = problem()
    logits = logits.detach()
    before = logits.clone()
    cross_entropy(logits, targets, inplace=True)
    assert_close(logits, before, rtol=0, atol=0)


def test_in_place_under_what_saved_the_logits() -> None:
    """Tanh differentiates by its output, which is gone: PyTorch's own error, no wrong gradient."""
    parameter, targets = problem()
    loss = cross_entropy(torch.tanh(parameter), targets, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_in_place_has_one_backward_pass_and_one_derivative() -> None:
    parameter, targets = problem()
    loss = cross_entropy(2 * parameter, targets, inplace=True)
    with pytest.raises(RuntimeError, match="keeps no logits"):
        torch.autograd.grad(loss, parameter, create_graph=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="keeps no logits"):
        loss.backward()


# --- the last layer and its loss together ---


def layer(dtype: Any = torch.float64) -> tuple[Any, Any, Any]:
    shapes = ((7, 5), (4, 5), (4,))
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)


def by_pytorch(hidden: Any, matrix: Any, bias: Any, targets: Any, **options: Any) -> Any:
    logits = functional.linear(hidden, matrix, bias)
    return functional.cross_entropy(logits, targets, **options)


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_layer_with_its_loss(calls: list[Any], kind: str) -> None:
    hidden, weight, bias = layer()
    _, targets = problem((7, 4), kind)
    class_weight = torch.rand(4, dtype=torch.float64)
    for options in options_of((7, 4))[: 2 * len(REDUCTIONS)]:
        for with_bias in (None, bias):
            options["weight"] = class_weight
            del calls[:]
            loss = linear_cross_entropy(
                hidden, weight, targets, linear_bias=with_bias, chunk_rows=3, **options
            )
            with torch.no_grad():
                again = linear_cross_entropy(
                    hidden, weight, targets, linear_bias=with_bias, chunk_rows=3, **options
                )
            assert not calls
            want = by_pytorch(hidden, weight, with_bias, targets, **options)
            del calls[:]
            assert_close((loss, again), (want, want))
            above = torch.rand_like(loss)
            parts = [part for part in (hidden, weight, with_bias) if part is not None]
            for _ in range(2):  # the gradients are handed over once, then computed again
                got = torch.autograd.grad(loss, parts, above, retain_graph=True)
                assert_close(got, torch.autograd.grad(want, parts, above, retain_graph=True))
            assert not calls


def test_layer_with_its_loss_twice_differentiated() -> None:
    _, targets = problem((7, 4))
    for reduction in REDUCTIONS:
        assert torch.autograd.gradgradcheck(
            lambda h, w, b, r=reduction: linear_cross_entropy(
                h, w, targets, linear_bias=b, reduction=r
            ),
            layer(),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layer_of_16_bits_with_its_loss(calls: list[Any], dtype: Any, reduction: str) -> None:
    """Loss and gradients are those of the same numbers in float32, rounded once."""
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    parts = layer(dtype)
    wide = tuple(part.detach().float().requires_grad_() for part in parts)
    _, targets = problem((7, 4))
    loss = linear_cross_entropy(
        parts[0], parts[1], targets, linear_bias=parts[2], reduction=reduction, chunk_rows=3
    )
    assert not calls
    want = by_pytorch(*wide, targets, reduction=reduction)
    del calls[:]
    above = torch.rand_like(loss)
    expected = torch.autograd.grad(want, wide, above.float())
    for _ in range(2):  # the gradients are handed over once, then computed again
        got = torch.autograd.grad(loss, parts, above, retain_graph=True)
        assert all(grad.dtype == dtype for grad in got)
        assert_close(
            [grad.float() for grad in (loss.detach(), *got)],
            [want.detach(), *expected],
            rtol=0.51 * torch.finfo(dtype).eps,
            atol=2e-7,
        )
    assert not calls


@pytest.mark.parametrize("with_layer", [False, True])
def test_loss_scale_keeps_small_gradients_of_float16(calls: list[Any], with_layer: bool) -> None:
    """What comes from above multiplies gradients before they are rounded."""
    torch.manual_seed(0)
    hidden = (0.01 * torch.randn(512, 8)).half().requires_grad_()
    weight = (0.1 * torch.randn(4096, 8)).half().requires_grad_()
    targets = torch.randint(0, 64, (512,))
    logits = (hidden @ weight.T).detach().requires_grad_()
    parts = (hidden, weight) if with_layer else (logits,)

    if with_layer:
        loss = linear_cross_entropy(hidden, weight, targets)
    else:
        loss = cross_entropy(logits, targets)
    got = torch.autograd.grad(loss, parts, torch.tensor(4096.0).half())
    assert not calls
    wide = tuple(part.detach().float().requires_grad_() for part in parts)
    logits_of_wide = wide[0] @ wide[1].T if with_layer else wide[0]
    want = torch.autograd.grad(4096.0 * functional.cross_entropy(logits_of_wide, targets), wide)
    for one, other in zip(got, want, strict=True):
        error = (one.float() - other).abs() / other.abs().clamp(min=2.0**-14)
        assert error.max() < 2.0**-10


@pytest.mark.filterwarnings("error")
def test_layer_of_float16_whose_gradients_are_too_large() -> None:
    """They become infinite without a word, which those who change a loss scale look for."""
    hidden = torch.full((4, 4), 300.0).half().requires_grad_()
    weight = torch.randn(3, 4).half().requires_grad_()
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2, 0]), reduction="sum")
    _, grad = torch.autograd.grad(loss, (hidden, weight), torch.tensor(60000.0).half())
    assert grad.isinf().any()


def test_layer_with_its_loss_where_logits_are_made() -> None:
    """The compiler and transforms; and what PyTorch refuses."""
    hidden, weight, bias = layer()
    _, targets = problem((7, 4))
    want = by_pytorch(hidden, weight, bias, targets)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    assert_close(compiled(hidden, weight, targets, linear_bias=bias), want)
    got = torch.func.grad(lambda b: linear_cross_entropy(hidden, weight, targets, linear_bias=b))
    assert_close(got(bias), *torch.autograd.grad(want, bias))
    with pytest.raises(RuntimeError):
        linear_cross_entropy(hidden, weight[:, :3], targets)
    with pytest.raises(ValueError, match="Expected input batch_size"):
        linear_cross_entropy(hidden, weight, targets[:3])


# --- PyTorch's own samples ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_samples_of_pytorchs_operator(calls: list[Any], dtype: Any) -> None:
    invocations = pytest.importorskip(
        "torch.testing._internal.common_methods_invocations", exc_type=ModuleNotFoundError
    )
    (info,) = (info for info in invocations.op_db if info.name == "nn.functional.cross_entropy")
    samples = list(info.sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) > 10
    for sample in samples:
        targets = sample.args[0].detach()  # those that need a gradient are PyTorch's
        del calls[:]
        got = loss_and_grad(cross_entropy, sample.input, targets, **sample.kwargs)
        assert not calls
        want = loss_and_grad(functional.cross_entropy, sample.input, targets, **sample.kwargs)
        tolerance = {} if dtype.itemsize > 2 else {"rtol": 0.03, "atol": 0.03}
        assert_close(got, want, equal_nan=True, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_of_pytorchs_module(calls: list[Any], dtype: Any) -> None:
    modules = pytest.importorskip(
        "torch.testing._internal.common_modules", exc_type=ModuleNotFoundError
    )
    (info,) = (m for m in modules.module_db if m.module_cls is torch.nn.CrossEntropyLoss)
    samples = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=True
    )
    assert len(samples) > 50
    for sample in samples:
        ours, theirs = (
            kind(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            for kind in (CrossEntropyLoss, torch.nn.CrossEntropyLoss)
        )
        assert repr(ours) == repr(theirs)
        logits, targets = sample.forward_input.args
        if sample.reference_fn is not None:
            reference = sample.reference_fn(ours, logits, targets)
            assert_close(ours(logits, targets), reference, equal_nan=True)
        logits = logits.clone().requires_grad_()
        del calls[:]
        got = loss_and_grad(ours, logits, targets)
        assert not calls
        want = loss_and_grad(theirs, logits, targets)
        assert_close(got, want, equal_nan=True)


# --- what goes to PyTorch ---


@pytest.fixture
def small_inputs_go_to_pytorch() -> None:
    """The limits as they are."""


@pytest.mark.usefixtures("small_inputs_go_to_pytorch")
def test_small_inputs_are_pytorchs(calls: list[Any]) -> None:
    for shape, is_small in (((32, 10), True), ((1024, 10), False), ((256, 1000), False)):
        logits, targets = problem(shape, dtype=torch.float32)
        del calls[:]
        cross_entropy(logits, targets)
        assert bool(calls) is is_small


@pytest.mark.parametrize(
    "change",
    [
        {"target": torch.zeros(5, dtype=torch.int64)},
        {"target": torch.zeros(6, dtype=torch.int32)},
        {"target": torch.zeros(6, 4, dtype=torch.float32)},
        {"target": torch.zeros(6, 5, dtype=torch.float64)},
        {"target": None},
        {"input": torch.zeros(6, 4, dtype=torch.int64)},
        {"input": torch.zeros((), dtype=torch.float64)},
        {"weight": torch.ones(3, dtype=torch.float64)},
        {"weight": torch.ones(4)},
        {"reduction": "batchmean"},
        {"label_smoothing": 1.5},
        {"label_smoothing": float("nan")},
        {"target": torch.zeros(6, 4, dtype=torch.float64), "ignore_index": 1},
    ],
)
def test_what_pytorch_refuses_is_refused_in_its_words(change: dict[str, Any]) -> None:
    arguments = {
        "input": torch.zeros(6, 4, dtype=torch.float64),
        "target": torch.zeros(6, dtype=torch.int64),
        **change,
    }
    outcomes = []
    for function in (cross_entropy, functional.cross_entropy):
        try:
            outcomes.append(function(**arguments).item())
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            outcomes.append((type(error), str(error).partition("\n")[0]))
    assert repr(outcomes[0]) == repr(outcomes[1])


def test_label_out_of_range() -> None:
    logits, targets = problem()
    targets[3] = 4
    with pytest.raises(IndexError, match=r"index 4 is out of bounds .*targets\[3\]"):
        cross_entropy(logits, targets)


def test_legacy_arguments() -> None:
    logits, targets = problem()
    with pytest.warns(UserWarning, match="size_average and reduce"):
        loss = cross_entropy(logits, targets, None, False)
    assert_close(loss, functional.cross_entropy(logits, targets, reduction="sum"))


def test_subclasses_and_meta_tensors_are_pytorchs(calls: list[Any]) -> None:
    assert (
        cross_entropy(
            torch.empty(6, 4, device="meta"), torch.empty(6, dtype=torch.int64, device="meta")
        ).shape
        == ()
    )
    assert len(calls) == 1


# --- differences on purpose ---


def test_a_void_mean_has_the_gradient_zero() -> None:
    logits, _ = problem()
    loss, grad = loss_and_grad(cross_entropy, logits, torch.full((6,), -100))
    assert loss.isnan()
    assert not grad.any()


def test_small_losses_do_not_vanish() -> None:
    logits = torch.tensor([[40.0, 0.0]], dtype=torch.float64)
    loss = cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(torch.tensor(-40.0).double().exp().item(), rel=1e-14)


# --- modules and trainers ---


def test_module_copies_and_pickles() -> None:
    criterion = CrossEntropyLoss(torch.rand(4), label_smoothing=0.1, inplace=True)
    again = pickle.loads(pickle.dumps(criterion))
    assert again.inplace is True
    assert repr(again) == "CrossEntropyLoss(inplace=True)"
    assert list(again.state_dict()) == ["weight"]


@pytest.mark.filterwarnings("ignore")
def test_skorch_knows_the_module() -> None:
    skorch = pytest.importorskip("skorch", exc_type=ModuleNotFoundError)
    inputs = torch.randn(200, 5)
    labels = (inputs[:, 0] > 0).long()
    results = []
    for criterion in (CrossEntropyLoss, torch.nn.CrossEntropyLoss):
        torch.manual_seed(1)
        net = skorch.NeuralNetClassifier(
            torch.nn.Linear,
            module__in_features=5,
            module__out_features=2,
            criterion=criterion,
            max_epochs=3,
            verbose=0,
            train_split=None,
        )
        net.fit(inputs, labels)
        results.append(torch.as_tensor(net.predict_proba(inputs)))
    assert_close(results[0].sum(1), torch.ones(200))
    assert_close(*results)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_trains_with_the_module(tmp_path: Any, precision: str) -> None:
    """Its trainer saves, restores and goes on; the weights are those that PyTorch's loss gives."""
    lightning = pytest.importorskip("pytorch_lightning", exc_type=ModuleNotFoundError)
    from pytorch_lightning.plugins.environments import LightningEnvironment

    alone = LightningEnvironment()  # it need not look for MPI
    inputs = torch.randn(96, 6)
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=32
    )

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, criterion: torch.nn.Module) -> None:
            super().__init__()
            self.layer, self.criterion = torch.nn.Linear(6, 3), criterion

        def training_step(self, batch: Any, _: int) -> Any:
            return self.criterion(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    def trainer(epochs: int) -> Any:
        return lightning.Trainer(
            accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False,
            enable_progress_bar=False, logger=False, max_epochs=epochs, plugins=[alone],
            precision=precision,
        )  # fmt: skip

    results = []
    for criterion in (CrossEntropyLoss, torch.nn.CrossEntropyLoss):
        torch.manual_seed(1)
        model = Classifier(criterion(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1))
        begun = trainer(2)
        begun.fit(model, batches)
        saved = tmp_path / f"{criterion.__module__}.ckpt"
        begun.save_checkpoint(saved)
        again = Classifier(criterion(torch.ones(3)))
        trainer(4).fit(again, batches, ckpt_path=saved)
        results.append(again)
    ours, theirs = (model.state_dict() for model in results)
    assert list(ours) == list(theirs) == ["layer.weight", "layer.bias", "criterion.weight"]
    assert_close(ours, theirs)
    assert (results[0].layer(inputs).argmax(1) == inputs[:, :3].argmax(1)).float().mean() > 0.7
