"""Repeat every public call, good and bad, and see whether anything is kept.

    python tests/memory/references.py [--quick]

Counts, before and after 10,000 calls (--quick: 100 of every 11th kind): the references to each
argument, to the singletons, types and dtypes that results and messages hold; Python's blocks in
use; and, on glibc, the bytes that the C library has given out, which is where workspaces and arrays
come from.

Knows: what can be wrong with an argument, and how CPython and glibc count.
Must not know: what a call computes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import calls  # noqa: E402

import xent_fast  # noqa: E402

ROWS, CLASSES = 24, 5
WARMING_UP = 20
ERRORS = (TypeError, ValueError, IndexError)
# What a call may hold on to by mistake without its being an argument.
SHARED_OBJECTS = (
    *(None, True, False, Ellipsis, (), "", "mean", float, tuple, np.ndarray, *ERRORS),
    # Not float64: NumPy 2.4 itself keeps a reference to it in each np.empty, np.zeros or np.ones.
    *(np.dtype(name) for name in ("f4", "i8", "?", ">f4")),
    *(getattr(xent_fast, name) for name in xent_fast.__all__),
)


# --- what is counted ------------------------------------------------------------------------------


class _MallocInformation(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _malloc_information() -> Callable[[], _MallocInformation] | None:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if function is not None:
        function.restype = _MallocInformation
    return function


_mallinfo2 = _malloc_information()


def bytes_in_use() -> int:
    if _mallinfo2 is None:
        return 0
    information = _mallinfo2()
    return information.uordblks + information.hblkhd


def counts(call: calls.Call) -> tuple[list[int], list[int], int, int]:
    gc.collect()
    return (
        [sys.getrefcount(array) for array in call.arrays],
        [sys.getrefcount(thing) for thing in SHARED_OBJECTS],
        sys.getallocatedblocks(),
        bytes_in_use(),
    )


def what_is_kept(call: calls.Call, repeat: Callable[[int], None], times: int) -> list[str]:
    """What grew with the number of calls; a leak adds at least one reference, block or 16 bytes."""
    repeat(WARMING_UP)
    counts(call)
    before = counts(call)
    repeat(times)
    after = counts(call)
    kept = []
    if after[0] != before[0]:
        kept.append(f"references to arguments: {before[0]} became {after[0]}")
    for thing, old, new in zip(SHARED_OBJECTS, before[1], after[1], strict=True):
        if abs(new - old) > times // 2:
            kept.append(f"references to {thing!r}: {old} became {new}")
    if after[2] - before[2] > times // 2:
        kept.append(f"Python's blocks: {before[2]} became {after[2]}")
    if after[3] - before[3] > times * 8:
        kept.append(f"bytes in use: {before[3]} became {after[3]}")
    return kept


# --- good calls and bad ones ----------------------------------------------------------------------


def repeated(call: calls.Call) -> Callable[[int], None]:
    def repeat(times: int) -> None:
        for _ in range(times):
            call()

    return repeat


def repeated_error(call: calls.Call) -> Callable[[int], None]:
    def repeat(times: int) -> None:
        for _ in range(times):
            try:
                call()
            except ERRORS:
                continue
            raise AssertionError(f"no error: {call.name}")

    return repeat


def read_only(array: np.ndarray) -> np.ndarray:
    view = array.copy()
    view.flags.writeable = False
    return view


BAD_OPTIONS: dict[str, tuple[Any, ...]] = {
    "axis": (7, -8, 1.5),
    "weight": (np.ones(CLASSES + 1), np.ones(CLASSES, complex), np.ma.ones(CLASSES)),
    "sample_weight": (np.ones(ROWS + 1), np.full((ROWS,), "x"), np.ma.ones(ROWS)),
    "ignore_index": (1.5, "x"),
    "label_smoothing": (2.0, -0.1, float("nan"), "x", None),
    "temperature": (0.0, float("inf"), "x"),
    "z_loss": (float("nan"), "x"),
    "reduction": ("average", None, 1),
    "scale": ("x", 1j),
    "num_threads": (0, -1, 1.5, True),
    "clip": (0.7, "x"),
    "alpha": (2.0, "x"),
    "out": (1, np.zeros(3), np.zeros((ROWS, CLASSES), np.int64), np.ma.zeros((ROWS, CLASSES))),
    "num_sampled": (0, CLASSES + 1, 1.5),
    "sampler": ("x", 5, (np.zeros(1, int), np.zeros(1))),
}
BAD_FIRST_ARGUMENTS: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda a: a.astype(np.int64),
    lambda a: np.ma.array(a),
    lambda a: a.astype(complex),
    lambda a: a.reshape(-1)[0],
    lambda a: a[:, :0],
)
BAD_OTHER_ARGUMENTS: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda a: a[:-1],
    lambda a: np.ma.array(a),
    lambda a: a.astype(complex),
    lambda a: a.astype("U8"),
)
BAD_LABELS: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda y: np.append(y[:-1], CLASSES),
    lambda y: np.append(y[:-1], -100),
    lambda y: y.astype(np.float32),
    lambda y: y.astype(bool),
    lambda y: y.astype(np.uint64) + np.uint64(2**63),
)


def bad_calls(call: calls.Call) -> Iterator[calls.Call]:
    """The call with one thing wrong with it, in turn."""
    accepted = inspect.signature(call.function).parameters
    for name, values in BAD_OPTIONS.items():
        if name in accepted and accepted[name].kind is inspect.Parameter.KEYWORD_ONLY:
            for value in values:
                yield spoiled(call, f"{name}={value!r:.30}", options={**call.options, name: value})
    for position, given in enumerate(call.arguments):
        if not isinstance(given, np.ndarray):
            continue
        changes = BAD_FIRST_ARGUMENTS if position == 0 else BAD_OTHER_ARGUMENTS
        if position == 0 and call.function is xent_fast.class_statistics:
            changes = changes[:-1]  # a range may have no class
        if given.dtype.kind == "i":
            changes = (*BAD_LABELS, *BAD_OTHER_ARGUMENTS[:2])
        for number, change in enumerate(changes):
            arguments = list(call.arguments)
            arguments[position] = change(given)
            yield spoiled(call, f"argument {position}, {number}", arguments=tuple(arguments))
    for name in calls.OUTPUTS:
        if name in call.options:
            for what, out in bad_outputs(call, call.options[name]):
                yield spoiled(call, f"{name} {what}", options={**call.options, name: out})


def bad_outputs(call: calls.Call, out: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Outputs of the right shape and dtype that a call must not write to."""
    given = call.arguments[0]
    yield "read-only", read_only(out)
    if given.shape == out.shape:
        yield "over the input backwards", given[::-1]
    yield "over itself", np.lib.stride_tricks.as_strided(out, strides=(0,) * out.ndim)


