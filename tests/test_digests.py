"""The bits that are kept in the repository: those of this machine are the same.

Knows the record and its cases (xent_fast._bits); `scripts/check bits` renews it and tries
circumstances.
Must not know what a case is made of.
"""

from __future__ import annotations

import numpy as np

from xent_fast._bits import all_cases, cases, differences, digest_of


def test_bits_of_the_record(isa: str) -> None:
    results = [(case, digest_of(case)) for case in all_cases()]
    assert len(results) > 5000
    different = differences(isa, results)
    assert not different, f"{len(different)} of {len(results)}, first {different[:3]}"


def test_a_difference_is_named() -> None:
    """Another digest, a case that is not recorded, and a record without its case."""
    results = [(case, digest_of(case)) for case in all_cases(most_classes=2)]
    name, layout = results[0][0].name, cases.CONTIGUOUS
    found = differences("portable", [(results[0][0], "----"), *results[1:]])
    assert found[0].startswith(f"{name}: ----, recorded ")
    assert sum("without a case" in it for it in found) > 100  # more than two classes
    turned = next(k for k, (case, _) in enumerate(results) if case.layout != layout)
    results[turned] = (results[turned][0], "----")
    assert any(it.startswith(results[turned][0].name) for it in differences("portable", results))
    left_out = differences("portable", [(case, None) for case, _ in results])
    assert all("without a case" in it for it in left_out)
    new = (cases.Case("another function", 3, layout, results[0][0].run), "----")
    assert differences("portable", [new])[0] == (
        "another function, 3 classes, contiguous: ----, recorded nothing"
    )


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
