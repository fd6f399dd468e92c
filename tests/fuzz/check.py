"""Fuzz the kernels and the public functions, coverage-guided, against the reference.

--seconds N in all, half of them for each; --quick takes 5,000 inputs each, always the same; --grow
adds to tests/fuzz/corpus/ what reaches new code, minimised.

Needs clang with its run-time libraries (Debian: clang), and the package installed with the `fuzz`
extra. Inputs that break a promise are kept in build/fuzz/findings, and the exit status is 1. To
see one again: build/fuzz/fuzz_kernels FILE, or tests/fuzz/fuzz_python.py FILE.

Knows: how both fuzzers are built and run.   Must not know: what they check.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from checking import ASSERTS, NOT_INLINED, ROOT, Outcome, build_over_kernels, runs_here
from fuzz import corpus

FUZZERS = ROOT / "tests" / "fuzz"
WORK = ROOT / "build" / "fuzz"
FINDINGS = WORK / "findings"
HARNESS = ("fuzz_kernels.c", "problem.c", "compute.c", "oracle.c", "memory.c")
SANITIZE = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]

CHECKED_KERNELS = ["-fsanitize=address,fuzzer-no-link", "-fno-omit-frame-pointer", NOT_INLINED]
LONGEST_INPUT = {"kernels": 400, "python": 200}
QUICK_RUNS = 5000
# A merge starts the fuzzer again, by its name: the Python one by the interpreter that runs this.
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONHASHSEED": "0",
}


# --- building -------------------------------------------------------------------------------------


def build() -> Path:
    """The kernels' fuzzer, every instruction set of this processor instrumented."""
    WORK.mkdir(parents=True, exist_ok=True)
    sources = [FUZZERS / name for name in HARNESS]
    return build_over_kernels(
        WORK / "fuzz_kernels",
        sources,
        ["clang"],
        ["-O1", "-gline-tables-only", "-Werror", ASSERTS],
        wanted=runs_here,
        flags_of=lambda source: CHECKED_KERNELS if source.stem.startswith("isa_") else SANITIZE,
        link=SANITIZE,
    )


# --- running --------------------------------------------------------------------------------------


def for_some_time(name: str, seconds: int) -> list[str]:
    """Arguments to begin from the seed corpus and what earlier runs found."""
    found = WORK / f"corpus-{name}"
    found.mkdir(parents=True, exist_ok=True)
    seeds(name)
    return [f"-max_total_time={seconds}", str(found), str(WORK / f"seeds-{name}")]


def seeds(name: str) -> list[Path]:
    """The seed corpus, a file an input, and no others."""
    directory = WORK / f"seeds-{name}"
    shutil.rmtree(directory, ignore_errors=True)
    return corpus.unpack(name, directory)


def always_alike(name: str) -> list[str]:
    """Arguments to begin from the seed corpus, each time by the same inputs.

    Not by what comparisons see, which are addresses too, nor in the order of a directory.
    """
    inputs = WORK / f"inputs-{name}"
    inputs.write_text(",".join(map(str, seeds(name))), encoding="utf-8")
    return ["-seed=1", f"-runs={QUICK_RUNS}", "-use_cmp=0", f"-seed_inputs=@{inputs}"]


def at_fixed_addresses() -> list[str]:
    """What begins a command so, where the system lets it: the depth of a stack counts as news."""
    prefix = ["setarch", "-R"]
    works = (
        shutil.which(prefix[0]) and subprocess.run([*prefix, "true"], check=False).returncode == 0
    )
    return prefix if works else []


def fuzz(name: str, program: list[str], choice: list[str]) -> dict[str, int]:
    """Figures of one fuzzer that chooses its inputs so."""
    findings = FINDINGS / name
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command = [
        *program,
        f"-max_len={LONGEST_INPUT[name]}",
        *("-len_control=0", "-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1"),
        f"-artifact_prefix={findings}/",
        *choice,
    ]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, cwd=WORK, env=ENVIRONMENT
    )
    found = set(findings.iterdir()) - before
    if done.returncode or found:
        print("\n".join(done.stderr.splitlines()[-60:]))
    for finding in sorted(found):
        print(f"FOUND: {finding}")
    return figures_of(name, done.stderr) | {
        f"{name}, findings": max(len(found), int(done.returncode != 0))
    }


def figures_of(name: str, log: str) -> dict[str, int]:
    """The last state that libFuzzer told."""
    states = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", log, re.MULTILINE)
    if not states:
        raise SystemExit(f"{name}: the fuzzer did not start\n{log[-3000:]}")
    labels = ("inputs tried", "branches reached", "features reached", "inputs kept")
    return {f"{name}, {label}": int(value) for label, value in zip(labels, states[-1], strict=True)}


def grow(name: str, program: list[str]) -> None:
    """Keep the smallest inputs that reach what all together reach."""
    kept = WORK / f"kept-{name}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    sources = [str(WORK / f"seeds-{name}"), str(WORK / f"corpus-{name}")]
    flags = ["-set_cover_merge=1", "-use_counters=0", f"-max_len={LONGEST_INPUT[name]}"]
    command = [*program, *flags, str(kept), *sources]
    subprocess.run(command, check=True, cwd=WORK, env=ENVIRONMENT)
    corpus.write(name, {new.read_bytes() for new in kept.iterdir()})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=int, default=600, help="for both together (600)")
    parser.add_argument("--grow", action="store_true", help="renew the seed corpus afterwards")


def check(options: argparse.Namespace) -> Outcome:
    programs = {
        "kernels": [str(build())],
        "python": [str(FUZZERS / "fuzz_python.py")],
    }
    seconds = max(options.seconds // 2, 1)
    figures: dict[str, int] = {}
    for name, program in programs.items():
        # a change that did no harm must not fail CI by chance
        choice = always_alike(name) if options.quick else for_some_time(name, seconds)
        prefix = at_fixed_addresses() if options.quick else []
        figures |= fuzz(name, [*prefix, *program], choice)
        if options.grow:
            grow(name, program)
    for label, value in figures.items():
        print(f"{label:>40} {value:>12,}")
    failed = sum(figures[f"{name}, findings"] > 0 for name in programs)
    return Outcome(figures, len(programs) - failed, failed)
