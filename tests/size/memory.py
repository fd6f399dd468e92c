"""Arrays that are larger than memory: what is read but never written, and what is written in turn.

Knows the system's memory maps. Must not know the library under test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress

import numpy as np

PAGE = mmap.PAGESIZE
WINDOW = 1 << 25
_NO_RESERVE = 0x4000
_FIXED = 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_longlong,
)


def zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros that take no memory until they are written, however many."""
    count = int(np.prod(shape, dtype=object))
    size = max(count * np.dtype(dtype).itemsize, 1)
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    with suppress(OSError):  # a system without large pages takes longer
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, dtype, count).reshape(shape)


def at_stride(shape: tuple[int, int], strides: tuple[int, int], dtype: type) -> np.ndarray:
    """Zeros any number of bytes apart, backwards too; only the pages written take memory."""
    steps = [(length - 1) * stride for length, stride in zip(shape, strides, strict=True)]
    whole = zeros((sum(map(abs, steps)) + np.dtype(dtype).itemsize,), np.uint8)
    first = -sum(step for step in steps if step < 0)
    return np.ndarray(shape, dtype, whole, first, strides)


def recurring(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Memory that can be written whole but takes 128 MiB at most.

    All but the first 32 MiB and the last 32 to 64 MiB is the same 32 MiB over and over.
    """
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    whole = zeros((size,), np.uint8)
    begin = whole.ctypes.data + WINDOW
    descriptor = os.memfd_create("recurring")
    os.ftruncate(descriptor, WINDOW)
    for place in range(begin, whole.ctypes.data + size - 2 * WINDOW, WINDOW):
        got = _libc.mmap(
            place,
            WINDOW,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_SHARED | _FIXED,
            descriptor,
            0,
        )
        if got != place:
            raise OSError(ctypes.get_errno(), "mmap")
    os.close(descriptor)
    return whole.view(dtype).reshape(shape)
