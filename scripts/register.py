"""The register of the checks, and the tables that pages have of it and of what the checks found.

Knows: the register's form, the pages and their blocks. Must not know: how a check is run.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pages import table, with_block, write_block

ROOT = Path(__file__).resolve().parent.parent
REGISTER = Path(__file__).parent / "checks.toml"
RECIPES = ROOT / "CONTRIBUTING.md"
RELIABILITY = ROOT / "docs" / "reliability.md"


@dataclass(frozen=True)
class Check:
    """One entry of the register, whose head says what the fields are."""

    name: str
    proves: str
    takes: tuple[str, ...]
    program: str = ""
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    alone: bool = False
    needs: str = ""
    extra: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if bool(self.program) == bool(self.command):
            raise ValueError(f"{self.name}: a check has either a program or a command")

    @property
    def is_shorter(self) -> bool:
        """Whether `--quick` means anything to it."""
        return len(self.takes) > 1

    @property
    def requirements(self) -> str:
        installed = [f"extra `{self.extra}`"] if self.extra else []
        installed += [f"group `{self.group}`"] if self.group else []
        return "; ".join([*installed, *([self.needs] if self.needs else [])])


def read_register() -> dict[str, Check]:
    entries = tomllib.loads(REGISTER.read_text(encoding="utf-8"))
    return {name: Check(name, **entry) for name, entry in entries.items()}


# --- tables of the register -----------------------------------------------------------------------


def of_checks(checks: Mapping[str, Check]) -> str:
    """For whoever runs them."""
    rows = [
        [
            f"`{check.name}`",
            check.takes[0] if check.is_shorter else "",
            check.takes[-1],
            check.requirements,
        ]
        for check in checks.values()
    ]
    return table(["check", "`--quick` takes", "takes", "needs"], rows, text_columns=4)


def of_proofs(checks: Mapping[str, Check]) -> str:
    """For whoever wants to know what they show."""
    rows = [[f"`{check.name}`", check.proves] for check in checks.values()]
    return table(["`scripts/check`", "what it proves"], rows, text_columns=2)


def pages(checks: Mapping[str, Check]) -> dict[Path, str]:
    """Each page as it should be."""
    return {
        RECIPES: with_block(RECIPES, "checks", of_checks(checks)),
        RELIABILITY: with_block(RELIABILITY, "checks", of_proofs(checks)),
    }


# --- tables of figures ----------------------------------------------------------------------------


def write_figures(name: str, command: Iterable[str], figures: Mapping[str, object]) -> None:
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    text = f"{machine}. `{' '.join(command)}`\n\n{of_figures(figures)}"
    write_block(RELIABILITY, f"measured: {name}", text)


def of_figures(figures: Mapping[str, object]) -> str:
    """A figure a row; figures "what, where: quantity" in a table of their own, "what" a row."""
    text = {name: shown(value) for name, value in figures.items()}
    plain = [[name, value] for name, value in text.items() if ": " not in name]
    parts = [table(["figure", "value"], plain, text_columns=2)]
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
        parts.append(table(["", *quantities], rows, text_columns=1 + len(quantities)))
    return "\n\n".join(parts)


def shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
