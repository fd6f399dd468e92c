"""`xent_fast.dask` beside the undivided call, on threads and on workers that are killed.

Knows: the public functions, Dask. Must not know: which tasks the module makes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from helpers import PEAK

from xent_fast import softmax_cross_entropy_grad

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from xent_fast import dask as xent_dask  # noqa: E402

SYNC = {"scheduler": "synchronous"}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum", "scale": 0.3},
    "none": {"reduction": "none"},
    "nothing": {"sample_weight": "zeros"},
    "every": {
        "ignore_index": 1,
        "label_smoothing": 0.1,
        "temperature": 1.3,
        "z_loss": 0.01,
        "weight": "random",
        "sample_weight": "random",
    },
    "every, none": {"weight": "random", "reduction": "none", "sample_weight": "random"},
}


def make_problem(
    option: str, kind: str, shape: tuple[int, ...], axis: int, seed: int = 0
) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal(shape)).astype(np.float32)
    row_shape = tuple(np.delete(shape, axis))
    options = {**OPTIONS[option], "axis": axis}
    targets: Any = rng.integers(0, shape[axis], row_shape)
    if kind == "dense":
        targets = rng.random(shape).astype(np.float32)
        options.pop("ignore_index", None)
    if "weight" in options:
        options["weight"] = rng.random(shape[axis]) + 0.5
    if "sample_weight" in options:
        weights = rng.random(row_shape) + 0.5
        options["sample_weight"] = weights if options["sample_weight"] == "random" else 0 * weights
    return logits, targets, options


def compare(logits: np.ndarray, targets: Any, chunks: Any, options: dict[str, Any]) -> None:
    lazy = da.from_array(logits, chunks=chunks)
    both = xent_dask.softmax_cross_entropy_grad(lazy, targets, **options)
    alone = xent_dask.softmax_cross_entropy(lazy, targets, **options)
    want = softmax_cross_entropy_grad(logits, targets, **options)
    assert both.grad.chunks == lazy.chunks
    assert both.grad.dtype == logits.dtype
    loss, grad, loss_alone = dask.compute(*both, alone, **SYNC)
    np.testing.assert_array_equal(loss_alone, loss)
    assert loss.dtype == both.loss.dtype
    assert loss.shape == both.loss.shape
    if options.get("reduction") == "none":
        np.testing.assert_array_max_ulp(loss, want.loss, 1)
    np.testing.assert_allclose(loss, want.loss, rtol=3e-7)
    np.testing.assert_allclose(grad, want.grad, rtol=0, atol=1e-6 * np.abs(want.grad).max())


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_as_one_call(option: str, kind: str) -> None:
    logits, targets, options = make_problem(option, kind, (13, 300), -1)
    compare(logits, targets, (5, 70), options)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis(axis: int) -> None:
    logits, targets, options = make_problem("every", "index", (6, 7, 8), axis)
    compare(logits, targets, (2, 3, 5), options)
    logits, targets, options = make_problem("none", "dense", (6, 7, 8), axis)
    compare(logits, targets, (2, 3, 5), options)


def test_one_row_and_no_rows() -> None:
    logits, targets, options = make_problem("plain", "index", (9,), 0)
    compare(logits, targets, 4, options)
    loss, grad = xent_dask.softmax_cross_entropy_grad(da.zeros((0, 5)), np.zeros(0, int))
    assert np.isnan(loss.compute(**SYNC))
    assert grad.compute(**SYNC).shape == (0, 5)


@st.composite
def cut(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    borders = sorted(draw(st.sets(st.integers(1, size - 1), max_size=5)))
    return tuple(np.diff([0, *borders, size]).tolist())


@settings(max_examples=25, deadline=None)
@given(
    rows=cut(9),
    classes=cut(200),
    option=st.sampled_from(list(OPTIONS)),
    kind=st.sampled_from(["index", "dense"]),
    seed=st.integers(0, 99),
)
def test_any_chunks(
    rows: tuple[int, ...], classes: tuple[int, ...], option: str, kind: str, seed: int
) -> None:
    logits, targets, options = make_problem(option, kind, (9, 200), -1, seed)
    compare(logits, targets, (rows, classes), options)


def test_same_bits_where_chunks_end_at_blocks() -> None:
    logits, targets, options = make_problem("none", "index", (5, 5 * 2048 + 9), -1)
    lazy = da.from_array(logits, chunks=(2, 2048))
    loss, grad = dask.compute(*xent_dask.softmax_cross_entropy_grad(lazy, targets, **options))
    want = softmax_cross_entropy_grad(logits, targets, **options)
    np.testing.assert_array_equal(loss, want.loss)
    np.testing.assert_array_equal(grad, want.grad)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("option", ["plain", "none"])
def test_16_bits(option: str, kind: str, dtype: str) -> None:
    """The results of the same numbers in float32, the gradient rounded once."""
    half = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    logits, targets, options = make_problem(option, kind, (13, 300), -1)
    logits = logits.astype(half)
    results = []
    for numbers in (logits, logits.astype(np.float32)):
        lazy = da.from_array(numbers, chunks=(5, 70))
        results.append(xent_dask.softmax_cross_entropy_grad(lazy, targets, **options))
    (loss, grad), want = dask.compute(*results, **SYNC)
    assert results[0].grad.dtype == grad.dtype == half
    assert results[0].loss.dtype == loss.dtype == want[0].dtype
    np.testing.assert_array_equal(loss, want[0])
    np.testing.assert_array_equal(grad.view(np.uint16), want[1].astype(half).view(np.uint16))


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    def refuse(block: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    logits = da.zeros((4, 6), chunks=2).map_blocks(refuse, meta=np.zeros((0, 0)))
    loss, grad = xent_dask.softmax_cross_entropy_grad(logits, [0, 1, 2, 3])
    for lazy in (loss, grad):
        with pytest.raises(AssertionError, match="computed"):
            lazy.compute(**SYNC)


def test_loss_and_gradient_share_their_work() -> None:
    computed = []

    def tell(block: np.ndarray) -> np.ndarray:
        computed.append(block.shape)
        return block

    logits = da.zeros((4, 6), chunks=(2, 3)).map_blocks(tell, meta=np.zeros((0, 0)))
    dask.compute(*xent_dask.softmax_cross_entropy_grad(logits, [0, 1, 2, 3]), **SYNC)
    assert computed == [(2, 3)] * 4


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"logits": np.zeros((4, 6))}, TypeError, "must be a dask array, not ndarray: take"),
        ({"logits": da.zeros((4, 6), dtype=int)}, TypeError, "logits must be float16"),
        ({"targets": [0, 1]}, ValueError, r"class indices must have shape \(4,\)"),
        ({"targets": [0.0, 1, 2, 3]}, TypeError, "integers"),
        ({"targets": np.zeros((4, 5))}, ValueError, r"targets must have shape"),
        ({"targets": np.zeros((4, 6)), "ignore_index": 0}, ValueError, "ignore_index needs"),
        ({"axis": 2}, np.exceptions.AxisError, "axis 2"),
        ({"weight": np.ones(5)}, ValueError, r"weight must have shape \(6,\), not \(5,\)"),
        ({"sample_weight": np.ones(5)}, ValueError, r"sample_weight must have shape \(4,\)"),
        ({"sample_weight": ["a"] * 4}, TypeError, "sample_weight"),
        ({"reduction": "all"}, ValueError, "reduction"),
        ({"temperature": 0}, ValueError, "temperature"),
        ({"z_loss": "a"}, TypeError, "z_loss"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    arguments = {"logits": da.zeros((4, 6), chunks=2), "targets": [0, 1, 2, 3], **change}
    with pytest.raises(kind, match=message):
        xent_dask.softmax_cross_entropy_grad(**arguments)


def test_unknown_chunks() -> None:
    logits = da.zeros((4, 6), chunks=2)
    some = logits[da.arange(4, chunks=2) > 1]
    with pytest.raises(ValueError, match=r"call logits\.compute_chunk_sizes\(\) first"):
        xent_dask.softmax_cross_entropy(some, [0, 1])


def test_bad_values_are_told_with_their_rows() -> None:
    logits = da.zeros((6, 5), chunks=2)
    with pytest.raises(IndexError, match=r"index 5 is out of bounds .*targets\[1\]") as raised:
        xent_dask.softmax_cross_entropy(logits, [0, 1, 2, 5, 0, 0]).compute(**SYNC)
    assert raised.value.__notes__ == ["targets are here those of rows [2:4]"]
    with pytest.raises(ValueError, match="sample_weight must not be negative"):
        xent_dask.softmax_cross_entropy(logits, [0] * 6, sample_weight=[-1] * 6).compute(**SYNC)


MEMORY = """
import dask.array as da
from xent_fast.dask import softmax_cross_entropy
import numpy as np
logits = da.ones((4096, 32_000), chunks=(512, 8000), dtype=np.float32)
softmax_cross_entropy(logits[:8, :16], [0] * 8).compute(scheduler="synchronous")
before = peak()
loss = softmax_cross_entropy(logits, np.zeros(4096, int)).compute(scheduler="synchronous")
assert abs(loss - np.log(32_000)) < 1e-5
print(peak() - before)
"""


def test_memory_is_that_of_chunks() -> None:
    """524 MB of logits in chunks of 16 MB: their statistics and three chunks at once."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK + MEMORY],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert 512 * 8000 * 4 < int(run.stdout) < 3 * 512 * 8000 * 4


def _killed(block: np.ndarray, pids: set[int]) -> np.ndarray:
    """The chunk, but in these processes: they end as those do that run out of memory."""
    time.sleep(0.05)
    if os.getpid() in pids:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return block


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_are_killed() -> None:
    """Both are killed amid the work and started again: the same bits come out."""
    distributed = pytest.importorskip("distributed")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((64, 4096)).astype(np.float32)
    labels = rng.integers(0, 4096, 64)
    lazy = da.from_array(logits, chunks=(16, 1024))
    expected = dask.compute(*xent_dask.softmax_cross_entropy_grad(lazy, labels), **SYNC)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        dying = lazy.map_blocks(
            _killed, set(pids.values()), dtype=np.float32, meta=np.zeros((0, 0), "f4")
        )
        results = xent_dask.softmax_cross_entropy_grad(dying, labels)
        loss, grad = client.compute(list(results), sync=False)
        loss, grad = client.gather([loss, grad])
        client.wait_for_workers(2, timeout=60)
        later = client.run(os.getpid)
    assert len(pids) == len(later) == 2
    assert not set(pids.values()) & set(later.values())
    assert loss == expected[0]
    np.testing.assert_array_equal(grad, expected[1])
