"""Measure which lines and branches of the kernels and of the Cython layer the tests take.

--quick runs fewer tests, with a record of their own; --update renews the record; --missing names
every line and branch that no test took.

Fails where a file has a lower share than tests/line_coverage/record.json says, by more than a
percentage point, or where a test fails.
Counted are AVX2 and the portable path in one build by gcc's --coverage, every function of the
kernels compiled once (none inlined), so that a condition on the kind of targets is a branch like
any other; and the lines of .pyx and .pxd files by the C that Cython makes of them, with those of
its branches that carry out a condition of the source.

Needs gcc with gcov and this Python with the `test` extra and Cython.

Knows: how the instrumented build is made, which tests it runs, the record.
Must not know: how counts are read (tests/line_coverage/counts.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checking import ROOT, Outcome
from line_coverage.counts import Counts, cython_counts, kernel_counts, without_directives
from mutants.extension import Extension

RECORD = ROOT / "tests" / "line_coverage" / "record.json"

ISAS = ("avx2", "portable")
FLAGS = ("-O1", "--coverage", "-fprofile-update=atomic")

QUICK_TESTS = (
    "api",
    "backward",
    "bad_input",
    "circumstances",
    "classes",
    "closed_forms",
    "digests",
    "every_argument",
    "faults",
    "fork",
    "given_inputs",
    "gradients",
    "half_precision",
    "kernels",
    "options_everywhere",
    "second_order",
)
NOT_QUICK = ("tests/test_bad_input.py::test_more_logits_than_an_integer_counts",)

MARGIN = 1.0  # percentage points: a branch of a short file; what races or a processor decides

Shares = dict[str, dict[str, float]]  # file: lines and branches in per cent


class InstrumentedExtension(Extension):
    """Counts what it does; remembers the C with the places in the Cython source."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.texts: dict[Path, str] = {}

    def translate(self, source: Path, *options: str) -> None:
        super().translate(source, "--line-directives", *options)
        path = self.directory / source.with_suffix(".c")
        text = path.read_text(encoding="utf-8")
        self.texts[path.with_suffix(".o")] = text
        path.write_text(without_directives(text), encoding="utf-8")


def instrumented(directory: Path) -> InstrumentedExtension:
    extension = InstrumentedExtension.of_checkout(directory, ISAS, FLAGS)
    extension.build()
    return extension


def run_tests(extension: Extension, tests: list[str], *options: str) -> None:
    """Raises CalledProcessError where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["--timeout=600", *options, *tests]
    subprocess.run(command, cwd=ROOT, env=extension.environment() | {"CI": "1"}, check=True)


def counted(extension: InstrumentedExtension) -> list[Counts]:
    objects = [
        (extension.directory / source).with_suffix(".o")
        for source in extension.sources()
        if source.suffix == ".c"
    ]
    kernels = kernel_counts(
        [each for each in objects if "avx512" not in each.stem], extension.package
    )
    return [kernels, cython_counts(extension.texts, extension.package)]


def share(numbers: list[int]) -> float:
    """Per cent of these that are not 0."""
    return 100 * sum(number > 0 for number in numbers) / len(numbers) if numbers else 100.0


def shares(counts: Counts) -> Shares:
    return {
        file: {
            "lines": share([count for place, count in counts.lines.items() if place[0] == file]),
            "branches": share(
                [
                    count
                    for place, ways in counts.branches.items()
                    for count in ways
                    if place[0] == file
                ]
            ),
        }
        for file in counts.files()
    }


def missing(counts: Counts) -> list[str]:
    """Every line and branch that was not taken, in words."""
    found = []
    for (file, line), count in sorted(counts.lines.items()):
        ways = counts.branches.get((file, line), [])
        if count == 0:
            found.append(f"{file}:{line}: not run")
        elif 0 in ways:
            found.append(f"{file}:{line}: {ways.count(0)} of {len(ways)} ways not taken")
    return found


def below(got: Shares, wanted: Shares) -> list[str]:
    """What has fallen below the record."""
    return [
        f"{file}: {got.get(file, {}).get(kind, 0.0):.2f} % of {kind}, {least} % in the record"
        for file, kinds in wanted.items()
        for kind, least in kinds.items()
        if got.get(file, {}).get(kind, 0.0) < least - MARGIN
    ]


def rounded_down(values: Shares) -> Shares:
    return {
        file: {kind: int(value * 10) / 10 for kind, value in kinds.items()}
        for file, kinds in values.items()
    }


def figures(all_counts: list[Counts]) -> dict[str, object]:
    kernels, cython = all_counts

    def ways(counts: Counts) -> list[int]:
        return [count for taken in counts.branches.values() for count in taken]

    cython_lines = list(cython.lines.values())
    cython_ways = ways(cython)
    instances = [count for taken in kernels.instances.values() for count in taken]
    return {
        "kernels, lines": len(kernels.lines),
        "kernels, lines run, per cent": share(list(kernels.lines.values())),
        "kernels, ways out of branches": len(ways(kernels)),
        "kernels, ways taken, per cent": share(ways(kernels)),
        "kernels, ways of every dtype and instruction set taken, per cent": share(instances),
        "Cython, lines": len(cython_lines),
        "Cython, lines run, per cent": share(cython_lines),
        "Cython, ways out of conditions": len(cython_ways),
        "Cython, ways taken, per cent": share(cython_ways),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--missing", action="store_true", help="name what no test took")
    parser.add_argument("--update", action="store_true", help=f"renew {RECORD.name}")


def check(options: argparse.Namespace) -> Outcome:
    form = "quick" if options.quick else "full"
    with tempfile.TemporaryDirectory() as scratch:
        extension = instrumented(Path(scratch))
        if options.quick:
            tests = [f"tests/test_{name}.py" for name in QUICK_TESTS]
            run_tests(extension, tests, *(f"--deselect={test}" for test in NOT_QUICK))
        else:
            run_tests(extension, ["tests"])
        all_counts = counted(extension)
    got = {file: kinds for counts in all_counts for file, kinds in shares(counts).items()}
    for file, kinds in sorted(got.items()):
        print(f"{kinds['lines']:6.1f} % of lines {kinds['branches']:6.1f} % of branches  {file}")
    if options.missing:
        print("\n".join(line for counts in all_counts for line in missing(counts)))
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if options.update:
        record[form] = rounded_down(got)
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if form not in record:
        raise SystemExit(f"{RECORD} has no {form} form yet: --update makes it")
    complaints = below(got, record[form])
    print(*complaints, sep="\n", end="\n" * bool(complaints))
    return Outcome(figures(all_counts), len(got) - len(complaints), len(complaints))
