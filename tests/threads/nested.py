"""Every public function from inside a caller's OpenMP region, and under threadpoolctl's limits.

    python nested.py LIBRARY...     LIBRARY: nested.c, built with OpenMP

Knows the public functions and how a C library calls back. Must not know how they share out work.
"""

from __future__ import annotations

import ctypes
import json
import sys

from calls import CALLS, Inputs, bits
from threadpoolctl import threadpool_limits

SHAPES = ((4000, 10), (60, 1000), (2, 270_000))
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
    made = right = 0
    for shape in SHAPES:
        inputs = Inputs.of(*shape)
        want = {name: bits(call(inputs, 1)) for name, call in CALLS.items()}
        for path in sys.argv[1:]:
            library = ctypes.CDLL(path)
            for levels in (1, 2):
                for limit in (None, 1, 3):
                    with threadpool_limits(limit):
                        right += in_parallel(library, levels, inputs, want)
                    made += THREADS * len(CALLS)
    print(json.dumps({"calls": made, "right": right}))
    return int(right != made)


if __name__ == "__main__":
    sys.exit(main())
