"""The digests in the repository: one text file for each family of instruction sets that agree.

A line is one function with a kind of targets and its options, and the digests of its numbers of
classes in the order of the cases, 16 bits each. Every layout must give the digest of contiguous
rows:

    float32 softmax_cross_entropy_grad, index, every: 2a4c 03f1 77b0

Knows the files' form. Must not know what is digested.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from xent_fast._bits.cases import CONTIGUOUS, Case
from xent_fast._bits.functions import DTYPES

HERE = Path(__file__).parent
Record = dict[str, list[str]]


def path_of(isa: str) -> Path:
    """Every instruction set but the portable one has fused multiply-add, and the same bits."""
    return HERE / ("portable.txt" if isa == "portable" else "fma.txt")


def read(isa: str) -> Record:
    """Digests by line, in the order of its cases."""
    lines = path_of(isa).read_text(encoding="utf-8").splitlines()
    parts = (line.rpartition(": ") for line in lines)
    return {name: digests.split() for name, _, digests in parts}


def write(isa: str, results: Iterable[tuple[Case, str]]) -> None:
    """Make these the record of an instruction set and of those that share its bits."""
    record: Record = {}
    for case, digest in results:
        if case.layout == CONTIGUOUS:
            record.setdefault(case.line, []).append(digest)
    text = "".join(f"{name}: {' '.join(digests)}\n" for name, digests in record.items())
    path_of(isa).write_text(text, encoding="utf-8")


def differences(isa: str, results: Iterable[tuple[Case, str | None]]) -> list[str]:
    """What is not as recorded: each such case by name, and lines of the record without a case.

    A case without a digest was not computed. Lines of a dtype that is not here count for nothing.
    """
    here = {np.dtype(dtype).name for dtype in DTYPES}
    unused = {name: all for name, all in read(isa).items() if name.split()[0] in here}
    different, want = [], ""
    for case, digest in results:
        if case.layout == CONTIGUOUS:  # the other layouts of its rows follow
            recorded = unused.get(case.line) or ["nothing"]
            want = recorded.pop(0)
        if digest not in (want, None):
            different.append(f"{case.name}: {digest}, recorded {want}")
    return different + [f"{name}: recorded without a case" for name, left in unused.items() if left]
