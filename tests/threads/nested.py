"""Every public function from inside a caller's OpenMP region, and under threadpoolctl's limits.

    python nested.py [--quick] LIBRARY...

LIBRARY is nested.c, built with OpenMP; --quick takes fewer and shorter rows and fewer limits.

Knows the public functions and how a C library calls back. Must not know how they share out work.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import sys

from calls import CALLS, Inputs, bits
from threadpoolctl import threadpool_limits

SHAPES = ((4000, 10), (60, 1000), (2, 270_000))
QUICK_SHAPES = ((2000, 10), (1, 40_000))
WAYS = tuple(itertools.product((1, 2), (None, 1, 3)))  # levels and limits
QUICK_WAYS = ((1, None), (2, None), (2, 1))
THREADS = 3


def in_parallel(library: ctypes.CDLL, levels: int, inputs: Inputs, want: dict[str, bytes]) -> int:
    """How many of the region's calls were right."""
    right = []

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def work(thread: int) -> None:
        for name, call in CALLS.items():
            right.append(bits(call(inputs, None if thread == 0 else 4)) == want[name])

    assert library.call_in_parallel(THREADS, levels, work) == THREADS
    assert len(right) == THREADS * len(CALLS), "a call raised"
    return sum(right)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("libraries", nargs="+")
    arguments = parser.parse_args()
    quick = arguments.quick
    made = right = 0
    for shape in QUICK_SHAPES if quick else SHAPES:
        inputs = Inputs.of(*shape)
        want = {name: bits(call(inputs, 1)) for name, call in CALLS.items()}
        for path in arguments.libraries:
            library = ctypes.CDLL(path)
            for levels, limit in QUICK_WAYS if quick else WAYS:
                with threadpool_limits(limit):
                    right += in_parallel(library, levels, inputs, want)
                made += THREADS * len(CALLS)
    print(json.dumps({"calls": made, "right": right}))
    return int(right != made)


if __name__ == "__main__":
    sys.exit(main())
