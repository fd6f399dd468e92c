"""Repeat every public call, good and bad, and see whether anything is kept.

    python tests/memory/references.py [--quick]

Counts, before and after 10,000 calls (--quick: 100 of every 11th kind): the references to each
argument and to what results and messages share; Python's blocks in use; and, on glibc, the bytes
that the C library has given out, which is where workspaces and arrays come from.

Knows: how CPython and glibc count.
Must not know: the calls (calls.py), what is wrong with bad ones (tests/test_every_argument.py).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import calls  # noqa: E402
from test_every_argument import PAIRS, bad_calls  # noqa: E402

import xent_fast  # noqa: E402

ROWS, CLASSES = 24, 5
WARMING_UP = 20
# What a call may hold on to by mistake without its being an argument. Not float64: NumPy 2.4 itself
# keeps a reference to it in each np.empty, np.zeros or np.ones.
SHARED_OBJECTS = (
    *(None, True, False, (), "", "mean", float, tuple, np.ndarray, TypeError, ValueError),
    *(np.dtype(name) for name in ("f4", "i8", "?", ">f4")),
    *(getattr(xent_fast, name) for name in xent_fast.__all__),
)


class MallocInformation(ctypes.Structure):
    _fields_ = (("numbers", ctypes.c_size_t * 10),)


mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
if mallinfo2:
    mallinfo2.restype = MallocInformation


def counts(call: calls.Call) -> np.ndarray:
    """References to arguments, to what is shared; blocks; bytes in use, in units of 16."""
    gc.collect()
    information = mallinfo2() if mallinfo2 else MallocInformation()
    things = [*call.arrays, *SHARED_OBJECTS]
    in_use = information.numbers[4] + information.numbers[7]  # mapped, and given out
    return np.array([*map(sys.getrefcount, things), sys.getallocatedblocks(), in_use // 16])


def repeat(call: calls.Call, times: int) -> None:
    """A bad call raises."""
    for _ in range(times):
        with contextlib.suppress(TypeError, ValueError, IndexError):
            call()


def what_grows(call: calls.Call, times: int) -> list[str]:
    """What grows with the number of calls, each time that they are repeated.

    A cache that fills up, or a table that grows once, is no leak.
    """
    is_growing = np.array([True])
    for _ in range(4):
        repeat(call, WARMING_UP)
        counts(call)
        before = counts(call)
        repeat(call, times)
        is_growing = is_growing & (np.abs(counts(call) - before) > times // 2)
        if not is_growing.any():
            return []
    things = [f"references to {thing!r:.60}" for thing in [*call.arrays, *SHARED_OBJECTS]]
    names = [*things, "blocks", "bytes"]
    return [name for name, grows in zip(names, is_growing, strict=True) if grows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 calls, not 10,000, of every 11th")
    times, step = (100, 11) if parser.parse_args().quick else (10_000, 1)
    good = list(calls.every_call(ROWS, CLASSES, ("rows", "fortran", "axis_1")))[::step]
    bad = [
        calls.Call(
            f"{name}, {argument}={given[argument]!r:.30}", getattr(xent_fast, name), (), given
        )
        for name, argument in PAIRS
        for given, _, _ in bad_calls(name, argument)
    ][::step]
    gc.collect()
    gc.freeze()  # so that the collections before counting are quick
    faults = 0
    for call in good:
        call()
    for call in good + bad:
        found = what_grows(call, times)
        faults += bool(found)
        print(*(f"FAULT {call.name}: {what} grow\n" for what in found), sep="", end="")
    figures = {"calls_repeated": len(good), "errors_repeated": len(bad), "faults": faults}
    print(json.dumps(figures | {"executions": times * len(good + bad)}))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
