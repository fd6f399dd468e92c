"""Make faults by hand, one at a time, and see that the tests notice each.

The faults are those of tests/mutants/mutants.toml: with --quick the few that CI makes, with --only
those named. --likely runs only the tests where each should show, for a first look; --anchors only
looks whether each fault still has its place in the sources. --update renews the list in
docs/reliability/mutants.md.

Each fault is made in a copy of the sources, which is built with less optimisation and one
instruction set, and the everyday tests run on it until one fails: those first where the fault
should show, then all. The test that failed must pass on the same build without the fault. A fault
that every test misses makes this script fail, and so does one that has no place, does not build or
keeps the package from being imported. Faults of the NEON vocabulary run in the kernel driver under
an emulator, and must change the digests that are kept beside it. Those of the AVX-512 vocabulary
are left out where the processor lacks it.

Needs cc, this Python with the `test` extra and Cython; for NEON aarch64-linux-gnu-gcc and
qemu-aarch64 (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user). ccache helps.

Knows: how a fault is made, how tests are run and their outcome is read.
Must not know: what any fault or test is about.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from checking import ARM_COMPILER, NOT_INLINED, ROOT, Outcome, build_over_kernels, run, runs_here
from mutants.extension import PACKAGE, Extension, compiler

MUTANTS = ROOT / "tests" / "mutants"
DRIVER = ROOT / "tests" / "kernel_driver"
LIST = ROOT / "docs" / "reliability" / "mutants.md"

SECONDS = 1200  # for one run of the tests
SECONDS_A_TEST = 60  # a fault may make a test wait for ever
NEON_TESTS = "the digests of the kernel driver, under qemu"

# They compare the portable path with another, so that a build with one of the two fails them.
NEED_PORTABLE = (
    "tests/test_api.py::test_show_config_returns_a_dict",
    "tests/test_api.py::test_use_isa_returns_the_one_before",
    "tests/test_command.py::test_every_instruction_set_of_the_processor_is_found",
    "tests/test_processes.py::test_interrupts",
)


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    file: str
    old: str
    new: str
    promise: str
    tests: tuple[str, ...]
    isa: str = "avx2"
    after: str = ""
    quick: bool = False

    def applied(self, text: str) -> str:
        """The text with the fault; ValueError where its place is not found."""
        before, anchor, rest = text.partition(self.after) if self.after else ("", "", text)
        if self.after and text.count(self.after) != 1:
            raise ValueError(
                f"{self.name}: {self.file} has {text.count(self.after)} {self.after!r}"
            )
        found = rest.count(self.old)
        if found == 0 or (found > 1 and not self.after):
            raise ValueError(f"{self.name}: {self.file} has {self.old!r} {found} times")
        return before + anchor + rest.replace(self.old, self.new, 1)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    caught_by: str  # the first test that failed; "" if none did
    trouble: str  # why that is no verdict, or ""
    seconds: float


def read_mutants() -> list[Mutant]:
    tables = tomllib.loads((MUTANTS / "mutants.toml").read_text(encoding="utf-8"))
    return [
        Mutant(name, **(table | {"tests": tuple(table["tests"])})) for name, table in tables.items()
    ]


def misplaced(mutants: list[Mutant]) -> list[str]:
    """What is wrong with the places of these faults in the checkout."""
    complaints = []
    for mutant in mutants:
        text = (ROOT / "src" / PACKAGE / mutant.file).read_text(encoding="utf-8")
        try:
            if mutant.applied(text) == text:
                complaints.append(f"{mutant.name}: changes nothing")
        except ValueError as error:
            complaints.append(str(error))
    return complaints


class NoVerdict(Exception):
    """The tests neither passed nor failed."""


# --- pytest ---------------------------------------------------------------------------------------


def first_failure(extension: Extension, tests: tuple[str, ...], *options: str) -> str:
    """The first test that fails, crashes or waits for ever on this build, or ""."""
    log = extension.directory / "log"
    log.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no"]
    command += ["-p", "first_failure", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--import-mode=importlib", "-m", "not slow"]
    command += ["--ignore=tests/frameworks"]  # a copy is built without the entry points for C
    command += [f"--timeout={SECONDS_A_TEST}", "--timeout-method=thread", *options]
    if "portable" not in extension.isas:
        command += [f"--deselect={test}" for test in NEED_PORTABLE]
    environment = extension.environment() | {"TEST_LOG": str(log), "CI": "1"}
    # A fault of memory should show as a crash rather than depend on what lies in a freed block.
    environment |= {"MALLOC_PERTURB_": "165"}
    status = wait_for([*command, *tests], environment, log)
    lines = log.read_text(encoding="utf-8").splitlines()
    if failures(log):
        return failures(log)[0]
    if status == 0:
        return ""
    if status is None or not lines:
        raise NoVerdict(f"the tests ended with {status} after {len(lines)} of them")
    return lines[-1].removeprefix("ran ")  # it took the process along


def failures(log: Path) -> list[str]:
    """Tests that are known to have failed."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [line.partition(" ")[2] for line in lines if not line.startswith("ran ")]


def wait_for(command: list[str], environment: dict[str, str], log: Path) -> int | None:
    """Exit status of a process in a session of its own, which is ended with all its children.

    None if it is still there when a failure or too much time has passed.
    """
    last = time.monotonic() + SECONDS
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            while process.poll() is None and not failures(log) and time.monotonic() < last:
                time.sleep(0.1)
            return process.returncode
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def judge(mutant: Mutant, base: Extension, directory: Path, *, likely: bool) -> Verdict:
    """Build a mutant and run tests until one notices: with `likely` only those it names."""
    started = time.monotonic()

    def outcome(caught_by: str, trouble: str = "") -> Verdict:
        return Verdict(mutant, caught_by, trouble, time.monotonic() - started)

    extension = base.copied(directory)
    file = Path(PACKAGE, mutant.file)
    path = extension.directory / file
    path.write_text(mutant.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        extension.build(extension.sources_that_include(file))
        command = [sys.executable, "-c", "import xent_fast"]
        subprocess.run(command, env=extension.environment(), cwd=ROOT, check=True)
        caught_by = first_failure(extension, mutant.tests)
        if not caught_by and not likely:
            caught_by = first_failure(extension, ("tests",))
        return outcome(caught_by)
    except subprocess.CalledProcessError as error:
        return outcome("", f"no such package: {error}")
    except NoVerdict as error:
        return outcome("", str(error))


# --- the kernel driver under qemu -----------------------------------------------------------------


def judge_in_driver(mutant: Mutant, base: Extension, directory: Path) -> Verdict:
    """The same for a fault that only an emulated processor meets."""
    started = time.monotonic()
    extension = base.copied(directory)
    path = extension.package / mutant.file
    path.write_text(mutant.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        differs = digests(extension) != record()
    except SystemExit as error:
        return Verdict(mutant, "", f"no driver: {error}", time.monotonic() - started)
    return Verdict(mutant, NEON_TESTS if differs else "", "", time.monotonic() - started)


def record() -> str:
    return (DRIVER / "digests-fma.txt").read_text(encoding="utf-8")


def digests(extension: Extension) -> str:
    """What the kernel driver prints on 64-bit Arm."""
    program = build_over_kernels(
        extension.directory / "driver",
        [DRIVER / "driver.c"],
        compiler(ARM_COMPILER),
        ["-O1", "-static", NOT_INLINED],
        kernels=extension.package / "kernels",
    )
    return run(["qemu-aarch64", program, "neon"])


# --- all of them ----------------------------------------------------------------------------------


def run_all(mutants: list[Mutant], jobs: int, scratch: Path, *, likely: bool) -> list[Verdict]:
    """Judge them, some at a time, and hold the unchanged build to the same tests."""
    bases = {}
    for isa in sorted({mutant.isa for mutant in mutants}):
        bases[isa] = Extension.of_checkout(scratch / isa, {isa}, ["-O1"])
        if isa != "neon":
            bases[isa].build()
    outcomes = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = [
            pool.submit(judge_in_driver, mutant, bases[mutant.isa], scratch / mutant.name)
            if mutant.isa == "neon"
            else pool.submit(judge, mutant, bases[mutant.isa], scratch / mutant.name, likely=likely)
            for mutant in mutants
        ]
        for future in concurrent.futures.as_completed(waiting):
            outcomes.append(future.result())
            report(outcomes[-1])
    for isa, base in bases.items():
        outcomes += controls(isa, base, [each for each in outcomes if each.mutant.isa == isa])
    order = {mutant.name: place for place, mutant in enumerate(mutants)}
    return sorted(outcomes, key=lambda each: order.get(each.mutant.name, -1))


def controls(isa: str, base: Extension, outcomes: list[Verdict]) -> list[Verdict]:
    """Trouble, if a test that caught a fault fails without it as well."""
    nobody = Mutant(f"no-fault-{isa}", "", "", "", "", ())
    if isa == "neon":
        good = digests(base) == record()
        return [] if good else [Verdict(nobody, NEON_TESTS, "fails without a fault", 0)]
    tests = tuple(sorted({each.caught_by for each in outcomes if each.caught_by}))
    failed = first_failure(base, tests) if tests else ""
    return [Verdict(nobody, failed, f"{failed} fails without a fault", 0)] if failed else []


def report(outcome: Verdict) -> None:
    verdict = outcome.trouble or outcome.caught_by or "SURVIVED"
    print(f"{outcome.seconds:6.1f} s  {outcome.mutant.name}: {verdict}", flush=True)


def as_table(outcomes: list[Verdict], left_out: list[Mutant]) -> str:
    """The list for docs/reliability/mutants.md."""
    head = (
        "# The faults that the tests notice\n\n"
        "Made by `scripts/check mutants --update` from `tests/mutants/mutants.toml`; do not edit."
        "\n\n"
        "| fault | in | broken promise | first test that failed |\n| --- | --- | --- | --- |\n"
    )
    rows = [
        f"| {each.mutant.name} | `{each.mutant.file}` | {each.mutant.promise} "
        f"| {named(each.caught_by)} |\n"
        for each in outcomes
    ]
    rows += [
        f"| {each.name} | `{each.file}` | {each.promise} | not made: no {each.isa} here |\n"
        for each in left_out
    ]
    return head + "".join(rows)


def named(test: str) -> str:
    return f"`{test.removeprefix('tests/')}`" if "::" in test else test


def figures(outcomes: list[Verdict]) -> dict[str, object]:
    caught = [each for each in outcomes if each.caught_by and not each.trouble]
    return {
        "faults made": sum(not each.mutant.name.startswith("no-fault") for each in outcomes),
        "caught": len(caught),
        "survived": sum(not each.caught_by and not each.trouble for each in outcomes),
        "without a verdict": sum(bool(each.trouble) for each in outcomes),
        "different tests that caught one": len({each.caught_by for each in caught}),
        "median seconds a fault": sorted(each.seconds for each in outcomes)[len(outcomes) // 2],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults to make")
    parser.add_argument("--likely", action="store_true", help="only the tests each fault names")
    parser.add_argument("--anchors", action="store_true", help="only look for their places")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--update", action="store_true", help=f"renew {LIST.name}")


def check(options: argparse.Namespace) -> Outcome:
    known = {mutant.name: mutant for mutant in read_mutants()}
    unknown = set(options.only or ()) - set(known)
    if unknown:
        raise SystemExit(f"no such fault: {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in options.only or ()] or [
        mutant for mutant in known.values() if mutant.quick or not options.quick
    ]
    mutants = [mutant for mutant in chosen if runs_here(mutant.isa)]
    left_out = [mutant for mutant in chosen if not runs_here(mutant.isa)]
    if left_out:
        print(f"left out, for want of the processor: {len(left_out)}")
        if not mutants:
            raise SystemExit("no fault is left")
    complaints = misplaced(list(known.values()))
    print("\n".join(complaints) or f"{len(known)} faults, each in its place")
    if complaints or options.anchors:
        return Outcome({}, len(known) - len(complaints), len(complaints))
    with tempfile.TemporaryDirectory() as scratch:
        verdicts = run_all(mutants, options.jobs or 1, Path(scratch), likely=options.likely)
    if options.update:
        LIST.write_text(as_table(verdicts, left_out), encoding="utf-8")
    for each in verdicts:
        if each.trouble or not each.caught_by:
            report(each)
    result = figures(verdicts)
    return Outcome(result, result["caught"], len(verdicts) - result["caught"])
