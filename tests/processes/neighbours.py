"""Beside another library's OpenMP in one process: no hang, the right bits, before and after a fork.

    python neighbours.py [--rounds N] MODULE...

MODULEs are imported and used in this order: xent_fast, sklearn, torch, or a path to a library built
of tests/threads/nested.c.

Each computes with two threads, all of them in turn and then at once from several Python threads;
a forked child then calls xent_fast. The libgomps that are mapped are counted.

Knows how to make each library start its threads. Must not know how xent_fast starts its own.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from child import TIME_LIMIT, right_in_child


def xent_fast() -> Callable[[], bool]:
    from work import all_digests

    want = all_digests(1)
    return lambda: all_digests(2) == want


def sklearn() -> Callable[[], bool]:
    import numpy as np
    from sklearn._loss.loss import HalfMultinomialLoss

    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((4000, 20)), rng.integers(0, 20, 4000).astype(np.float64)
    loss = HalfMultinomialLoss(n_classes=20)
    want = loss.loss(labels, scores, n_threads=1)
    return lambda: np.array_equal(loss.loss(labels, scores, n_threads=2), want)


def torch() -> Callable[[], bool]:
    import torch

    torch.set_num_threads(2)
    logits = torch.randn(1000, 100, generator=torch.Generator().manual_seed(0))
    want = torch.softmax(logits, 1)
    return lambda: torch.equal(torch.softmax(logits, 1), want)


def library(path: str) -> Callable[[], bool]:
    """A C library whose parallel region calls back; a region of two threads each time."""
    call_in_parallel = ctypes.CDLL(path).call_in_parallel
    work = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda thread: None)
    return lambda: call_in_parallel(2, 1, work) == 2


def right_in_region(path: str, ours: Callable[[], bool]) -> list[bool]:
    """Whether calls are right that both threads of such a region make."""
    right: list[bool] = []
    work = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda thread: right.append(ours()))
    ctypes.CDLL(path).call_in_parallel(2, 1, work)
    return right


KNOWN = {"xent_fast": xent_fast, "sklearn": sklearn, "torch": torch}


def libgomps() -> list[str]:
    """The files of every libgomp in this process."""
    files = {
        line.split(maxsplit=5)[5].strip()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if Path(line.split(maxsplit=5)[-1].strip()).name.startswith("libgom")
    }
    return sorted(files)


def all_at_once(neighbours: list[Callable[[], bool]], rounds: int) -> list[bool]:
    right: list[bool] = []

    def repeat(work: Callable[[], bool]) -> None:
        right.extend([work() for _ in range(rounds)])

    threads = [threading.Thread(target=repeat, args=(work,)) for work in neighbours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return right


def main() -> int:
    faulthandler.dump_traceback_later(2 * TIME_LIMIT, exit=True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    names, rounds = arguments.modules, arguments.rounds
    neighbours = [KNOWN[name]() if name in KNOWN else library(name) for name in names]
    ours = neighbours[names.index("xent_fast")]
    results = [work() for _ in range(rounds) for work in neighbours]
    results.append(right_in_child(ours))
    at_once = all_at_once(neighbours, rounds)
    results += at_once
    results.append(right_in_child(lambda: ours() and right_in_child(ours)))
    results += [work() for work in neighbours]
    libraries = [name for name in names if name not in KNOWN]
    results += [right for path in libraries for right in right_in_region(path, ours)]
    expected = rounds * len(neighbours) * 2 + 2 + len(neighbours) + 2 * len(libraries)
    print(
        json.dumps(
            {"results": expected, "right": sum(results), "libgomps": libgomps()},
        )
    )
    return int(len(results) != expected or not all(results))


if __name__ == "__main__":
    sys.exit(main())
