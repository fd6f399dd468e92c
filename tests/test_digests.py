"""The bits that are kept in the repository: those of this machine are the same.

Knows the record and its cases (digests/); scripts/check_bits renews it and tries circumstances.
Must not know what a case is made of.
"""

from __future__ import annotations

import numpy as np
import pytest
from digests import cases, record


def test_bits_of_the_record(isa: str) -> None:
    recorded = record.read(isa)
    got = {case.name: cases.digest_of(case) for case in cases.all_cases()}
    assert got.keys() == recorded.keys()
    different = [name for name in got if got[name] != recorded[name]]
    assert not different, f"{len(different)} of {len(got)}, first {different[:3]}"


@pytest.mark.parametrize("family", ["avx2", "portable"])
def test_row_layouts_share_bits(family: str) -> None:
    """However far apart the rows are, and in whichever order."""
    recorded = record.read(family)
    compared = 0
    for name, digest in recorded.items():
        case, _, layout = name.rpartition(", ")
        if layout in cases.ROW_LAYOUTS and layout != "contiguous":
            assert digest == recorded[f"{case}, contiguous"], name
            compared += 1
    assert compared > 300


def test_digests_tell_bits_apart() -> None:
    """A last bit, a sign of zero, a shape and a dtype show; which NaN it is does not."""
    value = np.array([0.0, 1.5, float("nan")])
    digests = {
        cases.digest([array])
        for array in (
            value,
            -value,
            value + np.array([0, 2.0**-52, 0]),
            value.reshape(3, 1),
            value.astype(np.float32),
        )
    }
    assert len(digests) == 5
    assert cases.digest([np.copysign(value, [1, 1, -1])]) == cases.digest([value])
