"""Single cells under pytest-benchmark, each checked against the reference before it is timed.

    python -m pytest benchmarks --benchmark-only -k "course and xent_fast"

One call a round on restored logits, so that the clock's own cost shows in the smallest workloads,
and everything in one process; `python -m benchmarks` averages over several buffers there, gives
every runtime a process of its own, and takes turns.

Knows: pytest-benchmark. Must not know: shapes, libraries.
"""

import os
from functools import lru_cache

import numpy as np
import pytest

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.implementations.contract import Implementation
from benchmarks.timing import check
from benchmarks.workloads import WORKLOADS, Case, Workload, draw

SECONDS_A_CELL, FEWEST_ROUNDS, MOST_ROUNDS = 0.5, 5, 500

CELLS = [
    pytest.param(workload, one, id=f"{workload.label}-{one.name}")
    for workload in WORKLOADS
    for one in IMPLEMENTATIONS
    if not one.missing and one.computes(workload)
]


@lru_cache(maxsize=1)
def case_of(workload: Workload) -> Case:
    return draw(workload)


def rounds_for(case: Case) -> int:
    """Rounds that fit the time, were every call as slow as plain NumPy's: about 10 ns a logit."""
    return int(np.clip(SECONDS_A_CELL / (1e-8 * case.logits.size), FEWEST_ROUNDS, MOST_ROUNDS))


# What libraries warn of while they compile is not this library's to mend.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("workload", "implementation"), CELLS)
def test_loss_and_gradient(
    benchmark, monkeypatch, workload: Workload, implementation: Implementation
) -> None:
    for name, value in implementation.runtime.environment:
        monkeypatch.setitem(os.environ, name, value)
    case = case_of(workload)
    implementation.runtime.begin_case()
    step = implementation.make(case)
    check(implementation, case, step)
    buffer = case.logits.copy()

    def restore():
        np.copyto(buffer, case.logits)
        return (implementation.adopt(buffer),), {}

    benchmark.group = workload.label
    with implementation.in_force():
        benchmark.pedantic(step, setup=restore, rounds=rounds_for(case), warmup_rounds=2)
