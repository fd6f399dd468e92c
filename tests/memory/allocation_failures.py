"""Let each allocation of a call fail, one after another, and see what the call leaves behind.

    python tests/memory/allocation_failures.py [--quick]

A call whose n-th allocation fails must raise MemoryError and leave every array that it was given
as it was; where NumPy or Python can do without that memory, the call must do all that it should. So
for n = 1, 2, ... until the call makes fewer allocations. Where NumPy or Python itself turns the
failure into another exception, the arrays must stay as they were all the same. Needs a C compiler
and glibc.

Knows: how to make allocations fail, and how to tell arrays apart from what they were.
Must not know: what any call computes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import calls  # noqa: E402

import xent_fast  # noqa: E402

# Rows enough that an array of one byte a row is larger than those that NumPy keeps for later use.
ROWS, CLASSES = 1100, 5
LAYOUTS = ("rows", "fortran", "byte_swapped", "axis_1", "axis_0_of_3")
QUICK_LAYOUTS = ("rows", "axis_0_of_3")
QUICK_VARIANTS = ("plain", "ignored", "chosen statistics", "nothing counts")
CRASHED = "the process died"
# NumPy 2.4 reads through a null pointer where some of its own small allocations fail.
WRITTEN_IN_NUMPY = (
    "cross_entropy",
    "cross_entropy_grad",
    "linear_softmax_cross_entropy",
    "linear_softmax_cross_entropy_grad",
    "sampled_softmax_loss_grad",
)


@dataclass
class Tally:
    calls: int = 0
    failures_injected: int = 0
    memory_errors: int = 0
    other_exceptions: int = 0
    calls_that_managed_without: int = 0
    deaths_in_numpy: int = 0
    faults: int = 0


# --- in the process whose allocations fail --------------------------------------------------------


class Injector:
    """Runs a call with failing allocations; the switch is memory that the allocator reads."""

    def __init__(self) -> None:
        self.state = (ctypes.c_long * 2).in_dll(ctypes.CDLL(None), "failing_allocator")

    def outcome(self, call: Callable[[], Any], number: int) -> tuple[Any, int]:
        """What the call returned or raised, and how many allocations it asked for."""
        held = _drained_caches()
        state = self.state
        state[1] = 0
        try:
            state[0] = number
            result = call()
            state[0] = 0
        except BaseException as error:
            state[0] = 0
            result = error
        del held
        return result, state[1]


def _drained_caches() -> list[Any]:
    """Memory that was freed and kept by Python and NumPy, in use: so that new memory is needed."""
    gc.collect()  # empties Python's free lists
    sizes = (*range(1, 65), ROWS, CLASSES * 4, CLASSES * 8)
    return [np.empty((1,) * (k % 3) + (size,), np.uint8) for size in sizes for k in range(9)]


def bytes_of(array: np.ndarray) -> bytes:
    """The memory that the array is a view of, gaps between entries included."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    return base.tobytes(order="A")


def judged(call: calls.Call, want: Any, outcome: Any, before: list[bytes]) -> str | None:
    """What is wrong with an outcome, or None."""
    unchanged = [bytes_of(array) == old for array, old in zip(call.arrays, before, strict=True)]
    if isinstance(outcome, BaseException):
        return None if all(unchanged) else f"{outcome!r}, but an array has changed"
    outputs = {id(array) for array in call.outputs}
    inputs = [k for k, array in enumerate(call.arrays) if id(array) not in outputs]
    if not all(unchanged[k] for k in inputs):
        return "an input has changed"
    return None if same(outcome, want) else "another result than with all memory"


def same(got: Any, want: list[np.ndarray]) -> bool:
    return all(
        one.dtype == other.dtype and one.tobytes() == other.tobytes()
        for one, other in zip(calls.arrays_of(got), want, strict=True)
    )


def copied(result: Any) -> list[np.ndarray]:
    return [array.copy() for array in calls.arrays_of(result)]


