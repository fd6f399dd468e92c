"""Run the checks that techniques.toml names, and write their figures into docs/reliability.md.

    python docs/reliability/measure.py                    runs every check, prints the tables
    python docs/reliability/measure.py --quick NAME ...   some of them, in the form that CI runs
    python docs/reliability/measure.py --write NAME ...   some of them, and renews the page

A check is a command that ends with 0 only if nothing was wrong, and writes its figures, a JSON
object of names and plain values, to the file that follows `--json`.

Knows: the list of checks, the page.
Must not know: how anything is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = HERE.parent / "reliability.md"

Check = dict[str, list[str]]


def checks() -> dict[str, Check]:
    return tomllib.loads((HERE / "techniques.toml").read_text(encoding="utf-8"))


def run(command: list[str]) -> dict[str, object]:
    """Figures of one check; raises if it failed."""
    with tempfile.TemporaryDirectory() as directory:
        figures = Path(directory) / "figures.json"
        program = [sys.executable if word == "python" else word for word in command]
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run([*program, "--json", str(figures)], check=True, cwd=ROOT, env=environment)
        return json.loads(figures.read_text(encoding="utf-8"))


def as_table(command: list[str], figures: dict[str, object]) -> str:
    """A figure a row; figures "what, where: quantity" in a table of their own, "what" a row."""
    text = {name: shown(value) for name, value in figures.items()}
    plain = [[name, value] for name, value in text.items() if ": " not in name]
    parts = [f"`{' '.join(command)}`", markdown_table(["figure", "value"], plain)]
    places: dict[str, dict[str, dict[str, str]]] = {}
    for name, value in text.items():
        place, colon, quantity = name.partition(": ")
        if colon:
            what, _, where = place.partition(", ")
            places.setdefault(what, {}).setdefault(where, {})[quantity] = value
    rows, quantities = [], []
    for what, by_place in places.items():
        quantities = list(next(iter(by_place.values())))
        together: dict[tuple[str, ...], list[str]] = {}  # places with the same figures
        for where, values in by_place.items():
            together.setdefault(tuple(values[each] for each in quantities), []).append(where)
        rows += [[f"{what}, {', '.join(names)}", *values] for values, names in together.items()]
    if rows:
        parts.append(markdown_table(["", *quantities], rows))
    return "\n\n".join(parts) + "\n"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def replace_table(name: str, table: str) -> None:
    begin, end = f"<!-- measured: {name}: begin -->", f"<!-- measured: {name}: end -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        raise ValueError(f"{PAGE} lacks the markers {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n\n{table}\n{end}{after}", encoding="utf-8")


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = checks()
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--quick", action="store_true", help="the short form of each check")
    parser.add_argument("--write", action="store_true", help=f"replace the tables of {PAGE.name}")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    failed = []
    for name in arguments.names or known:
        command = known[name]["quick" if arguments.quick else "command"]
        try:
            table = f"{machine()}. {as_table(command, run(command))}"
        except subprocess.CalledProcessError as error:
            failed.append(f"{name}: {error}")
            continue
        if arguments.write:
            replace_table(name, table)
        print(f"## {name}\n\n{table}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
