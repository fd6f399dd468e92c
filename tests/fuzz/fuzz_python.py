#!/usr/bin/env python3
"""The public functions under atheris; the arguments are libFuzzer's.

Knows: atheris.   Must not know: what a call is, or when it is wrong.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["calls", "judge", "xent_fast"]):
    import judge


def test_one_input(data: bytes) -> None:
    judge.check(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
