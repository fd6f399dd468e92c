"""The glue whose lines docs/frameworks.md counts does what it is said to do.

Knows: each framework's derivatives. Must not know: how the glue computes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xent_fast
from xent_fast import reference

ROOT = Path(__file__).parent.parent.parent
RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.standard_normal((5, 4)), RNG.integers(0, 4, 5)
VECTOR = RNG.standard_normal((5, 4))
EXPECTED = reference.softmax_cross_entropy_grad(LOGITS, LABELS)
PRODUCT = xent_fast.softmax_cross_entropy_hvp(LOGITS, LABELS, VECTOR)


@pytest.fixture(scope="module")
def glue() -> Any:
    spec = importlib.util.spec_from_file_location("glue", ROOT / "benchmarks" / "glue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_as_expected(loss: Any, grad: Any) -> bool:
    return bool(np.isclose(float(loss), EXPECTED[0]) and np.allclose(np.asarray(grad), EXPECTED[1]))


@pytest.mark.parametrize("name", ["itself", "by_module", "by_module_in_place", "by_hand"])
def test_torch(glue: Any, name: str) -> None:
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(LOGITS, requires_grad=True)
    logits = leaf * 1 if name == "by_module_in_place" else leaf
    loss = getattr(glue, f"torch_{name}")()(logits, torch.tensor(LABELS))
    (grad,) = torch.autograd.grad(loss, leaf, create_graph=name != "by_module_in_place")
    assert is_as_expected(loss.detach(), grad.detach())
    if name != "by_module_in_place":
        (product,) = torch.autograd.grad(grad, leaf, torch.tensor(VECTOR))
        assert np.allclose(product, PRODUCT)


@pytest.mark.parametrize("name", ["itself", "by_module", "by_hand"])
def test_jax(glue: Any, name: str) -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    rows = getattr(glue, f"jax_{name}")()
    loss = jax.jit(jax.value_and_grad(lambda x: rows(x, LABELS).mean()))
    assert np.allclose(loss(LOGITS.astype(np.float32))[0], EXPECTED[0], rtol=1e-6)
    assert np.allclose(loss(LOGITS.astype(np.float32))[1], EXPECTED[1], atol=1e-7)


@pytest.mark.parametrize("name", ["by_module", "by_hand"])
def test_jax_on_host(glue: Any, name: str) -> None:
    jax = pytest.importorskip("jax")
    logits = jax.numpy.asarray(LOGITS.astype(np.float32))
    loss, grad = getattr(glue, f"jax_on_host_{name}")()(logits, jax.numpy.asarray(LABELS))
    assert np.allclose(loss, EXPECTED[0], rtol=1e-6)
    assert np.allclose(grad, EXPECTED[1], atol=1e-7)


@pytest.mark.parametrize("name", ["itself", "by_module", "by_hand"])
def test_autograd(glue: Any, name: str) -> None:
    autograd = pytest.importorskip("autograd")
    loss = getattr(glue, f"autograd_{name}")()
    assert is_as_expected(*autograd.value_and_grad(lambda x: loss(x, LABELS))(LOGITS))
    product = autograd.hessian_vector_product(lambda x: loss(x, LABELS))(LOGITS, VECTOR)
    assert np.allclose(product, PRODUCT)


@pytest.mark.parametrize("name", ["itself", "by_module", "by_hand"])
def test_mygrad(glue: Any, name: str) -> None:
    mygrad = pytest.importorskip("mygrad")
    logits = mygrad.tensor(LOGITS)
    loss = getattr(glue, f"mygrad_{name}")()(logits, LABELS)
    loss.backward()
    assert is_as_expected(loss.data, logits.grad)


def test_lines_are_those_of_code(glue: Any) -> None:
    def program() -> Any:
        """Count me not."""
        import math

        # nor me
        return lambda x: math.exp(x)  # but me

    assert glue.lines_of(program) == 2
    assert glue.lines_of(glue.mygrad_by_module) == 2
