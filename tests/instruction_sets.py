"""The instruction sets of this machine and build, and how to compute with one of them.

Knows the library's switch between them. Must not know what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement

from xent_fast._binding import instruction_sets

AVAILABLE = tuple(instruction_sets.available_isas())
FMA_ISAS = tuple(name for name in AVAILABLE if name != "portable")
# A pair of an instruction set with itself: two calls agree.
SAME_BITS_PAIRS = tuple(combinations_with_replacement(FMA_ISAS, 2)) or (("portable", "portable"),)


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Run with one instruction set."""
    previous = instruction_sets.use_isa(name)
    try:
        yield
    finally:
        instruction_sets.use_isa(previous)
