"""Measured times as Markdown, and blocks of a page replaced.

Knows: Markdown, medians. Must not know: what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median, quantiles


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(header), *map(list, lines)]
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def number(value: float) -> str:
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median_and_slow(microseconds: list[float]) -> str:
    """Median, and in brackets the time that nine in ten samples keep."""
    return f"{number(median(microseconds))} ({number(quantiles(microseconds, n=10)[-1])})"


def replace_block(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- measured: {name}: begin -->", f"<!-- measured: {name}: end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        raise ValueError(f"{page} lacks the markers {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
