"""The documented examples of every public function are true, on every instruction set.

Knows the public names and the standard library's doctest. Must not know what a function does.
"""

from __future__ import annotations

import doctest
import inspect

import pytest

import xent_fast

FUNCTIONS = [name for name in xent_fast.__all__ if inspect.isfunction(getattr(xent_fast, name))]


@pytest.mark.smoke
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples(name: str) -> None:
    documented = doctest.DocTestFinder().find(getattr(xent_fast, name), name, globs={})
    examples = [example for test in documented for example in test.examples]
    assert any(example.want for example in examples), "no example shows what it gives"
    runner = doctest.DocTestRunner(verbose=False)
    for test in documented:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