def spoiled(call: calls.Call, what: str, **changes: Any) -> calls.Call:
    return replace(call, name=f"{call.name}, {what}", **changes)


def good_calls() -> Iterator[calls.Call]:
    yield from calls.every_call(ROWS, CLASSES, ("rows", "fortran", "axis_1"))


def plain_calls() -> Iterator[calls.Call]:
    """Each function once for each kind of targets, with a new result and with one given."""
    return (
        call
        for call in calls.every_call(ROWS, CLASSES, ("rows",))
        if call.variant == "plain" and not any(out is call.arguments[0] for out in call.outputs)
    )


def sweep(times: int, step: int) -> dict[str, int]:
    """Figures; prints what is kept. Takes every `step`-th of the calls."""
    figures = {"calls_repeated": 0, "errors_repeated": 0, "executions": 0, "faults": 0}
    checks = [("calls_repeated", call, repeated(call)) for call in good_calls()]
    checks += [
        ("errors_repeated", bad, repeated_error(bad))
        for call in plain_calls()
        for bad in bad_calls(call)
    ]
    checks = checks[::step]
    gc.collect()
    gc.freeze()  # so that the collections before counting are quick
    for figure, call, repeat in checks:
        figures[figure] += 1
        figures["executions"] += times
        # A cache that fills up, or a table that grows once, is no leak: a leak shows every time.
        found = [what_is_kept(call, repeat, times)]
        while found[-1] and len(found) < 4:
            found.append(what_is_kept(call, repeat, times))
        for fault in found[-1]:
            print(f"FAULT {call.name}: {fault}", flush=True)
            figures["faults"] += 1
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 calls, not 10,000, of every 11th")
    arguments = parser.parse_args()
    figures = sweep(100, 11) if arguments.quick else sweep(10_000, 1)
    print(json.dumps(figures))
    sys.exit(bool(figures["faults"]))


if __name__ == "__main__":
    main()
