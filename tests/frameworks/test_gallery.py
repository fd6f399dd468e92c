"""Every example of the gallery runs, and keeps the law that it asserts.

Knows where the examples lie. Must not know what they show.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_there_are_examples() -> None:
    assert len(list(EXAMPLES.glob("plot_*.py"))) >= 8


def imported(text: str) -> list[str]:
    """The packages that a script imports."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return [name.split(".")[0] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("plot_*.py")), ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in imported(text):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    assert text.startswith('"""\n')
    assert text.count("\n# %%\n") >= 2
    finished = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(path)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout
