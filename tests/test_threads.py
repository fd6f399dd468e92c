"""Any number of threads may call at once, whoever started them and whatever else they are doing.

Knows the public functions and the ways in which threads meet. Must not know what the right result
is: it is that of the same call alone.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from threads.calls import CALLS, Inputs, bits

from xent_fast import show_config, softmax_cross_entropy_grad

ROOM = Path(__file__).parent / "threads"
TIME_LIMIT = 120
# More than one chunk of rows, so that threads share them, or a row that they share.
SHAPES = ((2000, 10), (20, 1000), (1, 40_000))
CALLERS = 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_many_threads_with_shared_inputs(name: str, shape: tuple[int, int], dtype: type) -> None:
    inputs = Inputs.of(*shape, dtype)
    want = bits(CALLS[name](inputs, 1))
    together = threading.Barrier(CALLERS)

    def caller(number: int) -> bool:
        together.wait(TIME_LIMIT)
        threads = (None, 1, 2)[number % 3]
        return bits(CALLS[name](inputs, threads)) == want

    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(caller, range(CALLERS)))


def test_different_functions_at_once() -> None:
    inputs = [Inputs.of(*shape) for shape in SHAPES]
    jobs = [(name, i) for name in CALLS for i in inputs]
    want = [bits(CALLS[name](i, 1)) for name, i in jobs]
    with ThreadPoolExecutor(CALLERS) as pool:
        got = list(pool.map(lambda job: bits(CALLS[job[0]](job[1], None)), jobs))
    assert got == want


def test_limits_of_threadpoolctl_hold_and_change_no_bit() -> None:
    inputs = Inputs.of(*SHAPES[0])
    want = bits(CALLS["softmax_cross_entropy_grad"](inputs, 1))

    def under(limit: int) -> bool:
        with threadpool_limits(limit):
            return bits(CALLS["softmax_cross_entropy_grad"](inputs, None)) == want

    for limit in (1, 2):
        with threadpool_limits(limit):
            assert show_config("dicts")["threads"]["default"] <= limit
    with ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(under, [1, 2, 3] * 4))


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the GIL"
)
def test_free_threaded_python_stays_free() -> None:
    """Importing the package alone does not bring the global lock back."""
    script = "import sys, xent_fast; sys.exit(sys._is_gil_enabled())"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=TIME_LIMIT)


def compiler() -> list[str] | None:
    """The C compiler that builds extensions here, if it is there."""
    command = (sysconfig.get_config_var("CC") or "cc").split()
    return command if shutil.which(command[0]) else None


@pytest.mark.thread_unsafe(reason="sets how deep the process's parallel regions may nest")
@pytest.mark.skipif(compiler() is None, reason="needs a C compiler")
@pytest.mark.skipif(
    show_config("dicts")["threads"]["openmp"] is None, reason="needs a build with OpenMP"
)
@pytest.mark.parametrize("shape", [(2000, 10), (1, 40_000)], ids=str)
def test_inside_a_parallel_region_of_the_caller(shape: tuple[int, int], tmp_path: Path) -> None:
    """Its threads call every function, with regions of two levels and of one, the default."""
    library = tmp_path / "nested.so"
    subprocess.run(
        [*compiler(), "-fopenmp", "-shared", "-fPIC", str(ROOM / "nested.c"), "-o", str(library)],
        check=True,
        timeout=TIME_LIMIT,
    )
    inputs = Inputs.of(*shape)
    want = {name: bits(call(inputs, 1)) for name, call in CALLS.items()}
    right = []

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def work(thread: int) -> None:
        for name, call in CALLS.items():
            right.append((name, bits(call(inputs, None if thread == 0 else 4)) == want[name]))

    for levels in (2, 1):
        assert ctypes.CDLL(str(library)).call_in_parallel(3, levels, work) == 3
    assert len(right) == 2 * 3 * len(CALLS), "a call raised"
    assert not [name for name, is_right in right if not is_right]


@pytest.mark.parametrize("bad", [None, 0, 300_000, 599_999])
def test_many_labels(bad: int | None) -> None:
    """So many are checked by threads; the first bad one is named, and nothing was written."""
    labels = np.arange(600_000) % 3
    labels[::7] = -1
    logits = np.zeros((len(labels), 2), dtype=np.float32)
    labels[labels == 2] = 0
    logits[:, 1] = 1
    out = np.full_like(logits, 7)
    if bad is None:
        one = softmax_cross_entropy_grad(logits, labels, ignore_index=-1, num_threads=1)
        two = softmax_cross_entropy_grad(logits, labels, ignore_index=-1, num_threads=2, out=out)
        assert two.loss == one.loss
        np.testing.assert_array_equal(two.grad, one.grad)
        return
    labels[bad] = 2
    labels[599_999] = 2
    with pytest.raises(IndexError, match=rf"targets\[{bad}\]"):
        softmax_cross_entropy_grad(logits, labels, ignore_index=-1, num_threads=2, out=out)
    assert (out == 7).all()
