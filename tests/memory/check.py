"""Memory: nothing outside a buffer is touched, nothing leaks, a failed allocation changes nothing.

Steps, of which --only takes some:

calls        every public function over arrays beside pages that may not be touched
kernels      every kernel likewise, as a C program: on this processor; without --quick also for
             64-bit Arm under qemu and for AVX-512 under an emulator
sanitizers   that program built with AddressSanitizer and UndefinedBehaviorSanitizer, and with the
             asserts of the kernels' contract
allocations  every allocation of every public function fails in turn
references   every public function, and every way to call it wrongly, 10,000 times
suite        the everyday tests with an extension built with both sanitizers and Cython's checks

With --quick, kernels and sanitizers alone: the other steps have their short forms among the tests.

Needs a C compiler with both sanitizers (gcc has them); without --quick also what
`scripts/check instruction-sets` needs.

Knows: the programs in tests/memory, compilers and their sanitizers.
Must not know: what those programs check.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checking import (
    ARM_COMPILER,
    ASSERTS,
    NOT_INLINED,
    ROOT,
    STRICT,
    Outcome,
    build_over_kernels,
    build_over_shipped_kernels,
    compiler,
    figures_of,
    run,
    runs_here,
    with_avx512_emulated,
)

PROGRAMS = ROOT / "tests/memory"
GUARDED_KERNELS = (
    PROGRAMS / "guarded_kernels.c",
    *(ROOT / f"tests/fuzz/{name}.c" for name in ("problem", "compute", "memory")),
)
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# They limit the address space, of which AddressSanitizer takes terabytes, or count resident memory.
NEED_THEIR_OWN_MEMORY = (
    "tests/test_memory.py::test_what_copies_logits_of_16_bits",
    "tests/test_bad_input.py::test_allocation_fails",
    "tests/test_loading.py::test_threads_that_cannot_be_started_are_done_without",
)
Figures = dict[str, int]


# --- the steps ------------------------------------------------------------------------------------


def check_calls(quick: bool) -> Figures:
    figures = figures_of(PROGRAMS / "guard_pages.py", *["--quick"] * quick)
    return {"calls over guarded arrays": figures["guarded_calls"]}


def check_kernels(quick: bool) -> Figures:
    with tempfile.TemporaryDirectory() as directory:
        program = build_over_shipped_kernels(Path(directory) / "native", *GUARDED_KERNELS)
        isas = run([program]).split()
        figures = {guarded_cases(isa): int(run([program, isa, *["quick"] * quick])) for isa in isas}
        if not quick:
            arm = build_driver([ARM_COMPILER], Path(directory) / "arm", [*STRICT, ASSERTS])
            emulated = ["qemu-aarch64", arm, "neon"]
            figures[guarded_cases("neon, under qemu")] = int(run(emulated))
            if "avx512" not in isas:
                emulated_cases = with_avx512_emulated(program, "avx512", "quick")
                figures[guarded_cases("avx512, emulated")] = int(emulated_cases)
        return figures


def check_sanitizers(quick: bool) -> Figures:
    with tempfile.TemporaryDirectory() as directory:
        program = build_driver(
            compiler(),
            Path(directory) / "sanitized",
            ["-O1", "-g1", NOT_INLINED, ASSERTS, *SANITIZE],
            wanted=runs_here,
        )
        options = os.environ | {"ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1"}
        cases = [
            int(run([program, isa, *["quick"] * quick], env=options))
            for isa in run([program], env=options).split()
        ]
        return {"kernel cases under the sanitizers": sum(cases)}


def check_allocations(quick: bool) -> Figures:
    figures = figures_of(PROGRAMS / "allocation_failures.py", *["--quick"] * quick)
    return {
        "calls whose allocations fail in turn": figures["calls"],
        "allocations that failed": figures["failures_injected"],
        "of them MemoryError": figures["memory_errors"],
        "of them managed without": figures["calls_that_managed_without"],
        "of them another exception of NumPy's or Python's": figures["other_exceptions"],
        "of them the end of the process, in NumPy": figures["deaths_in_numpy"],
    }


def check_references(quick: bool) -> Figures:
    figures = figures_of(PROGRAMS / "references.py", *["--quick"] * quick)
    return {
        "calls repeated": figures["calls_repeated"],
        "errors repeated": figures["errors_repeated"],
        "repetitions in all": figures["executions"],
    }


def check_suite(quick: bool) -> Figures:
    del quick
    with tempfile.TemporaryDirectory() as directory:
        python, reports = sanitized_environment(Path(directory)), Path(directory) / "report"
        libraries = [
            run([*compiler(), f"-print-file-name=lib{name}.so"]).strip()
            for name in ("asan", "ubsan")
        ]
        environment = os.environ | {
            "LD_PRELOAD": " ".join(libraries),
            "PYTHONMALLOC": "malloc",
            # Python frees little when it ends: what leaks is found by counting instead.
            "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={reports}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports}",
        }
        words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1200"]
        words += [f"--deselect={test}" for test in NEED_THEIR_OWN_MEMORY]
        try:
            tally = run(words, env=environment, cwd=ROOT)
        finally:
            for report in Path(directory).glob("report.*"):
                print(report.read_text(encoding="utf-8"), flush=True)
        return {"tests under the sanitizers": int(re.findall(r"(\d+) passed", tally)[-1])}


STEPS: dict[str, Callable[[bool], Figures]] = {
    "calls": check_calls,
    "kernels": check_kernels,
    "sanitizers": check_sanitizers,
    "allocations": check_allocations,
    "references": check_references,
    "suite": check_suite,
}
QUICK_STEPS = ("kernels", "sanitizers")


# --- building -------------------------------------------------------------------------------------


def guarded_cases(isa: str) -> str:
    return f"guarded kernel cases, {isa}"


def build_driver(using: list[str], program: Path, flags: list[str], **how: Any) -> Path:
    return build_over_kernels(program, GUARDED_KERNELS, using, flags, **how)


def sanitized_environment(directory: Path) -> Path:
    """The Python of a new environment: this one's packages, and the extension built anew."""
    run([sys.executable, "-m", "venv", directory])
    python = directory / "bin/python"
    packages = Path(
        run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    )
    (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    environment = os.environ | {
        "XENT_FAST_LAST_CFLAGS": " ".join(["-O1", "-g1", ASSERTS, *SANITIZE]),
        "LDFLAGS": SANITIZE[0],
        "XENT_FAST_CYTHON_CHECKS": "1",
    }
    run([python, "-m", "pip", "install", "-q", "--no-deps", ROOT], env=environment)
    return python


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP")


def check(options: argparse.Namespace) -> Outcome:
    figures: Figures = {}
    steps = options.only or (QUICK_STEPS if options.quick else STEPS)
    for name in steps:
        print(f"-- {name}", flush=True)
        found = STEPS[name](options.quick)
        print(*(f"{name}: {value:,}" for name, value in found.items()), sep="\n", flush=True)
        figures |= found
    return Outcome(figures | {"reports": 0}, len(steps), 0)  # the first report ends the run
