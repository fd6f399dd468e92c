"""Same bits on every instruction set: the kernels alone, by every compiler that is here.

Builds the C driver over the kernels as the package has them, by clang and for 64-bit Arm, runs each
instruction set, and compares the digests with those kept beside it; --update renews these. Each
compiler's warnings are errors, but for one of GCC's at -O3 (scripts/checking.py). AVX-512 runs
natively where the processor has it, else under an emulator (scripts/run_with_avx512_emulation.sh
says what that needs) unless --no-emulator is given.

Needs cc, Cython and setuptools; aarch64-linux-gnu-gcc and qemu-aarch64 (Debian:
gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user).

Knows: compilers, the driver's words, the record. Must not know: what a digest is of.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from checking import (
    ARM_COMPILER,
    KERNELS,
    ROOT,
    STRICT,
    Outcome,
    build_over_kernels,
    build_over_shipped_kernels,
    compiler,
    run,
    runs_here,
    with_avx512_emulated,
)

DRIVER = ROOT / "tests" / "kernel_driver"


def record_of(isa: str) -> Path:
    """The portable path is the only one without fused multiply-add."""
    return DRIVER / f"digests-{'portable' if isa == 'portable' else 'fma'}.txt"


def built(using: list[str], program: Path, **how: Any) -> Path:
    return build_over_kernels(program, [DRIVER / "driver.c"], using, STRICT, **how)


def all_digests(directory: Path) -> dict[str, tuple[str, str]]:
    """What each build prints, and the instruction set whose record that should equal."""
    arm = built([ARM_COMPILER], directory / "arm")
    run([*compiler(), *STRICT, "-std=c11", "-fsyntax-only", *KERNELS.glob("*.c")])
    native = build_over_shipped_kernels(directory / "native", DRIVER / "driver.c")
    found = {
        "neon (under qemu)": ("neon", run(["qemu-aarch64", arm, "neon"])),
        "portable on Arm (under qemu)": ("portable", run(["qemu-aarch64", arm, "portable"])),
    }
    found |= {isa: (isa, run([native, isa])) for isa in run([native]).split()}
    if shutil.which("clang"):
        clang = built(["clang"], directory / "clang", wanted=runs_here)
        found |= {f"{isa} by clang": (isa, run([clang, isa])) for isa in run([clang]).split()}
    return found


def case_count(digests: str) -> int:
    """Lines as `float32 index: 1f2e ...`, a digest for each number of classes."""
    return digests.count(" ") - digests.count("\n")


def is_same(name: str, got: str, want: str) -> bool:
    if got == want:
        print(f"same bits: {name} ({case_count(got)} cases)", flush=True)
        return True
    differences = difflib.unified_diff(want.splitlines(), got.splitlines(), n=0, lineterm="")
    print(f"DIFFERENT: {name}", *list(differences)[:10], sep="\n", flush=True)
    return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="renew the record")
    parser.add_argument("--no-emulator", action="store_true", help="AVX-512 as it is here, or not")


def check(options: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        digests = all_digests(directory)
        if options.update:
            for isa, text in (
                digests["neon (under qemu)"],
                digests["portable on Arm (under qemu)"],
            ):
                record_of(isa).write_text(text, encoding="utf-8")
        same = {
            f"{who} and the record": is_same(
                f"{who} and the record", got, record_of(isa).read_text(encoding="utf-8")
            )
            for who, (isa, got) in digests.items()
        }
        if "avx512" not in digests and not options.no_emulator:
            # Bochs 2.7 rounds a fused multiply-add to 0 where more than 63 leading bits cancel, in
            # the scalar instructions too: the emulated AVX2 path meets the same fault.
            got, want = (
                with_avx512_emulated(directory / "native", isa) for isa in ("avx512", "avx2")
            )
            pair = "avx512 and avx2 (both emulated)"
            same[pair] = is_same(pair, got, want)
    right = sum(same.values())
    figures = {
        "compared": "; ".join(same),
        "cases in each": case_count(record_of("portable").read_text(encoding="utf-8")),
        "compared, with the same bits": right,
        "compared, with other bits": len(same) - right,
    }
    return Outcome(figures, right, len(same) - right)
