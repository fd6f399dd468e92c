"""This library: every ISA that the processor has, on all threads and on one.

Knows: its public functions. Must not know: its peers.
"""

from collections.abc import Callable, Iterator

import numpy as np

import xent_fast
from benchmarks.implementations.contract import (
    DEFAULT_ISA,
    LIBRARY,
    Implementation,
    Runtime,
    Step,
)
from benchmarks.workloads import INTO_OUT, Case
from xent_fast._binding import instruction_sets

RUNTIME = Runtime("xent_fast")
TOLERANCE = 8


def xent_fast_on(num_threads: int | None) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        targets = case.targets
        options = {} if num_threads is None else {"num_threads": num_threads}
        if case.loss_only:
            loss = xent_fast.softmax_cross_entropy
            return lambda x: (loss(x, targets, **options), None)
        function = xent_fast.softmax_cross_entropy_grad
        if case.in_place:
            if num_threads is None:
                return lambda x: function(x, targets, out=x)
            return lambda x: function(x, targets, out=x, num_threads=num_threads)
        if case.workload.destination == INTO_OUT:
            options["out"] = np.empty_like(case.logits)
        return lambda x: function(x, targets, **options)

    return make


def implementations() -> Iterator[Implementation]:
    others = [isa for isa in instruction_sets.available_isas() if isa != DEFAULT_ISA]
    for isa in [DEFAULT_ISA, *others]:
        name = "xent_fast" if isa == DEFAULT_ISA else f"xent_fast, {isa}"
        for suffix, threads in (("", None), (", 1 thread", 1)):
            yield Implementation(
                name + suffix,
                LIBRARY,
                RUNTIME,
                xent_fast_on(threads),
                isa=isa,
                tolerance=TOLERANCE,
                variants=isa == DEFAULT_ISA or threads is None,
            )
