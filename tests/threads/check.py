"""Threads: data races between callers, and between the threads of a call.

Needs the package installed with `.[test]`, Linux, gcc with its libtsan, and clang with its OpenMP
library and Archer (Debian 12: gcc clang libomp-dev).

Knows the scripts of tests/threads, and how to build the extension for ThreadSanitizer.
Must not know what the scripts compute.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import checking
from checking import ASSERTS, KERNELS, NOT_INLINED, ROOT, Outcome, run, write_stand_in

from xent_fast._binding import instruction_sets

ROOM = ROOT / "tests" / "threads"
TIME_LIMIT = 3600

# The compiler that setup.py is given.  ThreadSanitizer watches the Cython layer and the instruction
# set that runs; a stand-in beside this program takes the place of the others.  -O1 everywhere, for
# reports that name their lines.
# Its library is preloaded, not linked: gcc's, since clang 14's ends a process that preloads it.
COMPILER = """#!/usr/bin/env bash
words=()
for word in "${@/-O3/-O1}"; do
    stand_in=${0%/*}/${word##*/}
    [[ $word == *isa_*.c && -e $stand_in ]] && word=$stand_in
    words+=("$word")
done
[[ " $* " == *" -c "* ]] && words+=(-fsanitize=thread)
exec clang "${words[@]}" -gline-tables-only -O1 FLAGS
"""


def figures_of(script: str, *arguments: str, **circumstances: Any) -> dict[str, int]:
    """The figures that a script of the room prints last."""
    return checking.figures_of(ROOM / script, *arguments, seconds=TIME_LIMIT, **circumstances)


# --- data races -----------------------------------------------------------------------------------


class Sanitizer:
    """The extension built for ThreadSanitizer, and programs run under it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.package = directory / "package"
        self.runtime, self.archer = sanitizer_library(), archer_library()
        for library in (self.runtime, self.archer):
            if not library.is_file():
                raise FileNotFoundError(f"{library}: see the packages named at the top")
        # It needs the addresses where it expects them, in its own process and none before that.
        self.prefix = ("setarch", platform.machine(), "-R", "env", f"LD_PRELOAD={self.runtime}")
        self._build()

    def _build(self) -> None:
        compiler = self.directory / "cc"
        flags = f"'{NOT_INLINED}' {ASSERTS}"
        compiler.write_text(COMPILER.replace("FLAGS", flags), encoding="utf-8")
        compiler.chmod(0o755)
        for source in KERNELS.glob("isa_*.c"):
            if source.stem != f"isa_{instruction_sets.available_isas()[0]}":
                write_stand_in(self.directory / source.name)
        environment = {
            "CC": str(compiler),
            "LDSHARED": f"{compiler} -shared",
            "XENT_FAST_REQUIRE_OPENMP": "1",
        }
        options = os.environ.get("CHECK_THREADS_PIP_OPTIONS", "").split()
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", *options]
        run([*pip, "--target", self.package, ROOT], env=os.environ | environment)

    def run(self, *arguments: str, archer: bool = True) -> tuple[dict[str, int], int]:
        """A program's figures, and the number of races reported."""
        log = self.directory / "report"
        for old in self.directory.glob("report.*"):
            old.unlink()
        # Archer tells ThreadSanitizer what OpenMP synchronises; what Python and the OpenMP library
        # do to their own memory was not compiled for it and is not judged.
        environment = {
            "OMP_TOOL_LIBRARIES": str(self.archer) if archer else "",
            "OMP_TOOL": "enabled" if archer else "disabled",
            "PYTHONPATH": str(self.package),
            "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1 exitcode=0 log_path={log}",
        }
        figures = figures_of(*arguments, environment=environment, prefix=self.prefix)
        reports = "".join(path.read_text() for path in self.directory.glob("report.*"))
        races = len(re.findall(r"WARNING: ThreadSanitizer", reports))
        if races and "--control" not in arguments and archer:
            print(reports)
        return figures, races


def sanitizer_library() -> Path:
    return Path(run(["gcc", "-print-file-name=libtsan.so"]).strip()).resolve()


def archer_library() -> Path:
    """It lies beside clang's OpenMP library, two folders above the compiler's own files."""
    return Path(run(["clang", "-print-resource-dir"]).strip()).parents[1] / "libarcher.so"


def check_races(directory: Path, quick: bool) -> dict[str, int]:
    sanitizer = Sanitizer(directory)
    _, reported = sanitizer.run("race.py", "--control")
    rounds = "1" if quick else "10"
    figures, races = sanitizer.run("race.py", "--rounds", rounds)
    found = {
        "calls watched by ThreadSanitizer": figures["calls"],
        "data races": races,
        "reports of the deliberate race": reported,
    }
    if not quick:
        _, alarms = sanitizer.run("race.py", "--rounds", "1", archer=False)
        found["false alarms without Archer"] = alarms
    return found


def check(options: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch:
        figures = check_races(Path(scratch), options.quick)
    print(*(f"{name}: {value}" for name, value in figures.items()), sep="\n")
    failed = figures["data races"] > 0
    if figures["reports of the deliberate race"] == 0:
        print("ThreadSanitizer sees nothing")
        failed = True
    return Outcome(figures, 1 - failed, int(failed))
