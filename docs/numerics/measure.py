"""Worst and mean errors of xent_fast and its peers, in ulps; writes the tables of docs/numerics.md.

    python -m docs.numerics.measure --write     measures (minutes) and replaces the page's tables
    python -m docs.numerics.measure             the same, printed
    python -m docs.numerics.measure --quick     fewer rows of fewer sizes (seconds), printed
    python -m docs.numerics.measure --halves --write   the table of 16 bits alone (a minute)

Needs the extras `test` (mpmath) and `benchmark` (SciPy, tqdm); PyTorch and JAX join where they are
installed.

Knows: which implementations run on which rows, and the page.
Must not know: how exact values, errors or tables come about.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by name then
import numpy as np
from tqdm import tqdm

import xent_fast
from docs.numerics.distributions import DISTRIBUTIONS, draw, draw_rounded, soft_targets
from docs.numerics.judgement import (
    Tally,
    judge_dense_targets,
    judge_functions,
    judge_index_targets,
    judge_rounded_gradient,
)
from docs.numerics.oracle import (
    FLOAT64,
    arithmetic_for,
    disagreement,
    effective_mass,
    evaluate,
    evaluate_by_definition,
)
from docs.numerics.peers import Functions, Peer, installed_peers, scipy_functions
from docs.numerics.tables import (
    FUNCTIONS,
    PAGE,
    Cell,
    Results,
    distinct,
    functions,
    halves,
    other_targets,
    overall,
    worst_by,
)
from scripts.pages import write_block
from xent_fast._binding import instruction_sets
from xent_fast._command.info import processor_name

CLASSES = (3, 10, 1000, 32000, 128256)
QUICK_CLASSES = (3, 10, 1000)
ENTRIES = {"float32": 1_000_000, "float64": 250_000}
QUICK_ENTRIES = {"float32": 20_000, "float64": 20_000}
HALVES = ("float16", "bfloat16")
HALF_ENTRIES, QUICK_HALF_ENTRIES = 200_000, 5_000
# Largest disagreement allowed between the oracle and mpmath, in ulps of the dtype judged.
ORACLE_ERROR = {"float32": 2.0**-16, "float64": 2.0**-7}


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    previous = instruction_sets.use_isa(name)
    try:
        yield
    finally:
        instruction_sets.use_isa(previous)


def library_on(isa: str) -> Peer:
    """xent_fast on one ISA, as a peer; further arguments go to the library."""

    def loss_and_gradient(logits, targets, **options):
        with forced_isa(isa):
            return xent_fast.softmax_cross_entropy_grad(
                logits, targets, reduction="none", **options
            )

    return loss_and_gradient


def functions_on(isa: str) -> Functions:
    """softmax, log_softmax and logsumexp on one ISA."""

    def all_three(logits):
        with forced_isa(isa):
            return tuple(
                f(logits) for f in (xent_fast.softmax, xent_fast.log_softmax, xent_fast.logsumexp)
            )

    return all_three


def check_oracle(dtype: str) -> float:
    """Largest error of the oracle on a sample of every distribution; raises if too large."""
    worst = 0.0
    for distribution in DISTRIBUTIONS:
        for classes in (3, 100):
            logits, labels = next(draw(distribution, classes, dtype, 300))
            mass = effective_mass(labels, classes, np.linspace(0.1, 10, labels.size))
            definition = evaluate_by_definition(logits, mass)
            error = disagreement(logits, mass, arithmetic_for(np.dtype(dtype)), definition)
            worst = max(worst, error)
    if worst > ORACLE_ERROR[dtype]:
        raise AssertionError(f"the oracle for {dtype} is off by {worst} ulp")
    return worst


class Measurement:
    """Tallies by cell, filled chunk by chunk."""

    def __init__(
        self, libraries: dict[str, Peer], peers: dict[str, Peer], functions: dict[str, Functions]
    ) -> None:
        self.libraries = libraries
        self.everyone = libraries | peers
        self.functions = functions
        self.results: Results = {}

    def measure_cell(self, dtype: str, distribution: str, classes: int, entries: int) -> None:
        for chunk, (logits, labels) in enumerate(draw(distribution, classes, dtype, entries)):
            self._measure_index_targets(distribution, logits, labels)
            if chunk == 0:
                self._measure_weighted(distribution, logits, labels)
                one_hot = np.zeros_like(logits)
                one_hot[np.arange(labels.size), labels] = 1
                soft = soft_targets(labels, classes, logits.dtype)
                soft[np.isneginf(logits)] = 0
                self._measure_dense(distribution, logits, "one-hot", one_hot)
                self._measure_dense(distribution, logits, "soft", soft)

    def measure_halves(self, dtype: str, distribution: str, classes: int, entries: int) -> None:
        for logits, labels in draw_rounded(distribution, classes, np.dtype(dtype), entries):
            mass = effective_mass(labels, classes, np.ones(labels.size))
            exact = evaluate(logits, mass, FLOAT64)
            soft = soft_targets(labels, classes, np.float32)
            soft[np.isneginf(logits)] = 0
            exact_soft = evaluate(logits, soft, FLOAT64)
            for name, library in self.libraries.items():
                tallies = judge_rounded_gradient(*library(logits, labels), exact)
                self._add(name, "index", distribution, logits, tallies)
                tallies = judge_dense_targets(*library(logits, soft), exact_soft, soft)
                self._add(name, "soft", distribution, logits, tallies)
                tallies = judge_functions(*self.functions[name](logits), exact, logits)
                self._add(name, FUNCTIONS, distribution, logits, tallies)

    def _add(self, name, kind, distribution, logits, tallies: dict[str, Tally]) -> None:
        cell = Cell(logits.dtype.name, name, kind, distribution, logits.shape[1])
        stored = self.results.setdefault(cell, {quantity: Tally() for quantity in tallies})
        for quantity, tally in tallies.items():
            stored[quantity].merge(tally)

    def _measure_index_targets(self, distribution, logits, labels) -> None:
        mass = effective_mass(labels, logits.shape[1], np.ones(labels.size))
        exact = evaluate(logits, mass, arithmetic_for(logits.dtype))
        for name, implementation in self.everyone.items():
            tallies = judge_index_targets(*implementation(logits, labels), exact, labels)
            self._add(name, "index", distribution, logits, tallies)
        for name, all_three in self.functions.items():
            tallies = judge_functions(*all_three(logits), exact, logits)
            self._add(name, FUNCTIONS, distribution, logits, tallies)

    def _measure_weighted(self, distribution, logits, labels) -> None:
        weights = np.random.default_rng(labels.size).uniform(0.1, 1, labels.size)
        mass = effective_mass(labels, logits.shape[1], weights)
        exact = evaluate(logits, mass, arithmetic_for(logits.dtype))
        for name, library in self.libraries.items():
            result = library(logits, labels, sample_weight=weights)
            tallies = judge_index_targets(*result, exact, labels)
            self._add(name, "index, weighted", distribution, logits, tallies)

    def _measure_dense(self, distribution, logits, kind, targets) -> None:
        exact = evaluate(logits, targets, arithmetic_for(logits.dtype))
        for name, library in self.libraries.items():
            tallies = judge_dense_targets(*library(logits, targets), exact, targets)
            self._add(name, kind, distribution, logits, tallies)


def description(oracle_errors: dict[str, float], left_out: list[str]) -> str:
    packages = ("xent_fast", "numpy", "scipy", "mpmath")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    oracle = ", ".join(
        f"{error:.1e} ulp for {dtype} ({arithmetic_for(np.dtype(dtype)).name})"
        for dtype, error in oracle_errors.items()
    )
    return (
        f"Machine: {processor_name()} ({platform.system()} {platform.machine()}), instruction sets "
        f"{', '.join(instruction_sets.available_isas())}. "
        f"Python {platform.python_version()}, {versions}.\n"
        f"Oracle against mpmath at 2400 bits, largest error on a sample of every distribution: "
        f"{oracle}.\n"
        f"Left out because not installed: {', '.join(left_out) or 'nothing'}."
    )


def report(results: Results, libraries: list[str]) -> str:
    parts = []
    for dtype in ENTRIES:
        parts += [f"### {dtype}", overall(results, dtype)]
        parts += ["Other targets:", other_targets(results, dtype, libraries)]
        parts += ["softmax, log_softmax, logsumexp:", functions(results, dtype)]
        parts += ["Worst loss / target / others by distribution:"]
        parts += [worst_by(results, dtype, "distribution", distinct(results, "implementation"))]
        parts += ["Worst loss / target / others by number of classes:"]
        parts += [worst_by(results, dtype, "classes", libraries)]
    return "\n\n".join(parts)


def wide(is_quick: bool) -> str:
    """What was measured, and the tables of float32 and float64."""
    oracle_errors = {dtype: check_oracle(dtype) for dtype in ENTRIES}
    peers, left_out = installed_peers()
    libraries, own_functions = on_every_isa(library_on), on_every_isa(functions_on)
    scipy = {f"SciPy {importlib.metadata.version('scipy')}": scipy_functions}
    measurement = Measurement(libraries, peers, own_functions | scipy)
    entries = QUICK_ENTRIES if is_quick else ENTRIES
    for cell in cells_of(list(ENTRIES), is_quick):
        measurement.measure_cell(*cell, entries[cell[0]])
    tables = report(measurement.results, list(libraries))
    return f"{description(oracle_errors, left_out)}\n\n{tables}"


def of_16_bits(is_quick: bool) -> str:
    """The table of float16 and bfloat16."""
    measurement = Measurement(on_every_isa(library_on), {}, on_every_isa(functions_on))
    for cell in cells_of(HALVES, is_quick):
        measurement.measure_halves(*cell, QUICK_HALF_ENTRIES if is_quick else HALF_ENTRIES)
    return halves(measurement.results, list(HALVES), list(measurement.libraries))


def on_every_isa(make: Callable[[str], Any]) -> dict[str, Any]:
    return {f"xent_fast, {isa}": make(isa) for isa in instruction_sets.available_isas()}


def cells_of(dtypes: Sequence[str], is_quick: bool) -> Iterator[tuple[str, str, int]]:
    classes = QUICK_CLASSES if is_quick else CLASSES
    yield from tqdm([*itertools.product(dtypes, DISTRIBUTIONS, classes)], unit="cell")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows of fewer sizes")
    parser.add_argument("--halves", action="store_true", help="the table of 16 bits alone")
    parser.add_argument("--write", action="store_true", help=f"replace the tables of {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--quick is too short a measurement for the page")

    texts = {} if arguments.halves else {"measured": wide(arguments.quick)}
    texts["measured, 16 bits"] = of_16_bits(arguments.quick)
    for name, text in texts.items():
        if arguments.write:
            write_block(PAGE, name, text)
        else:
            print(text, end="\n\n")


if __name__ == "__main__":
    main()
