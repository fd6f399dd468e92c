"""Write the pages of docs/api from the docstrings of the installed package.

    python docs/api/generate.py            renew the pages
    python docs/api/generate.py --check    name the pages that are stale; write nothing

Needs numpydoc (the group `lint`). A function whose docstring leaves out an argument or a section is
an error. Where a docstring says "As for `other`", the page says what is said there.

Knows: numpydoc's sections, Markdown. Must not know: any function by name.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType

from numpydoc.docscrape import NumpyDocString, Parameter

import xent_fast

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent.parent / "tests"
INDEX, RESULTS = "README.md", "results.md"
WRITTEN_BY = "<!-- Written by generate.py from the docstrings of the package: edit those. -->"
NEEDED = ("Summary", "Extended Summary", "Parameters", "Returns", "Raises", "Examples")
LONGEST_LINE = 100
PAGES = {"num_threads": " [More on threads](../threads.md)."}  # of arguments with a page

PUBLIC = {name: getattr(xent_fast, name) for name in xent_fast.__all__}
FUNCTIONS: dict[str, FunctionType] = {
    name: value for name, value in PUBLIC.items() if inspect.isfunction(value)
}
RESULT_TYPES: dict[str, type] = {
    name: value for name, value in PUBLIC.items() if inspect.isclass(value)
}


# --- docstrings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One argument, result or exception; without a name and a kind, a remark on those above."""

    name: str
    kind: str
    text: str


@cache
def docstring(name: str) -> NumpyDocString:
    """The parsed docstring; a line that ends with one backslash goes on in the next."""
    text = inspect.getdoc(PUBLIC[name]) or ""
    return NumpyDocString(re.sub(r"(?<!\\)\\\n\s*", "", text))


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


# --- reStructuredText to Markdown -----------------------------------------------------------------


def markdown(text: str) -> str:
    """What these docstrings use of it: formulas, definition lists, roles, literals."""
    text = re.sub(r"^\.\. math:: *\n*((?:.*\n?)(?:\n?(?: {4,}).*\n?)*)", formula, text, flags=re.M)
    text = re.sub(r"^(``.+``)\n {4}((?:.+\n? {4})*.+)$", definition, text, flags=re.M)
    parts = re.split(r"(```math\n.*?\n```)", text, flags=re.DOTALL)
    parts[::2] = [re.sub(r":math:`([^`]+)`|``([^`]+)``|`([^`]+)`", inline, p) for p in parts[::2]]
    return "".join(parts).strip()


def formula(match: re.Match[str]) -> str:
    lines = textwrap.dedent(match[1]).strip()
    if r"\\" in lines:
        lines = f"\\begin{{aligned}}\n{lines}\n\\end{{aligned}}"
    return f"```math\n{lines}\n```\n"


def definition(match: re.Match[str]) -> str:
    return f"- {match[1]}: " + re.sub(r"\n {4}", " ", match[2])


def inline(match: re.Match[str]) -> str:
    mathematics, literal, name = match.groups()
    if mathematics:
        return f"$`{mathematics}`$"
    if literal:
        return f"`{literal}`"
    return link(name) if name in PUBLIC else f"`{name}`"


def link(name: str) -> str:
    page = f"{name}.md" if name in FUNCTIONS else f"{RESULTS}#{name.lower()}"
    return f"[`{name}`]({page})"


def listed(found: list[Entry]) -> str:
    """One item an entry, a remark as a paragraph of its own."""
    return "\n\n".join(item_of(entry) for entry in found)


def item_of(entry: Entry) -> str:
    if not entry.name and not entry.kind:
        return markdown(entry.text)
    name = ", ".join(f"**`{name}`**" for name in filter(None, entry.name.split(", ")))
    kind = link(entry.kind) if entry.kind in PUBLIC else markdown(entry.kind)
    heading = ": ".join(filter(None, (name, kind)))
    text = markdown(entry.text) + PAGES.get(entry.name, "")
    return textwrap.indent(f"{heading}\n\n{text}", "  ").replace("  ", "- ", 1)


# --- pages ----------------------------------------------------------------------------------------


