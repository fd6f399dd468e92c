"""What the programs of the checks share: their outcome, commands, C programs over the kernels.

Knows: where the kernels lie, how compilers are called. Must not know: any check.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "src" / "xent_fast" / "kernels"
ARM_COMPILER = "aarch64-linux-gnu-gcc"
# Flags of the programs that run the kernels as they are.
STRICT = ["-O2", "-Wall", "-Wextra", "-Werror", "-static"]
# Every function of the kernels compiled once: under sanitizers in a tenth of the time, to the same
# bits, and each counted apart.
NOT_INLINED = "-DALWAYS_INLINE=__attribute__((noinline))"
# A call that breaks the kernels' contract ends the program.
ASSERTS = "-DXENT_CHECKED"


@dataclass(frozen=True)
class Outcome:
    """What a check found: figures for docs/reliability.md, and how many of its parts passed."""

    figures: Mapping[str, int | float | str]
    passed: int
    failed: int


def run(command: Iterable[object], **options: Any) -> str:
    """Standard output of a command; one that fails ends the check, with what it said."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{done.stdout}FAILED ({done.returncode}): {' '.join(words)}")
    return done.stdout


def figures_of(
    program: Path,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    prefix: Iterable[str] = (),
    seconds: float | None = None,
) -> dict[str, Any]:
    """The JSON object that a Python program prints last."""
    output = run(
        [*prefix, sys.executable, program, *arguments],
        timeout=seconds,
        env=os.environ | (environment or {}),
    )
    *said, last = output.splitlines()
    print(*said, sep="\n", end="\n" * bool(said), flush=True)
    return json.loads(last)


def in_parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def compiler() -> list[str]:
    """The C compiler of this machine, as CC says."""
    return os.environ.get("CC", "cc").split()


def runs_here(isa: str) -> bool:
    """Whether this processor runs that instruction set; one of another architecture has no code."""
    features = {"avx2": {"avx2", "fma", "f16c"}, "avx512": {"avx512f", "avx512dq", "avx512bw"}}
    processor = Path("/proc/cpuinfo")
    if isa not in features or not processor.exists():
        return True
    return features[isa] <= set(processor.read_text(encoding="utf-8").split())


def write_stand_in(source: Path) -> None:
    """Make `source`, named as a file of the kernels, an instruction set that no processor has.

    What links the kernels needs every set's table, and a set takes minutes to compile.
    """
    isa = source.stem.removeprefix("isa_")
    source.write_text(
        f'#include "{KERNELS}/isa_tables.h"\n'
        "static int never(void) { return 0; }\n"
        f'const xent_isa xent_isa_{isa} = {{.name = "{isa}", .is_supported = never}};\n',
        encoding="utf-8",
    )


def compiled(source: Path, result: Path, using: list[str], flags: Iterable[str]) -> Path:
    run([*using, "-std=c11", "-ffp-contract=off", *flags, "-c", source, "-o", result])
    return result


def build_over_kernels(
    program: Path,
    sources: Iterable[Path],
    using: list[str],
    flags: list[str],
    *,
    wanted: Callable[[str], bool] = lambda isa: True,
    flags_of: Callable[[Path], list[str]] = lambda source: [],
    link: Iterable[str] = (),
    kernels: Path = KERNELS,
) -> Path:
    """A C program of these sources and the kernels, its files compiled side by side.

    Of the instruction sets, those `wanted`; stand-ins for the others.
    """

    def compiled_part(source: Path) -> Path:
        result = program.with_name(f"{program.name}-{source.stem}.o")
        if source.stem.startswith("isa_") and not wanted(source.stem.removeprefix("isa_")):
            source = program.with_name(source.name)
            write_stand_in(source)
        return compiled(source, result, using, [*flags, *flags_of(source), f"-I{kernels}"])

    objects = in_parallel(compiled_part, [*sources, *sorted(kernels.glob("*.c"))])
    run([*using, *flags, *link, *objects, "-lm", "-o", program])
    return program


def build_over_shipped_kernels(program: Path, *sources: Path) -> Path:
    """The same of these sources and the kernels as a build of the package compiles them.

    A compiler cache that has seen the package being installed has these objects. A warning ends the
    check, but for one: at -O3 GCC suspects lanes that do not count of being uninitialized.
    """
    kernels = program.with_name(f"{program.name}-kernels")
    words = [sys.executable, "setup.py", "-q", "build_ext", f"--kernels-alone={kernels}"]
    said = run(words, cwd=ROOT, stderr=subprocess.STDOUT)
    if warnings := re.findall(r": warning: .*\[-W(?!maybe-uninitialized).*", said):
        raise SystemExit("\n".join(["the package's build warns", *sorted(set(warnings))]))
    flags = [*STRICT, "-std=c11", "-ffp-contract=off", f"-I{KERNELS}"]
    run([*compiler(), *flags, *sources, *kernels.rglob("*.o"), "-lm", "-o", program])
    return program


def with_avx512_emulated(program: Path, *arguments: object) -> str:
    """What a static program prints on an emulated processor that has AVX-512."""
    command: list[object] = [ROOT / "scripts" / "run_with_avx512_emulation.sh"]
    if shutil.which("bochs") is None and os.geteuid() == 0:
        command.append("--install")
    return run([*command, program, *arguments])
