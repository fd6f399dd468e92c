"""`xent_fast.jax` beside optax: values, every derivative, jit and vmap.

Knows optax's conventions. Must not know how either computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", exc_type=ModuleNotFoundError)
optax = pytest.importorskip("optax", exc_type=ModuleNotFoundError)
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import xent_fast  # noqa: E402
from xent_fast import _xla  # noqa: E402
from xent_fast.jax import (  # noqa: E402
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    value_and_grad_on_host,
)

KINDS = {
    "index": (
        softmax_cross_entropy_with_integer_labels,
        optax.softmax_cross_entropy_with_integer_labels,
    ),
    "dense": (softmax_cross_entropy, optax.softmax_cross_entropy),
}


@pytest.fixture(autouse=True)
def _double_precision() -> Any:
    with jax.enable_x64(True):
        yield


def problem(kind: str, shape: tuple[int, ...] = (6, 4), dtype: Any = None) -> tuple[Any, Any]:
    rng = np.random.default_rng(len(shape))
    logits = jnp.asarray(3 * rng.standard_normal(shape), dtype)
    if kind == "dense":
        return logits, jnp.asarray(rng.random(shape), dtype)
    return logits, jnp.asarray(rng.integers(0, shape[-1], shape[:-1]))


def assert_equal(got: Any, want: Any, tolerance: float = 1e-12) -> None:
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(
            np.asarray(ours, float), np.asarray(theirs, float), tolerance, tolerance
        )


@pytest.mark.parametrize("is_jitted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5,), (6, 4), (3, 40), (2, 5, 4), (0, 4)])
def test_values_and_gradients(shape: tuple[int, ...], kind: str, is_jitted: bool) -> None:
    logits, labels = problem(kind, shape)
    row_weight = jnp.arange(1.0, np.prod(shape[:-1]) + 1).reshape(shape[:-1])
    results = []
    for function in KINDS[kind]:

        def loss(x: Any, function: Any = function) -> Any:
            rows = function(x, labels)
            return (row_weight * rows).sum(), rows

        call = jax.value_and_grad(loss, has_aux=True)
        results.append((jax.jit(call) if is_jitted else call)(logits))
    assert_equal(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_every_order_by_differences(kind: str) -> None:
    """Forward and backward, three times; dense labels too."""
    ours, _ = KINDS[kind]
    logits, labels = problem(kind)
    if kind == "dense":
        check_grads(ours, (logits, labels), order=3)
    else:
        check_grads(lambda x: ours(x, labels), (logits,), order=3)


@pytest.mark.parametrize("kind", KINDS)
def test_transformations(kind: str) -> None:
    logits, labels = problem(kind)
    for transformed in (
        lambda f: jax.jit(jax.hessian(lambda x: f(x, labels).mean()))(logits),
        lambda f: jax.vmap(jax.grad(f))(logits, labels),
        lambda f: jax.vmap(jax.hessian(f))(logits, labels),
        lambda f: jax.vmap(f, in_axes=(None, 0))(logits, jnp.stack([labels, labels[::-1]])),
        lambda f: jax.jvp(lambda x: f(x, labels), (logits,), (jnp.ones_like(logits),)),
        lambda f: jax.lax.map(lambda both: f(*both), (logits, labels)),
        lambda f: jax.grad(lambda x: jax.checkpoint(f)(x, labels).sum())(logits),
        lambda f: jax.vmap(lambda x: f(x, labels, axis=-1))(jnp.stack([logits, -logits])),
    ):
        results = [jax.jit(lambda f=f, t=transformed: t(f))() for f in KINDS[kind]]
        assert_equal(*results)


def test_axis() -> None:
    logits, labels = problem("index", (5, 4))
    for axis in (0, -2):
        got = softmax_cross_entropy_with_integer_labels(logits.T, labels, axis=axis)
        assert_equal(got, softmax_cross_entropy_with_integer_labels(logits, labels))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_other_dtypes(dtype: Any) -> None:
    for kind, functions in KINDS.items():
        logits, labels = problem(kind, (6, 40), dtype)
        results = [
            jax.jit(jax.value_and_grad(lambda x, f=function, y=labels: f(x, y).sum()))(logits)
            for function in functions
        ]
        tolerance = 20 * float(jnp.finfo(dtype).eps)
        assert_equal(*results, tolerance=tolerance)
        vector = problem("index", (6, 40), dtype)[0][::-1]
        products = []
        for function, of in zip(functions, (dtype, jnp.float64), strict=True):
            y = labels if kind == "index" else labels.astype(of)
            gradient = jax.grad(lambda x, f=function, y=y: f(x, y).sum())
            along = jax.jit(lambda x, v, g=gradient: jax.jvp(g, (x,), (v,))[1])
            products.append(along(logits.astype(of), vector.astype(of)).astype(float))
        assert_equal(*products, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.int32, jnp.uint32, jnp.int64])
def test_label_dtypes(dtype: Any) -> None:
    logits, labels = problem("index")
    got = softmax_cross_entropy_with_integer_labels(logits, labels.astype(dtype))
    assert_equal(got, softmax_cross_entropy_with_integer_labels(logits, labels))


@pytest.mark.parametrize("is_jitted", [False, True])
def test_label_out_of_range(is_jitted: bool) -> None:
    function = softmax_cross_entropy_with_integer_labels
    function = jax.jit(function) if is_jitted else function
    with pytest.raises(jax.errors.JaxRuntimeError, match="IndexError: index 4 is out of bounds"):
        jax.block_until_ready(function(jnp.zeros((2, 4)), jnp.array([0, 4])))
    many = jnp.zeros((2, 3), int).at[1, 2].set(-5)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"index -5 .* size 4 \(labels\[1, 2\]\)"):
        jax.block_until_ready(function(jnp.zeros((2, 3, 4)), many))


def test_bad_input() -> None:
    logits, labels = problem("index")
    with pytest.raises(TypeError, match="labels must be integers, not float64"):
        softmax_cross_entropy_with_integer_labels(logits, labels * 1.0)
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\), not \(5,\)"):
        softmax_cross_entropy_with_integer_labels(logits, labels[:5])
    with pytest.raises(ValueError, match=r"labels must have shape \(6, 4\), not \(6,\)"):
        softmax_cross_entropy(logits, labels)
    with pytest.raises(TypeError, match="logits must be floating-point, not int64"):
        softmax_cross_entropy(labels, labels)
    with pytest.raises(ValueError, match="axis 2 is out of bounds"):
        softmax_cross_entropy(logits, logits, axis=2)


# --- how XLA reaches the loss ---


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_by_a_callback(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no compiler is at hand, and for another class axis."""
    logits, labels = problem(kind, (3, 40))
    ours = KINDS[kind][0]

    def results(x: Any) -> Any:
        rows, pull = jax.vjp(lambda x: ours(x, labels), x)
        return rows, pull(jnp.ones_like(rows))

    by_xla = jax.jit(results).lower(logits)
    assert "xent_fast_xla_losses_and_grads" in by_xla.as_text()
    monkeypatch.setattr(_xla, "is_available", lambda: False)
    jax.clear_caches()
    by_callback = jax.jit(lambda x: results(x)).lower(logits)
    assert "xent_fast_xla" not in by_callback.as_text()
    for got, want in zip(by_callback.compile()(logits), by_xla.compile()(logits), strict=True):
        np.testing.assert_array_equal(got, want)
    jax.clear_caches()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_goes_to_the_core_as_it_lies(
    kind: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under jit and by a callback: the bits of the core's own losses, each rounded once more."""
    logits, labels = problem(kind, (6, 40), dtype)
    want = xent_fast.softmax_cross_entropy_grad(
        np.asarray(logits), np.asarray(labels), reduction="none"
    )

    def results(x: Any) -> Any:
        rows, pull = jax.vjp(lambda x: KINDS[kind][0](x, labels), x)
        return rows, pull(jnp.ones_like(rows))

    for is_by_xla in (True, False):
        jax.clear_caches()
        if not is_by_xla:
            monkeypatch.setattr(_xla, "is_available", lambda: False)
        compiled = jax.jit(results).lower(logits).compile()
        assert "f32[6,40]" not in compiled.as_text()
        losses, (grad,) = compiled(logits)
        assert losses.dtype == grad.dtype == dtype
        np.testing.assert_array_equal(losses, want.loss.astype(losses.dtype))
        np.testing.assert_array_equal(grad, want.grad)
    jax.clear_caches()


def test_gradient_takes_the_place_of_logits_that_are_done_with() -> None:
    logits, labels = problem("index", (64, 4000))

    def step(x: Any) -> Any:
        return jax.grad(lambda y: softmax_cross_entropy_with_integer_labels(y, labels).sum())(2 * x)

    memory = jax.jit(step).lower(logits).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * logits.nbytes


def test_compiled_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for compiler in ("no-such-compiler", "false"):  # there is none, or it fails
        monkeypatch.setenv("CC", compiler)
        assert not _xla.is_available.__wrapped__()
    monkeypatch.setenv("CC", "cc -O1")  # with an argument
    assert _xla._load().xent_fast_xla_losses
    (library,) = (tmp_path / "xent_fast").iterdir()
    made = library.stat().st_mtime_ns
    monkeypatch.setenv("CC", "no-such-compiler")
    assert _xla._load().xent_fast_xla_losses
    assert library.stat().st_mtime_ns == made


def test_cache_that_cannot_be_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder))
    assert _xla._load().xent_fast_xla_losses


