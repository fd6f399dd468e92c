"""The calling thread's floating-point mode, set through the C library's fenv.h.

Knows where glibc's and musl's `fenv_t` keep the control register of x86-64 and 64-bit Arm.
Must not know the library under test.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MACHINE = platform.machine().lower()
# Index of the control register among the 32-bit words of fenv_t, its default, the bits that are
# modes, and the modes. A trap that is sprung ends the process.
if MACHINE in ("x86_64", "amd64"):
    WORD, DEFAULT, MODE_BITS = 7, 0x1F80, 0xFFC0
    MODES = {
        "flush to zero": DEFAULT | 0x8000,
        "no subnormals": DEFAULT | 0x8040,
        "round down": DEFAULT | 0x2000,
        "round up": DEFAULT | 0x4000,
        "round to zero": DEFAULT | 0x6000,
        "round down, no subnormals": DEFAULT | 0xA040,
        "trap everything": 0x0000,
    }
else:
    WORD, DEFAULT, MODE_BITS = 0, 0, 0x07C89F00
    MODES = {
        "no subnormals": 1 << 24,
        "round up": 1 << 22,
        "round down": 2 << 22,
        "round to zero": 3 << 22,
        "round down, no subnormals": 2 << 22 | 1 << 24,
        "one NaN": 1 << 25,
    }
IS_KNOWN = sys.platform == "linux" and MACHINE in ("x86_64", "aarch64")
_Environment = ctypes.c_uint32 * 16


@functools.cache  # it is looked for by processes, which compute, as nothing may under traps
def _mathematics() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("m") or None)


def current() -> int:
    """The mode of this thread."""
    environment = _Environment()
    _mathematics().fegetenv(environment)
    return environment[WORD] & MODE_BITS


def change(mode: int) -> None:
    """Make it the mode of this thread; no flag is raised then."""
    mathematics, environment = _mathematics(), _Environment()
    mathematics.fegetenv(environment)
    environment[WORD] = mode
    mathematics.fesetenv(environment)


@contextmanager
def in_mode(mode: int) -> Iterator[None]:
    """Run with that mode, and with the default one afterwards.

    Nothing else may compute meanwhile: no garbage collector, to which others add what they like.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    change(mode)
    try:
        yield
    finally:
        change(DEFAULT)
        if was_collecting:
            gc.enable()
