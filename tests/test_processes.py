"""Processes of every kind of start, beside other OpenMP libraries, and interrupted.

Each test runs a script of tests/processes in a process of its own, with a limit on its time.

Knows the scripts, and which libraries are here. Must not know what is computed.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes.second_libgomp import build_second_libgomp, compiler

from xent_fast import show_config

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

TESTS = Path(__file__).parent
TIME_LIMIT = 200
NEIGHBOURS = [name for name in ("sklearn", "torch") if importlib.util.find_spec(name)]
has_openmp = show_config("dicts")["threads"]["openmp"] is not None


def run(script: str, *arguments: str) -> dict[str, Any]:
    """The figures that a script prints last; two threads even on one processor."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "processes" / script), *arguments],
        check=True,
        timeout=TIME_LIMIT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pools_after_a_threaded_call(method: str) -> None:
    ways = "4" if method == "fork" else "1"  # the others start slowly
    figures = run("pools.py", method, "--ways", ways)
    assert figures["right"] == figures["results"] > 0


ORDERS = [
    order
    for count in range(1, len(NEIGHBOURS) + 1)
    for others in itertools.combinations(NEIGHBOURS, count)
    for order in (["xent_fast", *others], [*others, "xent_fast"])
]
NO_NEIGHBOUR = pytest.param(
    [], id="none", marks=pytest.mark.skip(reason="needs scikit-learn or PyTorch")
)


@pytest.mark.parametrize("order", ORDERS or [NO_NEIGHBOUR], ids="-".join)
def test_beside_another_library(order: list[str]) -> None:
    figures = run("neighbours.py", "--rounds", "1", *order)
    assert figures["right"] == figures["results"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts the mapped files of /proc")
@pytest.mark.skipif(not has_openmp, reason="needs a build with OpenMP")
@pytest.mark.skipif(
    shutil.which(compiler()[0]) is None,
    reason="needs a C compiler",
)
@pytest.mark.parametrize("is_first", [False, True])
def test_two_libgomps(tmp_path: Path, is_first: bool) -> None:
    library = str(build_second_libgomp(tmp_path))
    order = [library, "xent_fast"] if is_first else ["xent_fast", library]
    figures = run("neighbours.py", "--rounds", "1", *order)
    assert figures["right"] == figures["results"] > 0
    assert len(figures["libgomps"]) == 2


def test_interrupts() -> None:
    figures = run("interrupted.py", "8")
    assert "wrong" not in figures
    assert figures["during the call"] > 0
