"""The documented examples are true: of every public function, on every instruction set; of pages.

Knows the public names, the standard library's doctest, how pages mark code. Must not know what a
function does.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import xent_fast

FUNCTIONS = [name for name in xent_fast.__all__ if inspect.isroutine(getattr(xent_fast, name))]
# What a function asks of its argument stands beside that function.
LISTED_ELSEWHERE = {"mpi.Communicator"}
ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs"


@pytest.mark.smoke
@pytest.mark.thread_unsafe(reason="doctest holds the process's standard output")
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
@pytest.mark.thread_unsafe(reason="doctest holds the process's standard output")
@pytest.mark.parametrize(
    "name",
    ["half_precision.md", "how_to.md", "index.md", "threads.md", "tutorial.md", "../README.md"],
)
def test_pages(name: str) -> None:
    """The blocks of a page, in its order, each on what the ones before have left.

    Of a session in the interpreter what it prints is compared too.
    """
    page = (PAGES / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    runner = doctest.DocTestRunner(verbose=False)
    for block in blocks:
        session = doctest.DocTestParser().get_doctest(block, names, name, name, 0)
        if session.examples:
            runner.run(session, clear_globs=False)
            names |= session.globs
        else:
            exec(compile(block, name, "exec"), names)
    assert runner.summarize(verbose=False).failed == 0


def test_every_recipe_has_its_block() -> None:
    page = (PAGES / "how_to.md").read_text(encoding="utf-8")
    assert page.count("```python\n") == page.count("\n## ") + 1


def listed_names() -> set[str]:
    return set(re.findall(r"^ {3}([\w.]+)$", (PAGES / "reference.md").read_text(), re.MULTILINE))


def test_every_name_is_on_the_page_of_functions() -> None:
    assert listed_names() >= set(xent_fast.__all__) - {"__version__"}


@pytest.mark.thread_unsafe(reason="Python 3.11's ast.parse fails beside itself in another thread")
def test_every_name_of_a_module_is_on_that_page() -> None:
    """Read, not imported: most modules need a library that may be missing."""
    named = {
        f"{path.stem}.{name}"
        for path in Path(xent_fast.__file__).parent.glob("[a-z]*.py")
        for name in names_of_module(path)
    }
    assert len({name.partition(".")[0] for name in named}) >= 8
    assert named - LISTED_ELSEWHERE == {name for name in listed_names() if "." in name}


def names_of_module(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def test_tables_of_checks_are_those_of_the_register() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "check"), "--stale"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
