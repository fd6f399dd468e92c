"""A slower kernel fails without a timed test: instructions, counted by valgrind, held to a record.

--update renews the record of this compiler; --cflags=-O1 compiles otherwise, which is never
recorded.

Counted are the kernels alone, in instructions a logit, AVX2 and portable; and one whole Python call
on the smallest batch, interpreter included. Counts repeat to 0.1 %, whatever else the machine does.

Instructions are no times: a kernel that waits (for memory, for a division) is slower at the same
count, and a faster one may need more instructions. Then renew the record and say why.

Counts belong to a compiler. With one that is in the record (family, major and minor version) a
count may be 3 % above; with another each is compared with the compiler recorded first, and may be
25 % above (Clang 14 is within 19 % of GCC 12.2): that catches a lost vectorisation or another
sweep, not a few more instructions.

Needs an x86-64 processor with AVX2, valgrind, cc (or CC), Cython and setuptools, and this Python
with xent_fast installed.
The kernels are those of this checkout, the call is that of the package as installed: install first.

Knows: which batches are counted, the record, valgrind.
Must not know: what the kernels do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from checking import (
    ROOT,
    Outcome,
    build_over_kernels,
    build_over_shipped_kernels,
    compiler,
    in_parallel,
    run,
)

DRIVER = ROOT / "tests" / "kernel_driver"
RECORD = DRIVER / "instruction-counts.json"

FLAGS = ["-O3"]  # of other builds than the package's
SLOWER_FLAG = "-O1"  # what the comparison must notice, in the set that compiles fastest
MARGIN = 0.03
MARGIN_OF_ANOTHER_COMPILER = 0.25

ISAS = ("avx2", "portable")
CELLS = {  # name: dtype, targets, gradient, rows, classes; few rows: what more would cost is known
    "course exercise, 32 x 10": "float32 index in-place 32 10",
    "pixel classes, 3": "float32 index in-place 2048 3",
    "pixel classes, 10": "float32 index in-place 2048 10",
    "pixel classes, 21": "float32 index in-place 1024 21",
    "1,000 classes": "float32 index in-place 64 1000",
    "1,000 classes, loss only": "float32 index none 64 1000",
    "1,000 classes, dense targets": "float32 dense in-place 64 1000",
    "pixel classes, 10, smoothed": "float32 smoothed in-place 2048 10",
    "1,000 classes, smoothed": "float32 smoothed in-place 64 1000",
    "1,000 classes, weighted and smoothed": "float32 weighted in-place 64 1000",
    "1,000 classes, float64": "float64 index in-place 64 1000",
    "32,000 classes": "float32 index in-place 4 32000",
    "32,000 classes, newly allocated": "float32 index apart 4 32000",
    "300,000 classes": "float32 index in-place 1 300000",
}

CALL = "softmax_cross_entropy_grad(x, y, out=x), 32 x 10"
CALL_PROGRAM = """
import sys
import numpy as np
from xent_fast import softmax_cross_entropy_grad
x = np.linspace(-4, 4, 320, dtype=np.float32).reshape(32, 10)
y = np.arange(32) % 10
for _ in range(int(sys.argv[1])):
    softmax_cross_entropy_grad(x, y, out=x)
"""
FEW_CALLS, MANY_CALLS = 500, 2500

Counts = dict[str, float]


# --- counting -------------------------------------------------------------------------------------


def build_driver(program: Path, isas: Iterable[str], flags: list[str]) -> Path:
    """With kernels as the package has them, or by further flags."""
    source = DRIVER / "driver.c"
    if not flags:
        return build_over_shipped_kernels(program, source)
    wanted = set(isas).__contains__
    return build_over_kernels(program, [source], compiler(), [*FLAGS, *flags], wanted=wanted)


def count_instructions(command: list[str | Path], only_in: str | None = None, **options) -> int:
    """Instructions executed, or those of one function and what it calls."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    if only_in:
        valgrind.append(f"--toggle-collect={only_in}")
    output = run([*valgrind, *command], stderr=subprocess.STDOUT, **options)
    count = int(re.search(r"Collected : (\d+)", output)[1])
    if count == 0:
        raise SystemExit(f"nothing was counted in {only_in}")
    return count


def count_kernels(driver: Path, isas: Iterable[str]) -> dict[str, Counts]:
    """Instructions a logit by ISA and cell."""

    def count_cell(wanted: tuple[str, str]) -> float:
        isa, cell = wanted
        words = CELLS[cell].split()
        count = count_instructions([driver, isa, *words], only_in="compute_batch")
        return round(count / (int(words[-2]) * int(words[-1])), 3)

    isas = list(isas)
    every = [(isa, cell) for isa in isas for cell in CELLS]
    counts = dict(zip(every, in_parallel(count_cell, every), strict=True))
    return {isa: {cell: counts[isa, cell] for cell in CELLS} for isa in isas}


