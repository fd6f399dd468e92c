"""Pools of processes, started in every way after a threaded call, compute the parent's bits.

    python pools.py METHOD [--jobs N] [--ways N]     METHOD: fork, forkserver or spawn

Knows multiprocessing, concurrent.futures and the work. Must not know how a fork is noticed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from work import all_digests, digest, digest_of_job

TIME_LIMIT = 100


def in_pool(context: multiprocessing.context.BaseContext, jobs: int) -> list[bytes]:
    with context.Pool(2) as pool:
        return pool.map_async(digest_of_job, range(jobs), chunksize=1).get(TIME_LIMIT)


def in_executor(context: multiprocessing.context.BaseContext, jobs: int) -> list[bytes]:
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(digest_of_job, range(jobs), timeout=TIME_LIMIT))


def in_executor_of_a_thread(context: multiprocessing.context.BaseContext, jobs: int) -> list[bytes]:
    """The same from a second thread, while the first computes."""
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.extend(in_executor(context, jobs)))
    thread.start()
    while thread.is_alive():
        digest()
    thread.join()
    return results


def _executor_in_child(method: str, jobs: int, results: multiprocessing.queues.Queue) -> None:
    results.put(in_executor(multiprocessing.get_context(method), jobs))


def in_executor_of_a_child(context: multiprocessing.context.BaseContext, jobs: int) -> list[bytes]:
    """A child that starts a pool of its own."""
    results = context.Queue()
    child = context.Process(
        target=_executor_in_child, args=(context.get_start_method(), jobs, results)
    )
    child.start()
    got = results.get(timeout=TIME_LIMIT)
    child.join(TIME_LIMIT)
    return got


WAYS = (in_executor, in_executor_of_a_child, in_executor_of_a_thread, in_pool)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first of them")
    arguments = parser.parse_args()
    context = multiprocessing.get_context(arguments.method)
    if arguments.method == "forkserver":
        # The fork server finds the module by the path that it inherits.
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        context.set_forkserver_preload(["preloaded"])
    want = all_digests(4)
    results = right = 0
    for way in WAYS[: arguments.ways]:
        got = way(context, arguments.jobs)
        results += arguments.jobs
        right += sum(result == want[0] for result in got)
    right_after = all_digests(4) == want
    print(json.dumps({"results": results, "right": right}))
    return int(right != results or not right_after)


if __name__ == "__main__":
    sys.exit(main())
