"""Times on more processors than this machine has, modelled from two of them, not measured.

    T(n) = W / n + R(n)       W: time of the call on one thread       R(n) = r (n - 1)

r is the measured cost of a region of two threads whose worker still waits actively. A region in
which each thread has to be told and waited for in turn costs r for each; one that halves and
halves again costs less, so this R is an upper bound. Memory's bandwidth, which the processors
share, is left out: it matters for batches beyond the caches.

Knows: regions and calls as they are timed here. Must not know: how threads are chosen.
"""

from __future__ import annotations

from math import sqrt
from statistics import median

from batches import Times, time_both
from regions import built, microseconds, without_first
from tables import number, table

TEAMS = (1, 2, 4, 8, 16)
LOGITS = tuple(2**power for power in range(14, 23, 2))
CLASSES = 1_000
SAMPLES = 200


def expected_on_more_processors() -> str:
    with built() as program:
        region = median(without_first(microseconds(program, SAMPLES, 100, (2,))))
    lines = []
    for logits in LOGITS:
        times: Times = {1: []}
        time_both(logits // CLASSES, CLASSES, lambda: None, times)
        work = median(times[1])
        expected = [work / team + region * (team - 1) for team in TEAMS]
        best = min(max(sqrt(work / region), 1), TEAMS[-1])
        lines.append([f"{logits:,}", *map(number, expected), f"{best:.0f}"])
    header = ["logits", "1 thread", *(f"{team} threads" for team in TEAMS[1:]), "best of 16"]
    return (
        f"Not measured, computed: microseconds with {CLASSES:,} classes and r = "
        f"{number(region)} µs.\n\n" + table(header, lines)
    )
