"""Markdown tables, and the text that programs write between a page's markers.

Knows: Markdown, how a marker reads. Must not know: any page, nor what is measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def table(header: Iterable[str], rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    header = list(header)
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def with_block(page: Path, name: str, text: str) -> str:
    """The page with this between its markers of that name; the white space beside them stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = re.compile(rf"({begin}\s*).*?(\s*{end})", re.DOTALL)
    whole, found = block.subn(lambda old: old[1] + text.strip() + old[2], page.read_text("utf-8"))
    if found != 1:
        raise ValueError(f"{page} has the markers {begin} and {end} {found} times")
    return whole


def write_block(page: Path, name: str, text: str) -> None:
    page.write_text(with_block(page, name, text), encoding="utf-8")
