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
@pytest.mark.parametrize("name", ["how_to.md", "index.md", "tutorial.md", "../README.md"])
def test_pages(name: str) -> None:
    """The blocks of a page, in its order, each on what the ones before have left."""
    page = (PAGES / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)


def test_every_recipe_has_its_block() -> None:
    page = (PAGES / "how_to.md").read_text(encoding="utf-8")
    assert page.count("```python\n") == page.count("\n## ") + 1


def test_every_name_is_on_the_page_of_functions() -> None:
    listed = set(re.findall(r"^ {3}([\w.]+)$", (PAGES / "reference.md").read_text(), re.MULTILINE))
    assert listed >= set(xent_fast.__all__) - {"__version__"}
