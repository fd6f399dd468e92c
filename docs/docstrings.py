"""The functions' docstrings as the site shows them; as a program, what they lack.

    python docs/docstrings.py

Where a docstring says "As for `other`", it is completed by what is said there. numpydoc's own
validation does not know of that, and asks for no section Raises.

Knows: numpydoc's sections. Must not know: any function by name.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from numpydoc.docscrape import NumpyDocString, Parameter

import xent_fast

NEEDED = ("Summary", "Extended Summary", "Parameters", "Returns", "Raises", "Examples")
PUBLIC = {name: getattr(xent_fast, name) for name in xent_fast.__all__}
FUNCTIONS: dict[str, Callable[..., object]] = {
    name: value for name, value in PUBLIC.items() if inspect.isroutine(value)
}


@dataclass(frozen=True)
class Entry:
    """One argument, result or exception; without a name and a kind, a remark on those above."""

    name: str
    kind: str
    text: str


@cache
def docstring(name: str) -> NumpyDocString:
    """The parsed docstring."""
    return NumpyDocString(inspect.getdoc(PUBLIC[name]) or "")


def paragraphs(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip()


def entries(name: str, section: str) -> list[Entry]:
    """A section of a function's docstring, with what it takes from other functions."""
    return [
        entry
        for item in docstring(name)[section]
        for entry in item_entries(item, section, paragraphs(item.desc))
    ]


def item_entries(item: Parameter, section: str, text: str) -> list[Entry]:
    match = re.match(r"(?:In nats, as|As) (?:for|of) `(\w+)`[.;,]?\s*(.*)", text, re.DOTALL)
    if match is None or match[1] not in FUNCTIONS:
        return [Entry(item.name, item.type, text)]
    other, addition = match[1], match[2][:1].upper() + match[2][1:]
    theirs = entries(other, section)
    if section == "Raises":
        return theirs + remark(addition)
    names = item.name.split(", ")
    if names == [item.name]:
        (same,) = [entry for entry in theirs if entry.name == item.name] or theirs
        both = "\n\n".join(part for part in (same.text, addition) if part)
        return [Entry(item.name, item.type or same.kind, both)]
    taken = [entry for name in names for entry in theirs if entry.name == name]
    return taken + remark(addition)


def remark(text: str) -> list[Entry]:
    return [Entry("", "", text)] if text else []


def complain_of(name: str) -> Iterator[str]:
    """What a function's docstring lacks."""
    document = docstring(name)
    arguments = set(inspect.signature(FUNCTIONS[name]).parameters)
    needed = [each for each in NEEDED if arguments or each not in ("Parameters", "Raises")]
    yield from (f"no section {section}" for section in needed if not document[section])
    if ".. math::" in (inspect.getdoc(FUNCTIONS[name]) or "") and not document["References"]:
        yield "a formula without a source in the section References"
    documented = [
        argument
        for entry in entries(name, "Parameters")
        for argument in filter(None, entry.name.split(", "))
    ]
    if sorted(documented) != sorted(arguments):
        yield f"arguments {sorted(arguments)}, but documented {sorted(documented)}"


if __name__ == "__main__":
    sys.exit("\n".join(f"{name}: {what}" for name in FUNCTIONS for what in complain_of(name)) or 0)
