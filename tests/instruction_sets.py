"""The instruction sets of this machine and build, and how to compute with one of them.

Knows the library's switch between them. Must not know what is computed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement

from xent_fast._binding import instruction_sets

AVAILABLE = tuple(instruction_sets.available_isas())
FMA_ISAS = tuple(name for name in AVAILABLE if name != "portable")
# A pair of an instruction set with itself: two calls agree.
SAME_BITS_PAIRS = tuple(combinations_with_replacement(FMA_ISAS, 2)) or (("portable", "portable"),)


ONE_AT_A_TIME = threading.RLock()


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Compute with one instruction set, while other threads of a test wait for theirs."""
    with ONE_AT_A_TIME, in_force(name):
        yield


@contextmanager
def in_force(name: str) -> Iterator[None]:
    """The same for all threads of a test."""
    previous = instruction_sets.use_isa(name)
    try:
        yield
    finally:
        instruction_sets.use_isa(previous)
