"""What limits the threads of a call: each limit in a process of its own, which says what it sees.

Knows: affinity, environment, control groups. Must not know: how the library asks for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from tables import number, table

THREADS = """
from xent_fast import show_config
print(show_config("dicts")["threads"]["default"])
"""
PINNED = "import os; os.sched_setaffinity(0, {0})" + THREADS
PINNED_LATER = "import os, xent_fast; os.sched_setaffinity(0, {0})" + THREADS
LIMITED = """
import threadpoolctl
from xent_fast import show_config
with threadpoolctl.threadpool_limits(1):
    print(show_config("dicts")["threads"]["default"])
"""
FORKED = """
import os, sys
from xent_fast import show_config
sys.stdout.flush()
if os.fork() == 0:
    print(show_config("dicts")["threads"]["default"], flush=True)
    os._exit(0)
os.wait()
"""
CALLS = """
import sys, time
import numpy as np
from xent_fast import softmax_cross_entropy_grad
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
logits = np.random.default_rng(0).standard_normal((1024, 1000), np.float32)
labels = np.arange(1024) % 1000
end = time.perf_counter() + seconds
while (start := time.perf_counter()) < end:
    softmax_cross_entropy_grad(logits, labels, out=logits, num_threads=threads)
    print(time.perf_counter() - start)
"""
SITUATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "no limit": (THREADS, {}),
    "affinity to one processor, before the import": (PINNED, {}),
    "affinity to one processor, after the import": (PINNED_LATER, {}),
    "`OMP_NUM_THREADS=1`": (THREADS, {"OMP_NUM_THREADS": "1"}),
    "`OMP_NUM_THREADS=8`": (THREADS, {"OMP_NUM_THREADS": "8"}),
    "`threadpoolctl.threadpool_limits(1)`": (LIMITED, {}),
    "a forked child": (FORKED, {}),
}
QUOTA_GROUP = Path("/sys/fs/cgroup/cpu/xent_fast_quota")  # version 1
PERIOD = 100_000
QUOTAS = (None, 200_000, 150_000, 100_000)  # microseconds of processor time a period
SECONDS = "4"


def run(program: str, *arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> str:
    command = [*prefix, sys.executable, "-c", program, *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE).stdout.decode()


def what_limits() -> str:
    lines = [
        [name, run(program, **environment).strip()]
        for name, (program, environment) in SITUATIONS.items()
    ]
    return table(["limit", f"threads of a call, of {os.cpu_count()} processors"], lines)


@contextmanager
def quota_group(quota: int | None) -> Iterator[tuple[str, ...]]:
    """What to put before a command so that it runs under a quota of its own."""
    if quota is None:
        yield ()
        return
    QUOTA_GROUP.mkdir()
    try:
        (QUOTA_GROUP / "cpu.cfs_period_us").write_text(str(PERIOD))
        (QUOTA_GROUP / "cpu.cfs_quota_us").write_text(str(quota))
        yield ("sh", "-c", f'echo $$ >{QUOTA_GROUP}/cgroup.procs; exec "$@"', "sh")
    finally:
        QUOTA_GROUP.rmdir()


def calls_under_quota() -> str:
    """Times of calls under a control group's quota; needs root and control groups version 1."""
    if not os.access(QUOTA_GROUP.parent, os.W_OK):
        return "Not measured: no right to make a control group.\n"
    lines = []
    for quota in QUOTAS:
        for threads in ("1", "2"):
            with quota_group(quota) as prefix:
                output = run(CALLS, threads, SECONDS, prefix=prefix)
            times = [1e6 * float(line) for line in output.split()]
            lines.append(
                [
                    "none" if quota is None else f"{quota / PERIOD:g}",
                    threads,
                    number(len(times) / float(SECONDS)),
                    number(median(times)),
                    number(quantiles(times, n=100)[-1]),
                    number(max(times)),
                ]
            )
    header = ["quota, processors", "threads", "calls a second", "median, µs", "99 %, µs", "worst"]
    return "Calls on 1,024 x 1,000 logits, one after another:\n\n" + table(header, lines)