def page(name: str) -> str:
    """Everything about one function."""
    document = docstring(name)
    sections = {
        "": markdown(paragraphs(document["Extended Summary"])),
        "Arguments": listed(entries(name, "Parameters")),
        "Result": listed(entries(name, "Returns")),
        "Errors": listed(entries(name, "Raises")),
        "Notes": markdown(paragraphs(document["Notes"])),
        "Source": sources(paragraphs(document["References"])),
        "Example": "```python\n" + paragraphs(document["Examples"]) + "\n```",
        "See also": see_also(document["See Also"]),
        "Tests": "\n".join(
            f"- [{path.name}](../../tests/{path.name}): {first_line(path)}"
            for path in sorted(TESTS.glob("test_*.py"))
            if name in names_in(path)
        ),
    }
    body = "\n\n".join(
        f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text
    )
    summary = markdown(" ".join(document["Summary"]))
    return f"{WRITTEN_BY}\n\n# {name}\n\n{summary}\n\n```python\n{signature(name)}\n```\n\n{body}\n"


def signature(name: str) -> str:
    """Arguments and defaults: their types are told below."""
    described = inspect.signature(FUNCTIONS[name])
    bare = described.replace(
        parameters=[
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in described.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    whole = f"{name}{bare}".replace("'", '"')
    indent = " " * (len(name) + 1)
    return "\n".join(textwrap.wrap(whole, LONGEST_LINE, subsequent_indent=indent))


def sources(text: str) -> str:
    """Numbered ones become a numbered list."""
    return markdown(re.sub(r"^\.\. \[(\d+)\] ", r"\1. ", text, flags=re.MULTILINE))


def see_also(found: list) -> str:
    return "\n".join(
        f"- {', '.join(link(name) for name, _ in names)}: {markdown(' '.join(description))}"
        for names, description in found
    )


@cache
def names_in(path: Path) -> set[str]:
    """Every name that a test file imports, looks up or spells as a string."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        for attribute in ("id", "attr", "name", "value"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                found.add(value)
    return found


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def results_page() -> str:
    parts = [
        WRITTEN_BY,
        "# What a call gives back",
        "Named tuples: they unpack, and have fields.",
    ]
    for name in RESULT_TYPES:
        document = docstring(name)
        fields = [
            Entry(item.name, item.type, paragraphs(item.desc)) for item in document["Attributes"]
        ]
        parts += [f"## {name}", markdown(" ".join(document["Summary"])), listed(fields)]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    rows = [
        f"| {link(name)} | {markdown(' '.join(docstring(name)['Summary']))} |"
        for name in [*FUNCTIONS, *RESULT_TYPES]
    ]
    return "\n".join(
        [
            WRITTEN_BY,
            "",
            "# The functions",
            "",
            "One page each: arguments, shapes and units, errors, the formula, its source, an",
            "example that the tests run, and the test files that name it.",
            "[The derivation](../derivation.md) connects them, and [numerics](../numerics.md) has",
            "the error bounds.",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def all_pages() -> dict[str, Callable[[], str]]:
    pages: dict[str, Callable[[], str]] = {INDEX: index, RESULTS: results_page}
    for name in FUNCTIONS:
        pages[f"{name}.md"] = lambda name=name: page(name)
    return pages


# --- the command ----------------------------------------------------------------------------------


def stale(texts: dict[str, str]) -> list[str]:
    """Pages that are not as they should be, those that should not exist among them."""
    there = {path.name: path.read_text() for path in HERE.glob("*.md")}
    return sorted(name for name in there | texts if there.get(name) != texts.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="name stale pages; write nothing")
    arguments = parser.parse_args()
    complaints = [f"{name}: {what}" for name in FUNCTIONS for what in complain_of(name)]
    if complaints:
        sys.exit("\n".join(complaints))
    texts = {name: make() for name, make in all_pages().items()}
    if arguments.check:
        if names := stale(texts):
            sys.exit(f"stale in docs/api: {', '.join(names)}; run python docs/api/generate.py")
        return
    for name in stale(texts):
        if name in texts:
            (HERE / name).write_text(texts[name])
        else:
            (HERE / name).unlink()


if __name__ == "__main__":
    main()
