"""Processes: pools, forks beside other OpenMP libraries, interrupts.

Needs the package installed with `.[test]`, Linux and a C compiler; scikit-learn and PyTorch, where
they are installed, are the neighbours (`.[examples]`, `.[test-peers]`).

Knows the scripts of tests/processes and tests/test_fork.py. Must not know what they compute.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import checking
from checking import ROOT, Outcome
from processes.second_libgomp import build_second_libgomp

ROOM = ROOT / "tests" / "processes"
TIME_LIMIT = 600


def figures_of(script: str, *arguments: str) -> dict[str, Any]:
    """The figures that a script of the room prints last; a hang is an error."""
    environment = {"OMP_NUM_THREADS": "2"}
    return checking.figures_of(
        ROOM / script, *arguments, environment=environment, seconds=TIME_LIMIT
    )


def check_pools(quick: bool) -> dict[str, int]:
    methods = multiprocessing.get_all_start_methods()
    figures = [
        figures_of("pools.py", method, "--jobs", "4" if quick else "40") for method in methods
    ]
    results = sum(figure["results"] for figure in figures)
    return {
        "results of pools' workers": results,
        "of them wrong": results - sum(figure["right"] for figure in figures),
    }


def orders(library: str) -> list[list[str]]:
    """Both import orders beside every set of the other libraries that are here."""
    others = [name for name in ("sklearn", "torch") if importlib.util.find_spec(name)]
    others.append(library)
    return [
        order
        for count in range(1, len(others) + 1)
        for chosen in itertools.combinations(others, count)
        for order in (["xent_fast", *chosen], [*chosen, "xent_fast"])
    ]


def check_neighbours(quick: bool) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as directory:
        library = str(build_second_libgomp(Path(directory)))
        chosen = orders(library)
        rounds = "3" if quick else "50"
        figures = [figures_of("neighbours.py", "--rounds", rounds, *order) for order in chosen]
    results = sum(figure["results"] for figure in figures)
    return {
        "orders of import beside other OpenMP libraries": len(chosen),
        "most libgomps in a process": max(len(figure["libgomps"]) for figure in figures),
        "results beside them": results,
        "of those wrong": results - sum(figure["right"] for figure in figures),
    }


def check_interrupts(quick: bool) -> dict[str, int]:
    when = Counter(figures_of("interrupted.py", "20" if quick else "500"))
    return {
        "interrupts": when["interrupts"],
        "of them during a call": when["during the call"],
        "incomplete outputs": when["wrong"],
    }


def check(options: argparse.Namespace) -> Outcome:
    parts = [part(options.quick) for part in (check_pools, check_neighbours, check_interrupts)]
    figures = {name: value for part in parts for name, value in part.items()}
    print(*(f"{name}: {value}" for name, value in figures.items()), sep="\n")
    wrong = [figures[name] for name in ("of them wrong", "of those wrong", "incomplete outputs")]
    if figures["most libgomps in a process"] < 2:
        print("no second libgomp was loaded: nothing was shown")
        wrong[1] += 1
    failed = sum(map(bool, wrong))
    return Outcome(figures, len(wrong) - failed, failed)
