"""Every public function from several threads at once, to be watched by ThreadSanitizer.

    python race.py [--rounds N]
    python race.py --control     two threads write to one array: the race that must be reported

Knows the public functions. Must not know who watches.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from calls import CALLS, Inputs, bits

from xent_fast import softmax_cross_entropy_grad

# Behind the first, chunks or parts of a row for three threads.
SHAPES = ((400, 10), (1600, 33), (52, 1000), (1, 70_000))
CALLERS = 3
CONTROL_CALLS = 3


def calls_at_once(inputs: Inputs) -> list[bool]:
    """Whether each call of each caller is right; all callers go through the functions together."""
    want = {name: bits(call(inputs, 1)) for name, call in CALLS.items()}
    together = threading.Barrier(CALLERS)

    def caller(number: int) -> list[bool]:
        right = []
        for name, call in CALLS.items():
            together.wait()
            right.append(bits(call(inputs, (2, 3, 1)[number])) == want[name])
        return right

    with ThreadPoolExecutor(CALLERS) as pool:
        return [right for results in pool.map(caller, range(CALLERS)) for right in results]


def one_output_for_two() -> None:
    """Calls longer than a processor's turn: one after the other they would be in order.

    Of few classes: the sanitizer does not see stores of whole vectors, as those of long rows are.
    """
    inputs = Inputs.of(20_000, 10)
    out = np.empty_like(inputs.logits)
    together = threading.Barrier(2)

    def caller(_: int) -> None:
        for _ in range(CONTROL_CALLS):
            together.wait()
            softmax_cross_entropy_grad(inputs.logits, inputs.labels, out=out, num_threads=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(caller, range(2)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--control", action="store_true")
    arguments = parser.parse_args()
    if arguments.control:
        one_output_for_two()
        print(json.dumps({"calls": 2 * CONTROL_CALLS}))
        return 0
    results = [
        right
        for round_number in range(arguments.rounds)
        for dtype in (np.float32, np.float64)
        for shape in SHAPES
        for right in calls_at_once(Inputs.of(*shape, dtype, seed=round_number))
    ]
    print(json.dumps({"calls": len(results), "right": sum(results)}))
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
