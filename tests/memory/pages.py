"""Arrays between pages that may not be touched: one byte too far ends the process.

Knows: how memory is mapped and protected on POSIX systems.
Must not know: what the arrays are for.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
FILLING = 0xFF  # as a float NaN, as an integer -1: around the array, in the pages that it lies in
SIDES = ("before", "behind", "around_rows")

_PROT_NONE = 0


class Region:
    """Some writable pages, each run of `run` pages between two that may not be touched."""

    def __init__(self, runs: int, run: int) -> None:
        pages = runs * (run + 1) + 1
        self.memory = np.frombuffer(mmap.mmap(-1, pages * PAGE), np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in range(0, pages, run + 1):
            address = ctypes.c_void_p(self.memory.ctypes.data + page * PAGE)
            if protect(address, ctypes.c_size_t(PAGE), _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        each = self.memory[PAGE:].reshape(runs, (run + 1) * PAGE)
        self.runs = each[:, : run * PAGE]


class Arena:
    """Hands out regions, and takes all of them back at once."""

    def __init__(self) -> None:
        self._regions: dict[tuple[int, int], list[Region]] = {}
        self._taken: dict[tuple[int, int], int] = {}
        self._placed: list[tuple[Region, np.ndarray, np.ndarray]] = []

    def reset(self) -> None:
        self._taken.clear()
        self._placed.clear()

    def placed(self, values: np.ndarray, side: str) -> np.ndarray:
        """A copy of the values, with their strides, whose neighbour on one side is out of bounds.

        With "around_rows" each row of a matrix, or each number of a vector, lies alone.
        """
        has_rows = values.ndim == 1 or (values.ndim == 2 and values.strides[1] == values.itemsize)
        if side == "around_rows" and has_rows and values.size:
            array, region = self._in_pages_of_their_own(values)
        else:
            array, region = self._in_one_run(values, side)
        array[...] = values
        self._placed.append((region, array, region.runs.copy()))
        return array

    def assert_nothing_else_written(self) -> None:
        """The bytes around every array, in the same pages, are as they were."""
        for region, array, before in self._placed:
            now = array.copy()
            array.view(np.ndarray)[...] = 0
            after = region.runs.copy()
            # The array's own bytes are made equal, so that only those around it can differ.
            region.runs[...] = before
            array[...] = 0
            same = np.array_equal(after, region.runs)
            array[...] = now
            assert same, "written next to an array"

    def _region(self, runs: int, run: int) -> Region:
        key = (runs, run)
        regions = self._regions.setdefault(key, [])
        position = self._taken.get(key, 0)
        if position == len(regions):
            regions.append(Region(runs, run))
        self._taken[key] = position + 1
        regions[position].runs.fill(FILLING)
        return regions[position]

    def _in_one_run(self, values: np.ndarray, side: str) -> tuple[np.ndarray, Region]:
        steps = [
            (length - 1) * stride
            for length, stride in zip(values.shape, values.strides, strict=True)
            if length
        ]
        below = -sum(step for step in steps if step < 0)
        size = below + sum(step for step in steps if step > 0) + values.itemsize
        region = self._region(1, max(-(-size // PAGE), 1))
        first = below if side == "before" else region.runs[0].size - size + below
        array = np.ndarray(values.shape, values.dtype, region.runs[0], first, values.strides)
        return array, region

    def _in_pages_of_their_own(self, values: np.ndarray) -> tuple[np.ndarray, Region]:
        size = values[0].nbytes
        region = self._region(len(values), max(-(-size // PAGE), 1))
        first = PAGE + region.runs[0].size - size
        step = region.runs[0].size + PAGE
        strides = (step, values.itemsize)[: values.ndim]
        return np.ndarray(values.shape, values.dtype, region.memory, first, strides), region
