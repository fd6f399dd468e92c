"""The documented examples are true: of every public function, on every instruction set; of pages.

Knows the public names, the standard library's doctest, how pages mark code. Must not know what a
function does.
"""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import xent_fast

FUNCTIONS = [name for name in xent_fast.__all__ if inspect.isfunction(getattr(xent_fast, name))]
PAGES = Path(__file__).parent.parent / "docs"


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


@pytest.mark.smoke
def test_recipes() -> None:
    """The blocks of docs/how_to.md, in the page's order, each on what the ones before have left."""
    page = (PAGES / "how_to.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("\n## ") + 1
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/how_to.md", "exec"), names)
