"""Measured errors as Markdown tables.

Knows: Markdown, and how to gather cells by implementation, distribution or number of classes.
Must not know: how the errors were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from judgement import Tally

INDEX_QUANTITIES = ("loss", "target", "others")
FUNCTIONS = "functions of the softmax"
FUNCTION_QUANTITIES = ("p", "small p", "log p", "lse")


@dataclass(frozen=True)
class Cell:
    """What was measured: one implementation on the rows of one distribution and width."""

    dtype: str
    implementation: str
    target_kind: str
    distribution: str
    classes: int


Results = dict[Cell, dict[str, Tally]]


def gather(results: Results, quantity: str, **wanted: object) -> Tally:
    """The tally of all cells whose attributes are as wanted."""
    gathered = Tally()
    for cell, tallies in results.items():
        if quantity in tallies and all(getattr(cell, key) == it for key, it in wanted.items()):
            gathered.merge(tallies[quantity])
    return gathered


def distinct(results: Results, attribute: str) -> list:
    """Values of one attribute, in the order in which they were measured."""
    return list(dict.fromkeys(getattr(cell, attribute) for cell in results))


def number(value: float) -> str:
    """Two decimals while they mean something, then powers of ten; a dash for nothing measured."""
    if value != value:
        return "–"
    if value < 99.995:
        return f"{value:.2f}"
    if value < 9999.5:
        return f"{value:.0f}"
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def _table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(header), *map(list, lines)]
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _worst_and_mean(tallies: Iterable[Tally]) -> list[str]:
    return [f(t) for t in tallies for f in (lambda t: number(t.worst), lambda t: number(t.mean))]


def _worst_of_each(tallies: Iterable[Tally]) -> str:
    return " / ".join(number(tally.worst if tally.count else float("nan")) for tally in tallies)


def overall(results: Results, dtype: str) -> str:
    """Implementation by quantity, index targets: worst and mean over all rows."""
    quantities = (*INDEX_QUANTITIES, "subnormal")
    header = ["index targets", *(f"{q}, {s}" for q in quantities for s in ("worst", "mean"))]
    lines = (
        [
            implementation,
            *_worst_and_mean(
                gather(
                    results,
                    quantity,
                    dtype=dtype,
                    implementation=implementation,
                    target_kind="index",
                )
                for quantity in quantities
            ),
        ]
        for implementation in distinct(results, "implementation")
    )
    return _table(header, lines)


def other_targets(results: Results, dtype: str, implementations: list[str]) -> str:
    """Weighted, one-hot and soft targets of this library: worst and mean over all rows."""
    header = ["", *(f"{q}, {s}" for q in ("loss", "gradient") for s in ("worst", "mean"))]
    lines = []
    for implementation in implementations:
        for kind in ("index, weighted", "one-hot", "soft"):
            of_kind = {"dtype": dtype, "implementation": implementation, "target_kind": kind}
            gradient = Tally()
            for quantity in ("target", "others", "gradient"):
                gradient.merge(gather(results, quantity, **of_kind))
            tallies = (gather(results, "loss", **of_kind), gradient)
            lines.append([f"{implementation}, {kind}", *_worst_and_mean(tallies)])
    return _table(header, lines)


def functions(results: Results, dtype: str) -> str:
    """softmax, log_softmax and logsumexp: worst and mean over all rows."""
    of_functions = {
        cell: tallies for cell, tallies in results.items() if cell.target_kind == FUNCTIONS
    }
    header = ["", *(f"{q}, {s}" for q in FUNCTION_QUANTITIES for s in ("worst", "mean"))]
    lines = (
        [
            implementation,
            *_worst_and_mean(
                gather(of_functions, quantity, dtype=dtype, implementation=implementation)
                for quantity in FUNCTION_QUANTITIES
            ),
        ]
        for implementation in distinct(of_functions, "implementation")
    )
    return _table(header, lines)


def worst_by(results: Results, dtype: str, attribute: str) -> str:
    """`attribute` by implementation, index targets: worst loss / target / others."""

    def entry(value: object, implementation: str) -> str:
        wanted = {attribute: value, "implementation": implementation}
        return _worst_of_each(
            gather(results, quantity, dtype=dtype, target_kind="index", **wanted)
            for quantity in INDEX_QUANTITIES
        )

    return _cross(
        distinct(results, attribute), distinct(results, "implementation"), entry, attribute
    )


def _cross(down: list, across: list, entry: Callable[..., str], corner: str) -> str:
    header = [corner, *(f"{it} classes" if isinstance(it, int) else it for it in across)]
    lines = (
        [f"{it:,}" if isinstance(it, int) else it, *(entry(it, other) for other in across)]
        for it in down
    )
    return _table(header, lines)
