"""A forked child computes its parent's bits, whatever the parent's threads did before.

Knows who may fork, and when; pools of processes are tests/test_processes.py's.
Must not know how a fork is noticed, nor what is computed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes.child import TIME_LIMIT, right_in_child
from processes.work import digest

from xent_fast import show_config

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.mark.parametrize("child_threads", [None, 1, 4])
def test_child_after_a_threaded_call(child_threads: int | None) -> None:
    want = digest(num_threads=4)
    assert right_in_child(lambda: digest(child_threads) == want)
    assert digest(num_threads=4) == want


def test_child_of_a_child() -> None:
    want = digest(num_threads=2)

    def compute_and_fork() -> bool:
        return digest(2) == want and right_in_child(lambda: digest(2) == want) and digest(2) == want

    assert right_in_child(compute_and_fork)


def test_many_children_one_after_another() -> None:
    for _ in range(10):
        want = digest(num_threads=3)
        assert right_in_child(lambda want=want: digest(3) == want)


def test_fork_from_another_thread() -> None:
    want, right = digest(num_threads=2), []
    thread = threading.Thread(
        target=lambda: right.append(right_in_child(lambda: digest(2) == want))
    )
    thread.start()
    thread.join()
    assert right == [True]


def test_child_says_it_has_one_thread() -> None:
    assert right_in_child(lambda: show_config("dicts")["threads"]["default"] == 1)


PARENT_WITHOUT_THREADS = """
import sys
sys.path.insert(0, {tests!r})
from processes.child import right_in_child
from processes.work import digest

want = digest(num_threads={parent_threads})
assert right_in_child(lambda: digest(num_threads=4) == want)
assert digest(num_threads=4) == want
"""


@pytest.mark.parametrize("parent_threads", [1, 4])
def test_fresh_parent(parent_threads: int) -> None:
    """A process that computed with one thread only, or with several, before its first fork."""
    script = PARENT_WITHOUT_THREADS.format(
        tests=str(Path(__file__).parent), parent_threads=parent_threads
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=2 * TIME_LIMIT)
