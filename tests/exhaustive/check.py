"""The kernels' exponential and logarithm at every float32 of their domains: worst error, and bits.

--quick takes every 997th number. --update renews the record of worst errors by a full run.

Builds tests/exhaustive/exhaustive.c once an instruction set and runs it on all processors. No worst
error may exceed the record, tests/exhaustive/worst.json. Sets with fused multiply-add must give the
same bits: the two of a machine, and NEON, which is judged by that alone since it runs emulated.

Needs cc and the package in the active Python (which instruction sets run here); for NEON, if they
are there, aarch64-linux-gnu-gcc and qemu-aarch64; in full, where the processor lacks AVX-512, what
scripts/run_with_avx512_emulation.sh says.

Knows: compilers, the program's words, the record. Must not know: how an error is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from checking import ARM_COMPILER, KERNELS, ROOT, Outcome, compiler, run, with_avx512_emulated

from xent_fast._binding import instruction_sets

ROOM = ROOT / "tests" / "exhaustive"
RECORD = ROOM / "worst.json"
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
TARGET_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw"],
    "neon": [],
    "portable": [],
}
FUNCTIONS = ("exp32", "exp32-offset", "exp64", "log32", "log64")
QUICK_STRIDE = 997
# Emulators run some 100 times slower than processors: they see every so manyth number.
DIGEST_STRIDE = {"neon": 997, "avx512": 49999}


@dataclass(frozen=True)
class Worst:
    """Numbers judged, worst error in ulp and where, worst error of the unrounded pair."""

    count: int
    error: float
    argument: float
    reference: float
    error_of_pair: float


def build(using: list[str], isa: str, directory: Path) -> Path:
    program = directory / f"exhaustive-{isa}"
    static = ["-static"] if isa in ("neon", "avx512") or platform.system() == "Linux" else []
    header = f'-DSIMD_HEADER="simd/{isa}.h"'
    command = [*using, *FLAGS, *TARGET_FLAGS[isa], *static, f"-I{KERNELS}", header]
    run([*command, "-o", program, ROOM / "exhaustive.c", "-lm"])
    return program


def sweep(program: Path, function: str, part: int, parts: int, stride: int) -> Worst:
    words = run([program, function, part, parts, stride]).split()
    count, numbers = int(words[1]), [float(word) for word in words[2:]]
    return Worst(count, *numbers)


def merged(several: list[Worst]) -> Worst:
    worst = max(several, key=lambda one: one.error)
    pair = max(one.error_of_pair for one in several)
    count = sum(one.count for one in several)
    return Worst(count, worst.error, worst.argument, worst.reference, pair)


def sweep_all(programs: dict[str, Path], stride: int) -> dict[tuple[str, str], Worst]:
    """Every function of every program, shared out over the processors."""
    parts = 1 if stride > 1 else 8
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = {
            (isa, function): [
                pool.submit(sweep, program, function, part, parts, stride) for part in range(parts)
            ]
            for isa, program in programs.items()
            for function in FUNCTIONS
        }
        return {key: merged([one.result() for one in several]) for key, several in waiting.items()}


def family(isa: str) -> str:
    return "portable" if isa == "portable" else "fma"


def check_errors(found: dict[tuple[str, str], Worst]) -> list[str]:
    """What is worse than the record."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    faults = []
    for (isa, function), worst in found.items():
        allowed, allowed_of_pair = record[family(isa)][function]
        is_good = worst.error <= allowed and worst.error_of_pair <= allowed_of_pair
        print(
            f"{'ok    ' if is_good else 'FAILED'} {isa} {function}: {worst.count:,} numbers, worst "
            f"{worst.error:.4f} ulp at {worst.argument:.9g} (reference {worst.reference:.0f}), "
            f"recorded {allowed}; unrounded {worst.error_of_pair:.4f}, recorded {allowed_of_pair}"
        )
        if not is_good:
            faults.append(f"{isa} {function}")
    return faults


def update_record(found: dict[tuple[str, str], Worst]) -> None:
    """The worst errors, rounded up; of sets that agree in every bit the last one's."""
    record: dict[str, dict[str, list[float]]] = {}
    for (isa, function), worst in found.items():
        errors = [math.ceil(error * 1000) / 1000 for error in (worst.error, worst.error_of_pair)]
        record.setdefault(family(isa), {})[function] = errors
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_digests(native: dict[str, Path], emulate: bool, directory: Path) -> dict[str, bool]:
    """Whether the bits of each pair of sets with fused multiply-add are the same."""
    same = {}
    fma = [isa for isa in native if isa != "portable"]
    stride = DIGEST_STRIDE["neon"]
    for isa in fma[1:]:
        got, want = (run([native[name], "digest", stride]) for name in (isa, fma[0]))
        same[f"{isa} and {fma[0]}"] = got == want
    if fma and "neon" not in fma and shutil.which(ARM_COMPILER) and shutil.which("qemu-aarch64"):
        program = build([ARM_COMPILER], "neon", directory)
        got = run(["qemu-aarch64", program, "digest", stride])
        same[f"neon (emulated) and {fma[0]}"] = got == run([native[fma[0]], "digest", stride])
    if emulate and "avx512" not in native:
        # The emulator rounds some fused multiply-adds wrongly, in every instruction set alike: see
        # tests/kernel_driver/instruction_sets.py.
        stride = DIGEST_STRIDE["avx512"]
        got, want = (
            with_avx512_emulated(build(["cc"], isa, directory), "digest", stride)
            for isa in ("avx512", "avx2")
        )
        same["avx512 and avx2 (both emulated)"] = got == want
    for name, is_same in same.items():
        print(f"{'ok    ' if is_same else 'FAILED'} same bits: {name}")
    return same


def figures_of(
    found: dict[tuple[str, str], Worst], same: dict[str, bool]
) -> dict[str, int | float | str]:
    figures: dict[str, int | float | str] = {
        "numbers judged": sum(worst.count for worst in found.values())
    }
    for (isa, function), worst in found.items():
        figures[f"{function}, {isa}: numbers"] = worst.count
        figures[f"{function}, {isa}: worst error in ulp"] = worst.error
        place = f"{worst.argument:.9g}"
        figures[f"{function}, {isa}: at"] = (
            place if worst.reference == 0 else f"{place} relative to 2^{worst.reference:.0f}"
        )
    for name, is_same in same.items():
        figures[f"bits of {name}"] = "same" if is_same else "different"
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="renew the record")


def check(options: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        native = {
            isa: build(compiler(), isa, directory) for isa in instruction_sets.available_isas()
        }
        found = sweep_all(native, QUICK_STRIDE if options.quick else 1)
        same = check_digests(native, not options.quick, directory)
    if options.update:
        update_record(found)
    faults = check_errors(found) + [name for name, is_same in same.items() if not is_same]
    checks = len(found) + len(same)
    return Outcome(figures_of(found, same), checks - len(faults), len(faults))
