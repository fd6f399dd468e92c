"""The bits that every machine gives: cases of the compiled functions, and their record.

Knows the parts. Must not know who compares: the tests, tests/bits, or a user.
"""

from xent_fast._bits.cases import (
    CIRCUMSTANCES,
    CONTIGUOUS,
    Case,
    all_cases,
    circumstances_that_show,
    digest_of,
)
from xent_fast._bits.record import differences, read, write

__all__ = [
    "CIRCUMSTANCES",
    "CONTIGUOUS",
    "Case",
    "all_cases",
    "circumstances_that_show",
    "differences",
    "digest_of",
    "read",
    "write",
]
