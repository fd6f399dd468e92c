"""Whether the installed package gives the bits that are kept in the repository.

A machine that passes computes the same bits as every other that does. The cases are those of
src/xent_fast/_bits/cases.py; fma.txt beside it has a digest of each for the instruction sets with
fused multiply-add, portable.txt for the portable path. --update renews those of the checkout, by
the package that is installed. Each case runs in several circumstances: numbers of threads, in place
or not. --quick takes the first instruction set of this machine alone: tests/test_digests.py has
every set, without circumstances.

Needs nothing but the package in the active Python.

Knows: the record. Must not know: what a case is made of.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from checking import ROOT, Outcome

from xent_fast import _bits
from xent_fast._binding import instruction_sets

INSTALLED = Path(_bits.__file__).parent
CHECKOUT = ROOT / "src" / "xent_fast" / "_bits"


def faults_of(isa: str) -> tuple[int, list[str]]:
    """How many cases there are, and what is wrong with the bits of one instruction set."""
    results, faults = [], []
    for case in _bits.all_cases():
        got = _bits.digest_of(case)
        results.append((case, got))
        shows = _bits.circumstances_that_show(case, got)
        faults += [f"{case.name}: other bits with {it}" for it in shows]
    return len(results), _bits.differences(isa, results) + faults


def update(isas: tuple[str, ...]) -> None:
    for isa in isas:
        instruction_sets.use_isa(isa)
        _bits.write(isa, ((case, _bits.digest_of(case)) for case in _bits.all_cases()))
    if INSTALLED.resolve() != CHECKOUT:
        for record in INSTALLED.glob("*.txt"):
            shutil.copy(record, CHECKOUT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="renew the record")


def check(options: argparse.Namespace) -> Outcome:
    isas = instruction_sets.available_isas()
    if options.update:  # sets that share a record are compared with what the last one wrote
        update(isas)
    isas = isas[:1] if options.quick else isas
    figures: dict[str, int | str] = {"instruction sets": ", ".join(isas), "runs": 0}
    different = right = 0
    for isa in isas:
        instruction_sets.use_isa(isa)
        count, faults = faults_of(isa)
        runs = count * (1 + len(_bits.CIRCUMSTANCES))
        figures |= {"runs": figures["runs"] + runs, "cases": count}
        print(f"{'FAILED' if faults else 'ok    '} {isa}: {count} cases, {len(faults)} differ")
        print(*faults[:10], sep="\n", end="\n" * bool(faults))
        different += len(faults)
        right += not faults
    return Outcome(figures | {"different": different}, right, len(isas) - right)
