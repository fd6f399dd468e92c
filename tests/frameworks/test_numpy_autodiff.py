"""`xent_fast.autograd` and `xent_fast.mygrad` beside their frameworks' own derivatives.

Knows the conventions of both. Must not know how any of them computes.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import xent_fast
from xent_fast import softmax_cross_entropy_grad, softmax_cross_entropy_hvp

FRAMEWORKS = ("torch", "jax", "autograd", "mygrad", "sklearn")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"reduction": "sum", "scale": 2.0, "label_smoothing": 0.1},
    {"reduction": "none", "temperature": 2.0, "z_loss": 0.1},
    {"axis": 0, "reduction": "none", "weight": np.array([1.0, 2.0, 0.5, 3.0])},
)


def problem(kind: str, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 5) if options.get("axis") == 0 else (5, 4))
    return logits, rng.integers(0, 4, 5) if kind == "index" else rng.random(logits.shape)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Any]:
    """The gradients that the core made for a module, in order."""
    made = []
    module = request.getfixturevalue("module")

    def noted(*arguments: Any, **options: Any) -> Any:
        result = softmax_cross_entropy_grad(*arguments, **options)
        made.append(result.grad)
        return result

    monkeypatch.setattr(module, "_loss_and_grad", noted)
    return made


class TestAutograd:
    @pytest.fixture
    def module(self) -> Any:
        return pytest.importorskip("xent_fast.autograd", exc_type=ModuleNotFoundError)

    @pytest.mark.parametrize("kind", ["index", "dense"])
    @pytest.mark.parametrize("options", OPTIONS)
    def test_two_orders_by_differences(
        self, module: Any, kind: str, options: dict[str, Any]
    ) -> None:
        from autograd.test_util import check_grads

        logits, targets = problem(kind, options)
        function = module.softmax_cross_entropy
        check_grads(lambda x: function(x, targets, **options), modes=["fwd", "rev"], order=2)(
            logits
        )

    def test_same_as_autograds_own(self, module: Any) -> None:
        import autograd
        import autograd.numpy as anp
        from autograd.scipy.special import logsumexp

        logits, labels = problem("index", {})

        def theirs(x: Any) -> Any:
            return anp.mean(logsumexp(x, axis=1) - x[np.arange(5), labels])

        def ours(x: Any) -> Any:
            return module.softmax_cross_entropy(x, labels)

        for transform in (autograd.value_and_grad, autograd.hessian):
            for got, want in zip(transform(ours)(logits), transform(theirs)(logits), strict=True):
                np.testing.assert_allclose(got, want, 1e-12, 1e-14)

    def test_one_pass(self, module: Any, passes: list[Any]) -> None:
        import autograd

        logits, labels = problem("index", {})
        _, grad = autograd.value_and_grad(module.softmax_cross_entropy)(logits, labels)
        assert len(passes) == 1
        assert grad is passes[0]

    def test_two_backward_passes(self, module: Any) -> None:
        import autograd

        logits, labels = problem("index", {})
        vjp, _ = autograd.make_vjp(lambda x: module.softmax_cross_entropy(x, labels))(logits)
        first = vjp(1.0)
        want = first.copy()
        first[:] = np.nan
        np.testing.assert_array_equal(vjp(1.0), want)

    def test_gradient_of_a_gradient(self, module: Any) -> None:
        """The trap: a primitive that returns loss and gradient has 0 here, without an error."""
        import autograd
        import autograd.numpy as anp

        logits, labels = problem("index", {})
        vector = np.random.default_rng(1).standard_normal(logits.shape)
        gradient = autograd.grad(lambda x: module.softmax_cross_entropy(x, labels))
        got = autograd.grad(lambda x: anp.sum(gradient(x) * vector))(logits)
        np.testing.assert_allclose(
            got, softmax_cross_entropy_hvp(logits, labels, vector), 1e-12, 1e-15
        )

    def test_third_derivative_is_an_error(self, module: Any) -> None:
        import autograd
        import autograd.numpy as anp

        logits, labels = problem("index", {})
        first = autograd.grad(lambda x: module.softmax_cross_entropy(x, labels))
        second = autograd.grad(lambda x: anp.sum(first(x) ** 2))
        with pytest.raises(NotImplementedError, match="not defined"):
            autograd.grad(lambda x: anp.sum(second(x)))(logits)

    def test_derivative_by_the_targets_is_an_error(self, module: Any) -> None:
        import autograd

        logits, targets = problem("dense", {})
        with pytest.raises(NotImplementedError, match="not defined"):
            autograd.grad(module.softmax_cross_entropy, argnum=1)(logits, targets)


class TestMyGrad:
    @pytest.fixture
    def module(self) -> Any:
        return pytest.importorskip("xent_fast.mygrad", exc_type=ModuleNotFoundError)

    @pytest.mark.parametrize("factor", [1.0, 0.25])
    def test_same_as_mygrads_own(self, module: Any, factor: float) -> None:
        import mygrad
        from mygrad.nnet import softmax_crossentropy

        logits, labels = problem("index", {})
        tensors = []
        for function in (module.softmax_cross_entropy, softmax_crossentropy):
            tensors.append(mygrad.tensor(logits))
            loss = factor * function(tensors[-1], labels)
            loss.backward()
            tensors.append(loss)
        np.testing.assert_allclose(tensors[0].grad, tensors[2].grad, 1e-12, 1e-14)
        np.testing.assert_allclose(tensors[1].data, tensors[3].data, 1e-12)

    @pytest.mark.parametrize("kind", ["index", "dense"])
    @pytest.mark.parametrize("options", OPTIONS)
    def test_options(self, module: Any, kind: str, options: dict[str, Any]) -> None:
        import mygrad

        logits, targets = problem(kind, options)
        tensor = mygrad.tensor(logits)
        loss = module.softmax_cross_entropy(tensor, targets, **options)
        above = np.arange(1.0, 6.0)[: loss.size].reshape(loss.shape)
        (loss * above).sum().backward()
        rows = {"sample_weight": above} if options.get("reduction") == "none" else {}
        want = softmax_cross_entropy_grad(logits, targets, **options, **rows).grad
        np.testing.assert_allclose(tensor.grad, want, 1e-12, 1e-15)

    def test_one_pass(self, module: Any, passes: list[Any]) -> None:
        import mygrad

        logits, labels = problem("index", {})
        tensor = mygrad.tensor(logits)
        module.softmax_cross_entropy(tensor, labels).backward()
        assert len(passes) == 1
        assert tensor.grad is passes[0]

    def test_no_gradient_where_none_is_wanted(self, module: Any, passes: list[Any]) -> None:
        import mygrad

        logits, labels = problem("index", {})
        module.softmax_cross_entropy(mygrad.tensor(logits, constant=True), labels)
        module.softmax_cross_entropy(mygrad.tensor(logits), labels, constant=True)
        with mygrad.no_autodiff:
            loss = module.softmax_cross_entropy(mygrad.tensor(logits), labels)
        assert not passes
        assert float(loss) == xent_fast.softmax_cross_entropy(logits, labels)

    @pytest.mark.parametrize("name", ["targets", "sample_weight", "weight"])
    def test_derivative_by_the_targets_or_an_option_is_an_error(
        self, module: Any, name: str
    ) -> None:
        """Unless no derivative is wanted."""
        import mygrad

        logits, targets = problem("dense", {})
        arguments = {"targets": targets, "sample_weight": np.arange(5.0), "weight": np.arange(4.0)}
        want = xent_fast.softmax_cross_entropy(logits, **arguments)
        tensor, given = mygrad.tensor(logits), arguments[name]
        arguments[name] = mygrad.tensor(given)
        with pytest.raises(TypeError, match=f"{name} is a tensor that needs a gradient"):
            module.softmax_cross_entropy(tensor, **arguments)
        losses = [module.softmax_cross_entropy(tensor, **arguments, constant=True)]
        with mygrad.no_autodiff:
            losses.append(module.softmax_cross_entropy(tensor, **arguments))
        arguments[name] = mygrad.tensor(given, constant=True)
        losses.append(module.softmax_cross_entropy(tensor, **arguments))
        assert [float(loss) for loss in losses] == [want] * 3


@pytest.mark.parametrize("name", ["autograd", "mygrad"])
def test_options_that_change_the_result(name: str) -> None:
    module = pytest.importorskip(f"xent_fast.{name}", exc_type=ModuleNotFoundError)
    logits, labels = problem("index", {})
    for option in ("out", "return_statistics"):
        with pytest.raises(TypeError, match=f"does not take '{option}'"):
            module.softmax_cross_entropy(logits, labels, **{option: None})


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_named_with_its_extra(name: str) -> None:
    code = f"""
import sys
sys.modules["{name}"] = None
try:
    import xent_fast.{name}
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'xent_fast[{name}]'" in done.stdout


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_module_imports_its_framework_alone(name: str) -> None:
    pytest.importorskip(name, exc_type=ModuleNotFoundError)
    code = f"""
import sys
import {name}
before = set(sys.modules)
import xent_fast.{name}
others = set({FRAMEWORKS}) - {{"{name}"}}
print(sorted({{new.partition(".")[0] for new in set(sys.modules) - before}} & others))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