# --- outside jit ---


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_on_the_host(dtype: Any) -> None:
    logits, labels = problem("index", (6, 40), dtype)
    loss, grad = value_and_grad_on_host(logits, labels, label_smoothing=0.1)
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, 40), 0.1)

    def theirs(x: Any) -> Any:
        return optax.softmax_cross_entropy(x, smoothed).mean()

    want = jax.value_and_grad(theirs)(logits.astype(jnp.float64))
    assert isinstance(grad, jax.Array)
    assert isinstance(loss, float)
    assert grad.dtype == dtype
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(loss, want[0], tolerance)
    np.testing.assert_allclose(grad.astype(float), want[1], tolerance, tolerance)


def test_on_the_host_reads_and_writes_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    import xent_fast.jax

    seen = []
    own = xent_fast.jax._loss_and_grad

    def noted(logits: Any, labels: Any, **options: Any) -> Any:
        seen.append((logits.ctypes.data, options["out"].ctypes.data))
        return own(logits, labels, **options)

    monkeypatch.setattr(xent_fast.jax, "_loss_and_grad", noted)
    logits, labels = problem("index", (64, 100))
    _, grad = value_and_grad_on_host(logits, labels)
    assert seen == [(logits.unsafe_buffer_pointer(), grad.unsafe_buffer_pointer())]


def test_on_the_host_inside_a_transformation() -> None:
    logits, labels = problem("index")
    with pytest.raises(TypeError, match="called inside jit, grad or vmap"):
        jax.jit(value_and_grad_on_host)(logits, labels)
    for name in ("out", "return_statistics"):
        with pytest.raises(TypeError, match=f"does not take '{name}'"):
            value_and_grad_on_host(logits, labels, **{name: None})
