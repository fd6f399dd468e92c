"""Workers killed in the midst of a call: the parent and the others live, their results are right.

    python killed.py ROUNDS

Each worker writes gradients to its own part of shared memory, over and over. One is killed by
SIGKILL while it computes. The others' parts must be whole and right; a new worker mends the part of
the dead one. An executor whose worker is killed says so, and the next one works.

Knows multiprocessing, shared memory, signals. Must not know how a call is made.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from work import digest, digest_of_job

from xent_fast import softmax_cross_entropy_grad

WORKERS = 3
ROWS, CLASSES = 2000, 200
TIME_LIMIT = 60
PART = ROWS * CLASSES * 4


def inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((ROWS, CLASSES)).astype(np.float32)
    return logits, rng.integers(0, CLASSES, ROWS)


def write_part(
    name: str, number: int, calls: int, begun: multiprocessing.synchronize.Event
) -> None:
    memory = SharedMemory(name, track=False) if sys.version_info >= (3, 13) else SharedMemory(name)
    logits, labels = inputs()
    out = np.ndarray((ROWS, CLASSES), np.float32, memory.buf, number * PART)
    for call in range(calls):
        out.fill(np.nan)
        softmax_cross_entropy_grad(logits, labels, out=out, num_threads=2)
        if call == 0:
            begun.set()
    del out
    memory.close()


def one_killed(context: multiprocessing.context.BaseContext, memory: SharedMemory) -> bool:
    want = softmax_cross_entropy_grad(*inputs(), num_threads=2).grad
    parts = np.ndarray((WORKERS, ROWS, CLASSES), np.float32, memory.buf)
    parts.fill(np.nan)
    begun = [context.Event() for _ in range(WORKERS)]

    def start(number: int, calls: int) -> multiprocessing.Process:
        worker = context.Process(
            target=write_part, args=(memory.name, number, calls, begun[number])
        )
        worker.start()
        return worker

    # The first computes for ever, until it is killed.
    workers = [start(number, 1 << 40 if number == 0 else 40) for number in range(WORKERS)]
    assert all(event.wait(TIME_LIMIT) for event in begun)
    time.sleep(random.uniform(0, 0.01))
    workers[0].kill()
    for worker in workers:
        worker.join(TIME_LIMIT)
    codes = [worker.exitcode for worker in workers]
    right = codes == [-signal.SIGKILL, *[0] * (WORKERS - 1)]
    right &= all(np.array_equal(part, want) for part in parts[1:])
    right &= np.array_equal(softmax_cross_entropy_grad(*inputs(), num_threads=2).grad, want)
    mender = start(0, 1)
    mender.join(TIME_LIMIT)
    return right and mender.exitcode == 0 and np.array_equal(parts[0], want)


def compute_until_killed(_: int) -> None:
    os.write(int(os.environ["XENT_TEST_PIPE"]), os.getpid().to_bytes(8, "little"))
    while True:
        digest(2)


def executor_says_so(context: multiprocessing.context.BaseContext) -> bool:
    reading, writing = os.pipe()
    os.environ["XENT_TEST_PIPE"] = str(writing)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        future = pool.submit(compute_until_killed, 0)
        victim = int.from_bytes(os.read(reading, 8), "little")
        time.sleep(random.uniform(0, 0.01))
        os.kill(victim, signal.SIGKILL)
        said_so = isinstance(future.exception(TIME_LIMIT), BrokenProcessPool)
    os.close(reading)
    os.close(writing)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        got = list(pool.map(digest_of_job, range(4), timeout=TIME_LIMIT))
    return said_so and set(got) == {digest(2)}


def main() -> int:
    rounds = int(sys.argv[1])
    context = multiprocessing.get_context("fork")
    digest(2)  # so that each fork comes after a threaded call
    memory = SharedMemory(create=True, size=WORKERS * PART)
    try:
        right = sum(one_killed(context, memory) for _ in range(rounds))
    finally:
        memory.close()
        memory.unlink()
    right += sum(executor_says_so(context) for _ in range(rounds))
    print(json.dumps({"kills": 2 * rounds, "right": right}))
    return int(right != 2 * rounds)


if __name__ == "__main__":
    sys.exit(main())
