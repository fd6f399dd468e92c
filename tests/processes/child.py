"""A forked child that does some work, and is given up where it hangs.

Knows how a child is forked and waited for. Must not know what it computes.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable

TIME_LIMIT = 60


def right_in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` returns True in a child of this process, within the time limit."""
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
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
