"""A forked child that does some work, and is given up where it hangs.

Knows how a child is forked and waited for. Must not know what it computes.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import sys
from collections.abc import Callable

TIME_LIMIT = 60


def right_in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` returns True in a child of this process, within the time limit."""

    def in_child() -> None:
        faulthandler.enable()
        sys.exit(not work())

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(TIME_LIMIT)
    code = child.exitcode
    child.kill()
    return code == 0