def inject(
    call: calls.Call, injector: Injector, first: int, progress: mmap.mmap
) -> tuple[Tally, list[str]]:
    """All failures from the `first` allocation on; the number under way stands in `progress`."""
    originals = [array.copy(order="K") for array in call.arrays]
    tally, faults = Tally(calls=1), []

    def restore() -> list[bytes]:
        for array, original in zip(call.arrays, originals, strict=True):
            array[...] = original
        return [bytes_of(array) for array in call.arrays]

    restore()
    call()
    restore()
    want = copied(call())
    number = first
    while True:
        before = restore()
        progress[:8] = number.to_bytes(8, "little")
        outcome, seen = injector.outcome(call, number)
        if seen < number:
            break
        tally.failures_injected += 1
        tally.memory_errors += isinstance(outcome, MemoryError)
        if isinstance(outcome, BaseException) and not isinstance(outcome, MemoryError):
            tally.other_exceptions += 1
            print(f"{call.name}, allocation {number}: {outcome!r}", flush=True)
        tally.calls_that_managed_without += not isinstance(outcome, BaseException)
        fault = judged(call, want, outcome, before)
        if fault is not None:
            faults.append(f"{call.name}, allocation {number}: {fault}")
        del outcome
        number += 1
    tally.faults = len(faults)
    return tally, faults


# --- one process a call, so that a crash names its case -------------------------------------------


def in_a_process(call: calls.Call, injector: Injector) -> Iterator[tuple[Tally, list[str]]]:
    """Tallies and faults of one call; goes on behind the allocation whose failure is a crash."""
    progress = mmap.mmap(-1, mmap.PAGESIZE)
    first = 1
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            tally, faults = inject(call, injector, first, progress)
            with os.fdopen(writer, "w") as pipe:
                json.dump([vars(tally), faults], pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            report = pipe.read()
        _, status = os.waitpid(child, 0)
        if status == 0:
            values, faults = json.loads(report)
            yield Tally(**values), faults
            return
        number = int.from_bytes(progress[:8], "little")
        if call.name.split(",")[0] in WRITTEN_IN_NUMPY:
            yield Tally(failures_injected=1, deaths_in_numpy=1), []
        else:
            fault = f"{call.name}, allocation {number}: {CRASHED} (wait status {status})"
            yield Tally(failures_injected=1, faults=1), [fault]
        first = number + 1


def sweep(quick: bool) -> tuple[Tally, list[str]]:
    gc.collect()
    gc.freeze()
    gc.disable()
    injector = Injector()
    layouts = QUICK_LAYOUTS if quick else LAYOUTS
    total, faults = Tally(), []
    for call in calls.every_call(ROWS, CLASSES, layouts):
        if quick and (not call.outputs or call.variant not in QUICK_VARIANTS):
            continue
        # its page says that what stops it between two chunks leaves its outputs part-way
        if call.outputs and call.function is xent_fast.linear_softmax_cross_entropy_grad:
            continue
        for tally, found in in_a_process(call, injector):
            for figure, value in vars(tally).items():
                setattr(total, figure, getattr(total, figure) + value)
            for fault in found:
                print(f"FAULT {fault}", flush=True)
            faults += found
    return total, faults


def build(directory: str) -> str:
    library = str(Path(directory) / "failing_allocator.so")
    compiler = os.environ.get("CC", "cc").split()
    source = str(HERE / "failing_allocator.c")
    subprocess.run([*compiler, "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="two layouts, results that are given alone"
    )
    arguments = parser.parse_args()
    if "failing_allocator" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as directory:
            environment = os.environ | {
                "LD_PRELOAD": build(directory),
                "PYTHONMALLOC": "malloc",
                "OMP_NUM_THREADS": "1",  # libgomp ends the process where it lacks memory
            }
            command = [sys.executable, *sys.argv]
            sys.exit(subprocess.run(command, env=environment, check=False).returncode)
    tally, faults = sweep(arguments.quick)
    print(json.dumps(vars(tally)))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
