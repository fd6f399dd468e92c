"""Lines and branches that a run of an instrumented build took, for each source file.

The kernels are templates: every line is compiled once for each instruction set and dtype. A line or
branch counts as taken if one of these instances took it; `Counts.instances` has each apart.

Cython's C has branches of its own (reference counts, errors of the interpreter, the types of what
is iterated over). Only those count that carry out a condition of the source: statements of C that
open a block and ask for no error.

Knows: gcov's JSON, the shape of the C that Cython writes.
Must not know: how the build came about, which figures are enough.
"""

from __future__ import annotations

import collections
import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

LINE_DIRECTIVE = re.compile(r'^#line (\d+) "(.*)"$')
OWN_CONDITION = re.compile(r"^\s*(\} else )?(if|while|for|switch) \(.*\{$")
# Conditions that Cython adds: errors, the types of iterables, unpacking, vectorcalls, generators.
ADDED_CONDITION = re.compile(
    r"__PYX_ERR|__Pyx_|CYTHON_|goto|== NULL|Py[A-Z]\w+_Check|Py_None|tp_iternext|for \(;;\)"
    r"|^\s*(if|while) \(unlikely\(!|_save|__pyx_lambda|__pyx_pyargnames|__pyx_nargs|__pyx_kwds"
    r"|PyErr|tuple_size|__pyx_filename|__pyx_parallel_|__pyx_t_\d+ > 0\)|#ifdef"
)

Place = tuple[str, int]  # file, line


@dataclass
class Counts:
    """How often each line and each way out of a branch was taken, in one or all instances."""

    lines: dict[Place, int] = field(default_factory=dict)
    branches: dict[Place, list[int]] = field(default_factory=dict)
    instances: dict[tuple[str, Place], list[int]] = field(default_factory=dict)

    def add_line(self, place: Place, count: int) -> None:
        self.lines[place] = self.lines.get(place, 0) + count

    def add_branches(self, instance: str, place: Place, counts: list[int]) -> None:
        self.instances[instance, place] = counts
        sums = self.branches.setdefault(place, [0] * len(counts))
        if len(sums) == len(counts):
            self.branches[place] = [a + b for a, b in zip(sums, counts, strict=True)]
        else:
            sums.extend(counts)

    def files(self) -> list[str]:
        return sorted({file for file, _ in self.lines})


def gcov(objects: list[Path]) -> list[dict]:
    """What gcov has to say of each object, one after another."""
    reports = []
    for each in objects:
        command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(each)]
        result = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=each.parent
        )
        reports += [json.loads(line) for line in result.stdout.splitlines() if line]
    return reports


def kernel_counts(objects: list[Path], package: Path) -> Counts:
    """Counts of the kernels' own files, named within the package."""
    counts = Counts()
    for each in objects:
        for report in gcov([each]):
            for file in report["files"]:
                path = (package.parent / file["file"]).resolve()
                if not path.is_relative_to(package.resolve()):
                    continue
                name = str(path.relative_to(package.resolve()))
                add_kernel_file(counts, each.stem, name, file["lines"])
    return counts


def add_kernel_file(counts: Counts, object_name: str, name: str, lines: list[dict]) -> None:
    ways: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
    for line in lines:
        number = line["line_number"]
        counts.add_line((name, number), line["count"])
        ways[line.get("function_name", ""), number] += [way["count"] for way in line["branches"]]
    for (function, number), taken in ways.items():
        if taken:
            counts.add_branches(f"{object_name}:{function}", (name, number), taken)


def source_places(text: str, package: str) -> dict[int, Place]:
    """The place in the Cython source of each line of C, from #line directives in it.

    Sources outside of the package, such as Cython's own, have none.
    """
    places: dict[int, Place] = {}
    here: Place | None = None
    for number, line in enumerate(text.splitlines(), 1):
        directive = LINE_DIRECTIVE.match(line)
        if directive:
            _, found, name = directive[2].rpartition(f"{package}/")
            here = (name, int(directive[1])) if found else None
        elif here and line.strip():
            places[number] = here
            if line.startswith("}"):
                here = None
    return places


def without_directives(text: str) -> str:
    """The same C with its own line numbers."""
    return "\n".join("" if LINE_DIRECTIVE.match(line) else line for line in text.splitlines())


def cython_counts(objects: dict[Path, str], package: Path) -> Counts:
    """Counts of the .pyx and .pxd files; with each object its C with #line directives.

    What a .pxd file has inlined stands in several objects, as a kernel's line does.
    """
    counts = Counts()
    for object_file, text in objects.items():
        module = module_counts(object_file, text, package.name)
        for place, count in module.lines.items():
            counts.add_line(place, count)
        for place, taken in module.branches.items():
            counts.add_branches(object_file.stem, place, taken)
    return counts


def module_counts(object_file: Path, text: str, package: str) -> Counts:
    """Counts of one object."""
    counts = Counts()
    places, code = source_places(text, package), text.splitlines()
    for report in gcov([object_file]):
        for file in report["files"]:
            if not file["file"].endswith(f"{object_file.stem}.c"):
                continue
            for line in file["lines"]:
                place = places.get(line["line_number"])
                if place is None:
                    continue
                counts.lines[place] = max(counts.lines.get(place, 0), line["count"])
                statement = code[line["line_number"] - 1]
                if OWN_CONDITION.match(statement) and not ADDED_CONDITION.search(statement):
                    taken = [way["count"] for way in line["branches"]]
                    if taken:
                        counts.branches.setdefault(place, []).extend(taken)
    return counts
