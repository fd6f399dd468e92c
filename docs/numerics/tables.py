"""Measured errors as Markdown tables, and the page that has them.

Knows: how to gather cells by implementation, distribution or number of classes.
Must not know: how the errors were measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from docs.numerics.judgement import Tally
from scripts.pages import table

PAGE = Path(__file__).parent.parent / "numerics.md"
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


def together(names: Iterable[str], figures: Iterable[Iterable[str]]) -> dict[str, list[str]]:
    """Figures by name; names that have the same ones share an entry, and their first word."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, row in zip(names, figures, strict=True):
        found.setdefault(tuple(row), []).append(name)
    joined = {}
    for row, same in found.items():
        first = same[0].split(", ")[0]
        rest = [name.removeprefix(f"{first}, ") for name in same[1:]]
        joined[", ".join([same[0], *rest])] = list(row)
    return joined


def _worst_and_mean(tallies: Iterable[Tally]) -> list[str]:
    return [f(t) for t in tallies for f in (lambda t: number(t.worst), lambda t: number(t.mean))]


def _worst_of_each(tallies: Iterable[Tally]) -> str:
    return " / ".join(number(tally.worst if tally.count else float("nan")) for tally in tallies)


def overall(results: Results, dtype: str) -> str:
    """Implementation by quantity, index targets: worst and mean over all rows."""
    quantities = (*INDEX_QUANTITIES, "subnormal")
    header = ["index targets", *(f"{q}, {s}" for q in quantities for s in ("worst", "mean"))]
    names = distinct(results, "implementation")
    figures = (
        _worst_and_mean(
            gather(results, quantity, dtype=dtype, implementation=name, target_kind="index")
            for quantity in quantities
        )
        for name in names
    )
    return table(header, ([name, *row] for name, row in together(names, figures).items()))


def other_targets(results: Results, dtype: str, implementations: list[str]) -> str:
    """Weighted, one-hot and soft targets of this library: worst and mean over all rows."""
    header = ["", *(f"{q}, {s}" for q in ("loss", "gradient") for s in ("worst", "mean"))]
    lines = []
    for kind in ("index, weighted", "one-hot", "soft"):
        figures = []
        for implementation in implementations:
            of_kind = {"dtype": dtype, "implementation": implementation, "target_kind": kind}
            gradient = Tally()
            for quantity in ("target", "others", "gradient"):
                gradient.merge(gather(results, quantity, **of_kind))
            tallies = (gather(results, "loss", **of_kind), gradient)
            figures.append(_worst_and_mean(tallies))
        for names, row in together(implementations, figures).items():
            lines.append([f"{kind}: {names}", *row])
    return table(header, lines)


def functions(results: Results, dtype: str) -> str:
    """softmax, log_softmax and logsumexp: worst and mean over all rows."""
    of_functions = {
        cell: tallies for cell, tallies in results.items() if cell.target_kind == FUNCTIONS
    }
    header = ["", *(f"{q}, {s}" for q in FUNCTION_QUANTITIES for s in ("worst", "mean"))]
    names = distinct(of_functions, "implementation")
    figures = (
        _worst_and_mean(
            gather(of_functions, quantity, dtype=dtype, implementation=name)
            for quantity in FUNCTION_QUANTITIES
        )
        for name in names
    )
    return table(header, ([name, *row] for name, row in together(names, figures).items()))


def halves(results: Results, dtypes: list[str], implementations: list[str]) -> str:
    """Gradients and softmax in ulps of 16 bits, losses and lse in those of float32: the worst."""
    columns = {
        "gradient": ("index", "gradient"),
        "loss": ("index", "loss"),
        "soft targets: gradient": ("soft", "gradient"),
        "soft targets: loss": ("soft", "loss"),
        "p": (FUNCTIONS, "p"),
        "small p": (FUNCTIONS, "small p"),
        "log p": (FUNCTIONS, "log p"),
        "lse": (FUNCTIONS, "lse"),
    }
    lines = []
    for dtype in dtypes:
        figures = (
            [
                number(
                    gather(
                        results, quantity, dtype=dtype, implementation=name, target_kind=kind
                    ).worst
                )
                for kind, quantity in columns.values()
            ]
            for name in implementations
        )
        for names, row in together(implementations, figures).items():
            lines.append([f"{dtype}: {names}", *row])
    return table(["", *columns], lines)


def worst_by(results: Results, dtype: str, attribute: str, names: list[str]) -> str:
    """`attribute` by implementation, index targets: worst loss / target / others."""

    def entry(value: object, implementation: str) -> str:
        wanted = {attribute: value, "implementation": implementation}
        return _worst_of_each(
            gather(results, quantity, dtype=dtype, target_kind="index", **wanted)
            for quantity in INDEX_QUANTITIES
        )

    values = distinct(results, attribute)
    columns = together(names, ([entry(value, name) for value in values] for name in names))
    labels = [f"{value:,}" if isinstance(value, int) else value for value in values]
    return table([attribute, *columns], zip(labels, *columns.values(), strict=True))