def count_call() -> Counts:
    """Instructions a call, whatever starting Python costs."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "XENT_FAST_ISA": ISAS[0],
    }
    few, many = in_parallel(
        lambda calls: count_instructions(
            [sys.executable, "-c", CALL_PROGRAM, str(calls)], env=environment
        ),
        (FEW_CALLS, MANY_CALLS),
    )
    return {CALL: round((many - few) / (MANY_CALLS - FEW_CALLS))}


# --- what counts depend on ------------------------------------------------------------------------


def major_and_minor(version: str) -> str:
    return ".".join(re.findall(r"\d+", version)[:2])


def compiler_name() -> str:
    source = "__clang__ __VERSION__\n"
    words = run([*compiler(), "-E", "-P", "-x", "c", "-"], input=source).split(maxsplit=1)
    family = "GCC" if words[0] == "__clang__" else "Clang"
    return f"{family} {major_and_minor(words[1])}"


def caller_name() -> str:
    from xent_fast import show_config

    return (
        f"{platform.python_implementation()} {major_and_minor(platform.python_version())}, "
        f"NumPy {major_and_minor(importlib.metadata.version('numpy'))}, "
        f"{show_config('dicts')['compiler']}"
    )


def require_tools(driver: Path) -> None:
    supported = run(["valgrind", "-q", "--tool=none", driver]).split()
    missing = [isa for isa in ISAS if isa not in supported]
    if missing:
        raise SystemExit(f"this processor does not run {', '.join(missing)}")


# --- the comparison -------------------------------------------------------------------------------


def compare(name: str, counts: Counts, recorded: Counts | None, margin: float) -> list[bool]:
    """Print each count beside its record; whether each is within the margin."""
    verdicts = []
    for cell, count in counts.items():
        wanted = (recorded or {}).get(cell)
        if wanted is None:
            print(f"FAILED  {name}: {cell}: {count:g} is not in the record")
            verdicts.append(False)
            continue
        change = count / wanted - 1
        verdicts.append(change <= margin)
        verdict = "ok      " if verdicts[-1] else "FAILED  "
        hint = "; renew the record with --update" if change < -margin else ""
        print(f"{verdict}{name}: {cell}: {count:g}, recorded {wanted:g} ({change:+.1%}{hint})")
    return verdicts


def comparable(record: dict[str, dict], name: str, what: str) -> tuple[dict, float]:
    """The counts to compare with, and the margin they leave."""
    if name in record:
        print(f"{what}: {name}, in the record; at most {MARGIN:.0%} more")
        return record[name], MARGIN
    if not record:
        raise SystemExit(f"{RECORD.name} has no {what}; make one with --update")
    first = next(iter(record))
    margin = MARGIN_OF_ANOTHER_COMPILER
    print(f"{what}: {name}, not in the record; compared with {first}; at most {margin:.0%} more")
    return record[first], margin


def compare_kernels(counts: dict[str, Counts], recorded: dict, margin: float) -> list[bool]:
    return [
        verdict
        for isa in counts
        for verdict in compare(isa, counts[isa], recorded.get(isa), margin)
    ]


def notices_slower_code(slower_counts: Counts, recorded: Counts, margin: float) -> bool:
    """Whether the comparison can fail: most counts of poorer machine code are too high."""
    too_high = sum(
        count > (1 + margin) * recorded.get(cell, math.inf) for cell, count in slower_counts.items()
    )
    noticed = too_high > len(slower_counts) / 2
    verdict = "ok      " if noticed else "FAILED  "
    print(f"{verdict}compiled with {SLOWER_FLAG}, {too_high} of {len(slower_counts)} would fail")
    return noticed


# --- the command ----------------------------------------------------------------------------------


def read_record() -> dict[str, dict]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {"kernels": {}, "calls": {}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="renew the record")
    parser.add_argument("--cflags", default="", help="further flags of the compiler")
    parser.add_argument("--kernels-only", action="store_true", help="leave the Python call out")


def check(options: argparse.Namespace) -> Outcome:
    if options.update and (options.cflags or options.kernels_only):
        raise SystemExit("the record is of everything, and of the flags that releases have")
    if not shutil.which("valgrind"):
        raise SystemExit("valgrind is not installed")
    with tempfile.TemporaryDirectory() as directory:
        verdicts = count_and_judge(options, Path(directory))
    return Outcome({}, sum(verdicts), len(verdicts) - sum(verdicts))


def count_and_judge(options: argparse.Namespace, directory: Path) -> list[bool]:
    driver = build_driver(directory / "driver", ISAS, options.cflags.split())
    require_tools(driver)
    counts = count_kernels(driver, ISAS)
    call_counts = {} if options.kernels_only else count_call()

    record = read_record()
    name = compiler_name()
    if options.update:
        record["kernels"][name] = counts
        record["calls"][caller_name()] = call_counts
        RECORD.write_text(json.dumps(record, indent=2) + "\n")

    recorded, margin = comparable(record["kernels"], name, "kernels")
    verdicts = compare_kernels(counts, recorded, margin)
    if not options.cflags:
        isa = ISAS[-1]
        slower = build_driver(directory / "slower", [isa], [SLOWER_FLAG])
        slower_counts = count_kernels(slower, [isa])[isa]
        verdicts.append(notices_slower_code(slower_counts, recorded[isa], margin))
    if call_counts:
        print(f"calls: package in {Path(importlib.util.find_spec('xent_fast').origin).parent}")
        recorded_calls, margin = comparable(record["calls"], caller_name(), "calls")
        verdicts += compare("call", call_counts, recorded_calls, margin)
    return verdicts
