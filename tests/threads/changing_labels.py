"""Labels that another thread changes during a call: the process lives, and touches no byte outside.

Every array lies against a page that cannot be touched, behind it or before it. Labels of some rows
are switched between a valid class and numbers such as -1 and INT64_MAX while calls read them.
Allowed are an IndexError and garbage in those rows; the others must keep their bits, and the next
call must be right.

    python changing_labels.py [--calls N] [--quick]     N calls a case

Knows the public functions. Must not know how memory is protected (tests/memory/pages.py), nor how
labels are read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "memory"))
import pages

from xent_fast import softmax_cross_entropy_grad
from xent_fast._binding import instruction_sets

# Both kernels, blocks, and rows that threads share.
SHAPES = ((6000, 3), (4000, 10), (2500, 33), (300, 1000), (3, 70_000))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"weight": True},
    "shaped": {"weight": True, "label_smoothing": 0.1, "z_loss": 1e-3},
    "ignoring": {"ignore_index": -1},
    "statistics": {"return_statistics": True},
}
LABEL_TYPES = (np.int64, np.int32, np.uint64)


@dataclass
class Figures:
    cases: int = 0
    calls: int = 0
    refused: int = 0  # a bad label was seen when the labels were checked
    changed_after_the_check: int = 0  # seen by the garbage in those rows
    faults: int = 0


@contextmanager
def switching(labels: np.ndarray, rows: slice, bad: int) -> Iterator[None]:
    """Another thread switches the labels of some rows to and fro."""
    good, stop = labels[rows].copy(), threading.Event()

    def switch() -> None:
        while not stop.is_set():
            labels[rows] = bad
            labels[rows] = good

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def bad_labels(label_type: type, classes: int) -> list[int]:
    limits = np.iinfo(label_type)
    return [
        label
        for label in (int(limits.max), int(limits.min), -1, classes, 2**31, 2**32 + 1, 2**63)
        if limits.min <= label <= limits.max and not 0 <= label < classes
    ]


def check_case(
    shape: tuple[int, int], label_type: type, at_end: bool, options: dict[str, Any], calls: int
) -> Figures:
    rng = np.random.default_rng(shape)
    rows, classes = shape
    arena, side = pages.Arena(), "behind" if at_end else "before"
    logits = arena.placed(rng.standard_normal(shape).astype(np.float32), side)
    labels = arena.placed(np.full(rows, classes // 2, label_type), side)
    out = arena.placed(np.zeros(shape, np.float32), side)
    given = dict(options)
    if given.pop("weight", False):
        given["weight"] = arena.placed(np.ones(classes, np.float32), side)
    if label_type is np.uint64:
        given.pop("ignore_index", None)

    def call() -> np.ndarray:
        return softmax_cross_entropy_grad(
            logits, labels, reduction="sum", out=out, num_threads=2, **given
        )[1]

    want = call().copy()
    bad = [k for k in bad_labels(label_type, classes) if k != given.get("ignore_index")]
    figures = Figures(cases=1)
    some = max(rows // 50, 1)
    for number in range(calls):
        changing = slice(rows - some, rows) if at_end else slice(0, some)
        steady = slice(0, rows - some) if at_end else slice(some, rows)
        out.fill(np.nan)
        with switching(labels, changing, random.choice(bad)):
            try:
                got = call()
            except IndexError:
                figures.refused += 1
                got = None
        figures.calls += 1
        if got is None:
            figures.faults += not np.isnan(out).all()
        else:
            figures.changed_after_the_check += not np.array_equal(got[changing], want[changing])
            figures.faults += not np.array_equal(got[steady], want[steady])
        if number % 16 == 0:
            figures.faults += not np.array_equal(call(), want)
    return figures


def check(calls: int, quick: bool) -> Figures:
    total = Figures()
    sys.setswitchinterval(1e-5)
    for isa in instruction_sets.available_isas()[: 1 if quick else None]:
        instruction_sets.use_isa(isa)
        for shape, label_type, at_end, options in itertools.product(
            SHAPES, LABEL_TYPES[: 1 if quick else None], (True, False), OPTIONS.values()
        ):
            figures = check_case(shape, label_type, at_end, options, calls)
            for name, value in vars(figures).items():
                setattr(total, name, getattr(total, name) + value)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=4, help="of each case")
    parser.add_argument("--quick", action="store_true", help="one instruction set and label type")
    arguments = parser.parse_args()
    random.seed(0)
    figures = check(arguments.calls, arguments.quick)
    print(json.dumps(vars(figures)))
    if figures.changed_after_the_check == 0:
        print("no label changed between check and use: nothing was shown")
        return 1
    return int(figures.faults > 0)


if __name__ == "__main__":
    sys.exit(main())
