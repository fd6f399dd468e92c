"""The bits that are kept in the repository: those of this machine are the same.

Knows the record and its cases (xent_fast._bits); scripts/check_bits renews it and tries
circumstances.
Must not know what a case is made of.
"""

from __future__ import annotations

import numpy as np
import pytest

from xent_fast._bits import all_cases, cases, differences, digest_of, read


def test_bits_of_the_record(isa: str) -> None:
    results = [(case, digest_of(case)) for case in all_cases()]
    assert len(results) > 3000
    different = differences(isa, results)
    assert not different, f"{len(different)} of {len(results)}, first {different[:3]}"


def test_a_difference_is_named() -> None:
    """Another digest, a case that is not recorded, and a record without its case."""
    results = [(case, digest_of(case)) for case in all_cases(most_classes=2)]
    line, classes = results[0][0].line, results[0][0].classes
    wrong = [(cases.Case(line, classes, results[0][0].run), "----"), *results[1:]]
    found = differences("portable", wrong)
    assert found[0].startswith(f"{line}, {classes} classes: ----, recorded ")
    assert sum("without a case" in it for it in found) > 100  # more than two classes
    new = (cases.Case("another function", 3, results[0][0].run), "----")
    assert differences("portable", [new])[0] == (
        "another function, 3 classes: ----, recorded nothing"
    )


@pytest.mark.parametrize("family", ["avx2", "portable"])
def test_row_layouts_share_bits(family: str) -> None:
    """However far apart the rows are, and in whichever order."""
    recorded, compared = read(family), 0
    by_classes = list(cases.FEW_CLASSES + cases.MANY_CLASSES + cases.SHARED_CLASSES)
    for name, digests in recorded.items():
        function, _, layout = name.rpartition(", ")
        if layout in cases.ROW_LAYOUTS and layout != "contiguous":
            contiguous = recorded[f"{function}, contiguous"]
            want = [contiguous[by_classes.index(classes)] for classes in cases.LAYOUT_CLASSES]
            assert digests == want, name
            compared += len(digests)
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
