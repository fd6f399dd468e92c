"""A forked child computes its parent's bits, whatever the parent's threads did before.

Knows the public functions, and how to give up on a child. Must not know how a fork is noticed.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xent_fast import show_config, softmax_cross_entropy_grad

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

TIME_LIMIT = 30.0
ROWS, CLASSES = 16_000, 100


def digest(num_threads: int | None = None) -> bytes:
    """The bits of the loss and gradient of a batch that is large enough for threads."""
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((ROWS, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, ROWS)
    loss, grad = softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=num_threads)
    return np.float64(loss).tobytes() + grad.tobytes()


def run_in_child(work: Callable[[], bool]) -> None:
    """Fork; `work` must return True in the child within the time limit."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            faulthandler.enable()
            status = 0 if work() else 1
        finally:
            os._exit(status)
    deadline = time.monotonic() + TIME_LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the child still hangs after {TIME_LIMIT} s")


@pytest.mark.parametrize("child_threads", [None, 1, 4])
def test_child_after_a_threaded_call(child_threads: int | None) -> None:
    want = digest(num_threads=4)
    run_in_child(lambda: digest(child_threads) == want)
    assert digest(num_threads=4) == want


def test_child_of_a_child() -> None:
    want = digest(num_threads=2)

    def compute_and_fork() -> bool:
        if digest(2) != want:
            return False
        run_in_child(lambda: digest(2) == want)
        return digest(2) == want

    run_in_child(compute_and_fork)


def test_many_children_one_after_another() -> None:
    for _ in range(10):
        want = digest(num_threads=3)
        run_in_child(lambda want=want: digest(3) == want)


def test_fork_from_another_thread() -> None:
    want = digest(num_threads=2)
    thread = threading.Thread(
        target=lambda: failures.append(caught(run_in_child, lambda: digest(2) == want))
    )
    failures: list[BaseException | None] = []
    thread.start()
    thread.join()
    assert failures == [None]


def caught(function: Callable[..., object], *arguments: object) -> BaseException | None:
    """The exception a call ends with: one that ends a thread would go unnoticed."""
    try:
        function(*arguments)
    except BaseException as error:
        return error
    return None


def test_child_says_it_has_one_thread() -> None:
    run_in_child(lambda: show_config("dicts")["threads"]["default"] == 1)


PARENT_WITHOUT_THREADS = """
import sys
sys.path.insert(0, {tests!r})
import test_fork

want = test_fork.digest(num_threads={parent_threads})
test_fork.run_in_child(lambda: test_fork.digest(num_threads=4) == want)
assert test_fork.digest(num_threads=4) == want
"""


@pytest.mark.parametrize("parent_threads", [1, 4])
def test_fresh_parent(parent_threads: int) -> None:
    """A process that computed with one thread only, or with several, before its first fork."""
    script = PARENT_WITHOUT_THREADS.format(
        tests=str(Path(__file__).parent), parent_threads=parent_threads
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=2 * TIME_LIMIT)


def test_multiprocessing_with_the_fork_context() -> None:
    want = digest(num_threads=2)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map_async(digest, [None, 1, 2, 4] * 3)
        assert set(results.get(TIME_LIMIT)) == {want}
    assert digest(num_threads=2) == want
